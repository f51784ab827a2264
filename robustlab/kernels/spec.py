"""What a kernel is asked to do: geometry of a convolution and the uniform quantizer of its activations."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from torch import Tensor

from robustlab.core.errors import check_choice, check_int, check_number, invalid

PADDING_VALUES = ("zero", "one", "neg_one")
"""What an out-of-image tap contributes: 0 (PyTorch's zero padding), +1 or -1 (the last two for binary layers only)."""

_MOST = 1 << 20  # of a stride, padding or dilation: products of sizes stay far from 64 bits


def shown(value: object) -> str:
    """What an error message says about a value that should be a tensor."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"


def check_zero_point(argument: str, value: object, low: float, high: float) -> float:
    """The zero point as a float; `ArgumentError` unless it is a multiple of 0.5 in [low, high]."""
    number = check_number(argument, value, low, high)
    if number * 2 % 1:
        raise invalid(argument, value, f"a multiple of 0.5 in [{low:g}, {high:g}]")
    return number


def plain_zero_point(zero_point: float) -> float:
    """The same number, as an int where it is whole: that is how files and fingerprints show it."""
    return int(zero_point) if zero_point == int(zero_point) else zero_point


def zero_point_unit(zero_point: float) -> int:
    """2 for a half-integer zero point, else 1: `unit * (code - zero_point)` is a whole number."""
    return 1 if zero_point == int(zero_point) else 2


def _check_pair(argument: str, value: object, low: int) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise invalid(argument, value, f"a pair of whole numbers >= {low}")
    for item in value:
        check_int(argument, item, low, _MOST)


@dataclass(frozen=True)
class ConvGeometry:
    """Stride, padding and dilation as (vertical, horizontal) pairs, the groups, and the value of padded taps.

    Raises `ArgumentError` for a stride or dilation below 1, a negative padding, any of them above 2^20, or an unknown
    padding value.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_value: str = "zero"

    def __post_init__(self) -> None:
        _check_pair("stride", self.stride, 1)
        _check_pair("padding", self.padding, 0)
        _check_pair("dilation", self.dilation, 1)
        check_int("groups", self.groups, 1)
        check_choice("padding_value", self.padding_value, PADDING_VALUES)

    def output_size(self, image: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output; `ArgumentError` if the kernel does not fit into the padded image."""
        height, width = (
            output_length(size, taps, self.stride[axis], self.padding[axis], self.dilation[axis])
            for axis, (size, taps) in enumerate(zip(image, kernel, strict=True))
        )
        return height, width


def output_length(size: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    """Output length of a convolution along one axis; `ArgumentError` if it would be below 1."""
    extent = dilation * (taps - 1) + 1
    if size + 2 * padding < extent:
        raise invalid("x", f"an image of {size} pixels along an axis", f"at least {extent - 2 * padding} pixels")
    return (size + 2 * padding - extent) // stride + 1


@dataclass(frozen=True)
class ActivationSpec:
    """Uniform unsigned quantizer with one true float32 division; NaN counts as x = 0.

    Whole zero point:  code = clamp(rint(x / scale) + zero_point, 0, 2^bits - 1)
    half-integer:      code = clamp(floor(x / scale) + zero_point + 1/2, 0, 2^bits - 1)

    A code is worth (code - zero_point) steps, the level nearest to x. `scale` is rounded to float32. Raises
    `ArgumentError` for a scale that is not a positive finite float32, bits outside 1..8 or a zero point that is not a
    multiple of 0.5 in 0..2^bits - 1.
    """

    scale: float
    zero_point: float
    bits: int

    def __post_init__(self) -> None:
        check_int("bits", self.bits, 1, 8)
        zero_point = check_zero_point("zero_point", self.zero_point, 0, 2**self.bits - 1)
        object.__setattr__(self, "zero_point", plain_zero_point(zero_point))
        scale = check_number("scale", self.scale, 0, 3.4028234663852886e38, open_low=True)
        rounded = struct.unpack("f", struct.pack("f", scale))[0]
        if rounded == 0:
            raise invalid("scale", self.scale, "a number that is positive in float32")
        object.__setattr__(self, "scale", rounded)

    @property
    def unit(self) -> int:
        """1, or 2 for a half-integer zero point: accumulators count `unit * (code - zero_point)`."""
        return zero_point_unit(self.zero_point)

    @property
    def doubled_zero(self) -> int:
        """2 * zero_point."""
        return int(2 * self.zero_point)

    @property
    def largest(self) -> int:
        """Largest magnitude of `unit * (code - zero_point)`."""
        return int(self.unit * max(self.zero_point, (1 << self.bits) - 1 - self.zero_point))


def weight_limits(bits: int, zero_point: float = 0) -> tuple[int, int]:
    """Smallest and largest weight code: symmetric, or all of two's complement where the zero point is not 0."""
    half = 1 << (bits - 1)
    if zero_point:
        return -half, half - 1
    return -max(1, half - 1), max(1, half - 1)


def check_weight_zero_point(bits: int, zero_point: object) -> float:
    """The zero point of weight codes; `ArgumentError` unless it is a multiple of 0.5 among them, or 0 at one bit."""
    half = 1 << (bits - 1)
    low, high = (0, 0) if bits == 1 else (-half, half - 1)
    return plain_zero_point(check_zero_point("weight zero_point", zero_point, low, high))


def largest_weight(bits: int, zero_point: float = 0) -> int:
    """Largest magnitude of a weight, `unit * (code - zero_point)` with a unit of 2 for a half-integer zero point."""
    low, high = weight_limits(bits, zero_point)
    return int(zero_point_unit(zero_point) * max(zero_point - low, high - zero_point))


def check_accumulator(taps: int, activation: int, weight: int) -> None:
    """Raise `ArgumentError` if a sum of `taps` products of these magnitudes may leave the 32-bit accumulator.

    Magnitudes count in units: see `ActivationSpec.largest` and `largest_weight`.
    """
    if taps * activation * weight >= 2**31:
        raise invalid(
            "weight",
            f"{taps} weights per output of magnitude {weight} times activations of magnitude {activation}",
            "a product below 2^31",
        )
