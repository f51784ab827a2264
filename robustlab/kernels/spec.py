"""What a kernel is asked to do: geometry of a convolution and the uniform quantizer of its activations."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from torch import Tensor

from robustlab.core.errors import check_choice, check_int, check_number, invalid

PADDING_VALUES = ("zero", "one", "neg_one")
"""What an out-of-image tap contributes: 0 (PyTorch's zero padding), +1 or -1 (the last two for binary layers only)."""


def shown(value: object) -> str:
    """What an error message says about a value that should be a tensor."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"


def _check_pair(argument: str, value: object, low: int) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise invalid(argument, value, f"a pair of whole numbers >= {low}")
    for item in value:
        check_int(argument, item, low, 2**31 - 1)


@dataclass(frozen=True)
class ConvGeometry:
    """Stride, padding and dilation as (vertical, horizontal) pairs, the groups, and the value of padded taps.

    Raises `ArgumentError` for a stride or dilation below 1, a negative padding or an unknown padding value.
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
    """Uniform unsigned quantizer: code = clamp(rint(x / scale) + zero_point, 0, 2^bits - 1), NaN -> zero_point.

    `scale` is rounded to float32, because the division is a float32 division. Raises `ArgumentError` for a scale that
    is not a positive finite float32, bits outside 1..8 or a zero point outside 0..2^bits - 1.
    """

    scale: float
    zero_point: int
    bits: int

    def __post_init__(self) -> None:
        check_int("bits", self.bits, 1, 8)
        check_int("zero_point", self.zero_point, 0, 2**self.bits - 1)
        scale = check_number("scale", self.scale, 0, 3.4028234663852886e38, open_low=True)
        rounded = struct.unpack("f", struct.pack("f", scale))[0]
        if rounded == 0:
            raise invalid("scale", self.scale, "a number that is positive in float32")
        object.__setattr__(self, "scale", rounded)

    @property
    def largest(self) -> int:
        """Largest magnitude of `code - zero_point`."""
        return max(self.zero_point, (1 << self.bits) - 1 - self.zero_point)


def check_accumulator(taps: int, activation: int, weight: int) -> None:
    """Raise `ArgumentError` if a sum of `taps` products of these magnitudes may leave the 32-bit accumulator."""
    if taps * activation * weight >= 2**31:
        raise invalid(
            "weight",
            f"{taps} weights per output of magnitude {weight} times activations of magnitude {activation}",
            "a product below 2^31",
        )
