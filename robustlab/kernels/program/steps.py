"""What happens to the values of a node, one step after the other, every step rounded once to float32.

After a convolution the value v is the int32 accumulator until `Scale`; in a map or a pool it is float32 from the start.
Vectors hold one number per channel of the node and are copied. Store steps make a new value and leave v as it is.
NaN: stays NaN in float steps; its sign is +1, and its code that of 0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from robustlab.core.errors import check_int, invalid
from robustlab.kernels.spec import ActivationSpec, shown


def vector(argument: str, value: object, dtype: torch.dtype = torch.float32) -> Tensor:
    """A private copy of a non-empty 1-D CPU tensor; `ArgumentError` for anything else."""
    if not isinstance(value, Tensor) or value.dtype != dtype or value.ndim != 1 or not value.is_cpu or not len(value):
        raise invalid(argument, shown(value), f"a non-empty 1-D {dtype} tensor on the cpu")
    return value.detach().clone(memory_format=torch.contiguous_format)


def float32(argument: str, value: object) -> float:
    """A number, rounded to float32; `ArgumentError` for NaN, and for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise invalid(argument, value, "a number")
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else -float("inf")


class Step:
    """Base of all steps."""


@dataclass(frozen=True, eq=False)
class PerChannel(Step):
    """A step with one float32 number `a` per channel, (C,)."""

    a: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", vector("a", self.a))


class Scale(PerChannel):
    """v = fl(float32(v) * a): ends the int32 stage of a convolution."""


class Mul(PerChannel):
    """v = v * a."""


class Add(PerChannel):
    """v = v + a."""


class Sub(PerChannel):
    """v = v - a."""


class Div(PerChannel):
    """v = v / a, a true division."""


class Prelu(PerChannel):
    """v = v where v > 0, else a * v."""


@dataclass(frozen=True)
class OneNumber(Step):
    """A step with one number, rounded to float32."""

    number: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", float32("number", self.number))


class MulAll(OneNumber):
    """v = v * number."""


class AddAll(OneNumber):
    """v = v + number."""


class DivAll(OneNumber):
    """v = v / number, a true division."""


@dataclass(frozen=True)
class MulImage(Step):
    """v = v * s[n], one factor for each image; `scalar` is the handle of a `scalar_input`."""

    scalar: int

    def __post_init__(self) -> None:
        check_int("scalar", self.scalar, 0)


@dataclass(frozen=True, eq=False)
class MulPixel(Step):
    """v = v * table[y, x], one factor for each output pixel; `table` is float32 (H * W,) or (H, W)."""

    table: Tensor

    def __post_init__(self) -> None:
        flat = self.table.flatten() if isinstance(self.table, Tensor) else self.table
        object.__setattr__(self, "table", vector("table", flat))


@dataclass(frozen=True)
class AddValue(Step):
    """v = v + another value of the same shape: a float value, -1/+1 of signs, or code - zero_point of codes."""

    value: int

    def __post_init__(self) -> None:
        check_int("value", self.value, 0)


@dataclass(frozen=True)
class Relu(Step):
    """v = max(v, 0)."""


@dataclass(frozen=True)
class Clamp(Step):
    """v = min(max(v, low), high)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", float32("low", self.low))
        object.__setattr__(self, "high", float32("high", self.high))
        if self.low > self.high:
            raise invalid("high", self.high, f"a number >= low, which is {self.low:g}")


@dataclass(frozen=True)
class StoreInt(Step):
    """Make an int32 value of the accumulator; before `Scale` only."""


@dataclass(frozen=True, eq=False)
class StoreBelow(Step):
    """Make signs of the accumulator: -1 where (v < threshold) differs from flip; before `Scale` only.

    threshold is int32 (C,), flip is bool (C,).
    """

    threshold: Tensor
    flip: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", vector("threshold", self.threshold, torch.int32))
        object.__setattr__(self, "flip", vector("flip", self.flip, torch.bool))
        if len(self.flip) != len(self.threshold):
            raise invalid("flip", shown(self.flip), f"as many as the {len(self.threshold)} thresholds")


@dataclass(frozen=True)
class Store(Step):
    """Make a float value of v."""


@dataclass(frozen=True)
class StoreSigns(Step):
    """Make signs of v: -1 where v < 0, else +1."""


@dataclass(frozen=True)
class StoreCodes(Step):
    """Make codes of v."""

    spec: ActivationSpec

    def __post_init__(self) -> None:
        if not isinstance(self.spec, ActivationSpec):
            raise invalid("spec", type(self.spec).__name__, "an ActivationSpec")


INTEGER_STEPS = (StoreInt, StoreBelow)
"""Steps that need the int32 accumulator."""

STORES = (StoreInt, StoreBelow, Store, StoreSigns, StoreCodes)
"""Steps that make a value."""
