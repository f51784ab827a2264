"""What the rules of recognition ask about a node: its shape, its constants, the module it calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from robustlab.deploy.graph.observing import Seen, attribute
from robustlab.deploy.graph.operations import Pair
from robustlab.deploy.graph.tracing import Traced


class Declined(Exception):
    """A node stays in torch; the text says why."""


@dataclass(frozen=True)
class View:
    """A traced graph with what its example run found."""

    traced: Traced
    seen: dict[fx.Node, Seen]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a value that is float32 images (N, C, H, W) or rows (N, C). Raises `Declined` for any other."""
        seen = self.seen.get(node)
        if seen is None or not seen.floats or len(seen.shape) not in (2, 4) or 0 in seen.shape:
            raise Declined("its values are no float32 images or rows")
        return seen.shape

    def channels(self, node: fx.Node) -> int:
        """C of such a value."""
        return self.shape(node)[1]

    def constant(self, value: Any) -> Tensor | None:
        """The float32 tensor of the model that a node fetches, None for anything else."""
        if not isinstance(value, fx.Node) or value.op != "get_attr":
            return None
        tensor = attribute(self.traced.root, str(value.target))
        fits = isinstance(tensor, Tensor) and tensor.dtype == torch.float32 and tensor.is_cpu
        return tensor.detach() if fits else None

    def per_channel(self, constant: Tensor, x: fx.Node) -> Tensor:
        """A constant that is one number, or one for each channel of `x`, as a vector (C,)."""
        shape = self.shape(x)
        return channel_vector(constant, shape[1], len(shape))


def channel_vector(constant: Tensor, channels: int, dimensions: int) -> Tensor:
    """(C,), without a copy where possible. Raises `Declined` unless `constant` broadcasts along channels alone."""
    constant = constant.detach()
    if constant.numel() == 1 and constant.ndim <= dimensions:
        return constant.reshape(1).expand(channels).contiguous()
    shape = (1,) * (dimensions - constant.ndim) + tuple(constant.shape)
    if shape != (1, channels, 1, 1)[:dimensions]:
        raise Declined("its constant is not one number for each channel")
    return constant.reshape(-1).contiguous()


def node_of(value: Any) -> fx.Node:
    """An argument that must be a value of the graph. Raises `Declined`."""
    if not isinstance(value, fx.Node):
        raise Declined("its operand is not computed")
    return value


def pair(value: Any) -> Pair:
    """A size of torch's, one number or two, as (vertical, horizontal)."""
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(numbers) == 1:
        numbers = numbers * 2
    if len(numbers) != 2 or not all(type(number) is int for number in numbers):
        raise Declined("its sizes are computed")
    return numbers[0], numbers[1]


def float32(number: float) -> float:
    """The number as torch rounds it before it meets a float32 tensor."""
    return float(torch.tensor(float(number), dtype=torch.float32))
