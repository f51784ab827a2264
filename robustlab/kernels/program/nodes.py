"""Values and nodes of a program. Values are identified by their index in `Program.values`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustlab.core.errors import check_choice, check_int, invalid
from robustlab.kernels.prepack import PackedWeight
from robustlab.kernels.program.steps import Step
from robustlab.kernels.spec import ActivationSpec, ConvGeometry

KINDS = ("float", "signs", "codes", "int")
"""What a value holds: float32, -1/+1, codes of an `ActivationSpec`, or int32 accumulators (for the caller only)."""

POOLS = ("max", "sum")

MOST_TAPS = 4096
"""Most pixels of a pooling window."""

_MOST = 2**31 - 1


@dataclass(frozen=True)
class Value:
    """One image of every sample: (N, channels, height, width) of a kind, with `spec` where the kind is ``codes``.

    Raises `ArgumentError` for an unknown kind, sizes below 1 or 2^31 and more numbers in an image.
    """

    kind: str
    channels: int
    height: int
    width: int
    spec: ActivationSpec | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        for name in ("channels", "height", "width"):
            check_int(name, getattr(self, name), 1, _MOST)
        if self.channels * self.height * self.width > _MOST:
            raise invalid("size", self.shape, "fewer than 2^31 numbers in an image")
        if (self.spec is None) == (self.kind == "codes"):
            raise invalid("spec", self.spec, "an ActivationSpec for codes, None for other kinds")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width


@dataclass(frozen=True, eq=False)
class Pack:
    """Signs of an input: -1 where x < thresholds[c] (0 where None)."""

    value: int
    thresholds: Tensor | None
    results: tuple[int]


@dataclass(frozen=True, eq=False)
class Quantize:
    """Codes of an input: of x, or (x - sub[c]) / div[c] with both rounded; each may be None."""

    value: int
    spec: ActivationSpec
    sub: Tensor | None
    div: Tensor | None
    results: tuple[int]


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution of signs or codes; steps start from its accumulator, as `quant_conv2d_acc` defines it."""

    value: int
    weight: PackedWeight
    geometry: ConvGeometry
    steps: tuple[Step, ...]
    results: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Map:
    """Steps that start from the float form of a value: -1/+1 of signs, code - zero_point of codes."""

    value: int
    steps: tuple[Step, ...]
    results: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pool:
    """Steps that start from the largest or the summed float form of every window.

    Sums add row by row from the first pixel on. NaN is the largest of all; padding (``max`` only) never is.
    """

    value: int
    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    steps: tuple[Step, ...]
    results: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Concat:
    """Values of one kind, channel after channel."""

    values: tuple[int, ...]
    results: tuple[int]


@dataclass(frozen=True, eq=False)
class Subsample:
    """x[:, :, ::stride, ::stride] of a float value, with `front` and `back` channels of zeros around it."""

    value: int
    stride: tuple[int, int]
    front: int
    back: int
    results: tuple[int]


Node = Pack | Quantize | Conv | Map | Pool | Concat | Subsample
