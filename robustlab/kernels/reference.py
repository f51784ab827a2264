"""The kernels in plain torch: the definition every native kernel must equal bit for bit.

A convolution of integer codes is exact in float32 while every partial sum stays below 2^24, whatever the order of
additions; beyond that it is done in float64. Scale and bias stay outside, as two separate float32 roundings.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.kernels.prepack import WeightForm, unpack_data
from robustlab.kernels.spec import ActivationSpec, ConvGeometry, largest_weight, zero_point_unit


def signs(x: Tensor) -> Tensor:
    """-1 where x < 0, else +1 (so +0, -0 and NaN give +1), float32."""
    return 1 - 2 * (x < 0).to(torch.float32)


def quantize(x: Tensor, activation: ActivationSpec) -> Tensor:
    """code - zero_point as float32, see `ActivationSpec`; NaN counts as x = 0."""
    steps = x / torch.tensor(activation.scale, dtype=torch.float32)
    half = 0.5 if activation.unit == 2 else 0.0
    steps = torch.floor(steps) if half else torch.round(steps)
    low, high = -activation.zero_point - half, 2**activation.bits - 1 - activation.zero_point - half
    return torch.where(steps.isnan(), 0.0, steps).clamp(low, high) + half


def _exact_dtype(bound: int) -> torch.dtype:
    lossless = torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if bound < 2**24 and lossless else torch.float64


def _convolve(values: Tensor, codes: Tensor, bound: int, geometry: ConvGeometry, fill: float) -> Tensor:
    dtype = _exact_dtype(bound)
    (rows, columns) = geometry.padding
    padded = F.pad(values, (columns, columns, rows, rows), value=fill).to(dtype)
    with torch.autocast("cpu", enabled=False):
        acc = F.conv2d(
            padded, codes.to(dtype), stride=geometry.stride, dilation=geometry.dilation, groups=geometry.groups
        )
    # torch may answer in channels-last memory, on which a mean that follows would add in another order
    return acc.to(torch.int32).contiguous()


def affine(acc: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """fl(fl(acc * scale[o]) + bias[o]) for int32 accumulators (N, O, ...)."""
    shape = (1, -1) + (1,) * (acc.ndim - 2)
    y = acc.to(torch.float32) * scale.view(shape)
    return y if bias is None else y + bias.view(shape)


def unit_scale(scale: Tensor, form: WeightForm, activation: ActivationSpec) -> Tensor:
    """The scale of accumulators in units: the scale of true codes over a power of two."""
    return scale / (activation.unit * zero_point_unit(form.zero_point))


def binary_conv2d_acc(x: Tensor, data: Tensor, form: WeightForm, geometry: ConvGeometry) -> Tensor:
    """int32 accumulators of the binary convolution, (N, O, H', W')."""
    fill = {"zero": 0.0, "one": 1.0, "neg_one": -1.0}[geometry.padding_value]
    return _convolve(signs(x), unpack_data(data, form), prod(form.shape[1:]), geometry, fill)


def quant_conv2d_acc(
    x: Tensor, data: Tensor, form: WeightForm, activation: ActivationSpec, geometry: ConvGeometry
) -> Tensor:
    """int32 accumulators of the quantized convolution, (N, O, H', W'), in units: a half-integer zero point doubles.

    With unit 2 for a half-integer zero point, else 1: the sum of unit * (code - zero_point) of the activations times
    the same of the weights.
    """
    unit = zero_point_unit(form.zero_point)
    codes = unit * unpack_data(data, form).to(torch.float32) - unit * form.zero_point
    bound = prod(form.shape[1:]) * activation.largest * largest_weight(form.bits, form.zero_point)
    return _convolve(activation.unit * quantize(x, activation), codes, bound, geometry, 0.0)
