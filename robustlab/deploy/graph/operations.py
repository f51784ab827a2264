"""The operations that can be fused, as the lowering sees them: what they read, and what they do to it.

Values are images (N, C, H, W) or rows (N, C), which count as images of one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from robustlab.deploy.packed import PackedLayer
from robustlab.kernels.program import Step

Pair = tuple[int, int]


@dataclass(frozen=True)
class Conv:
    """A packed convolution or linear layer."""

    source: fx.Node
    layer: PackedLayer


@dataclass(frozen=True)
class Pointwise:
    """Steps on every number; none at all where a node only renames its operand."""

    source: fx.Node
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Sum:
    """The sum of two values of one shape."""

    left: fx.Node
    right: fx.Node


@dataclass(frozen=True)
class Pool:
    """Windows of ``max`` or ``sum``, then steps."""

    source: fx.Node
    kind: str
    kernel: Pair
    stride: Pair
    padding: Pair
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Concat:
    """Channels one after the other."""

    parts: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Subsample:
    """Every `stride`-th pixel, zero channels in front and behind."""

    source: fx.Node
    stride: int
    front: int
    back: int


Operation = Conv | Pointwise | Sum | Pool | Concat | Subsample


def sources(operation: Operation) -> tuple[fx.Node, ...]:
    """The values an operation reads, in the order of its operands."""
    if isinstance(operation, Sum):
        return operation.left, operation.right
    if isinstance(operation, Concat):
        return operation.parts
    return (operation.source,)
