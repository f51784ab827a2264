"""Convolution and linear layers on packed weights, with the dataclasses of this package as arguments.

Every function computes acc, the exact integer sum, and returns y = fl(fl(float(acc) * scale[o]) + bias[o]): two float32
roundings, no fused multiply-add. They are forward only, and raise `ArgumentError` for operands that do not fit.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from robustlab.core.errors import invalid
from robustlab.kernels.layout import PackedWeight
from robustlab.kernels.ops import flat_geometry  # importing it registers torch.ops.robustlab
from robustlab.kernels.spec import ActivationSpec, ConvGeometry

_OPS = torch.ops.robustlab
_binary_conv2d = _OPS.binary_conv2d.default
_binary_conv2d_acc = _OPS.binary_conv2d_acc.default
_quant_conv2d = _OPS.quant_conv2d.default
_quant_conv2d_acc = _OPS.quant_conv2d_acc.default
_binary_linear = _OPS.binary_linear.default
_quant_linear = _OPS.quant_linear.default

_flat = lru_cache(maxsize=1024)(flat_geometry)


def _place(weight: PackedWeight, geometry: ConvGeometry) -> tuple[int, ...]:
    if weight.groups != geometry.groups:
        raise invalid("geometry", geometry, f"the {weight.groups} groups the weights were packed for")
    return _flat(geometry)


def _one_bit(weight: PackedWeight) -> PackedWeight:
    if weight.bits != 1:
        raise invalid("weight", f"weights of {weight.bits} bits", "weights of 1 bit")
    return weight


def binary_conv2d(
    x: Tensor, weight: PackedWeight, scale: Tensor, bias: Tensor | None, geometry: ConvGeometry
) -> Tensor:
    """Convolve sign(x) with weights in {-1, +1}: float32 (N, C, H, W) -> float32 (N, O, H', W').

    sign is -1 where x < 0, else +1 (zeros and NaN give +1). scale and bias are float32 (O,).
    """
    place = _place(_one_bit(weight), geometry)
    return _binary_conv2d(x, weight.data, weight.shape, scale, bias, place)  # type: ignore[no-any-return]


def binary_conv2d_acc(x: Tensor, weight: PackedWeight, geometry: ConvGeometry) -> Tensor:
    """int32 accumulators of `binary_conv2d`, (N, O, H', W')."""
    place = _place(_one_bit(weight), geometry)
    return _binary_conv2d_acc(x, weight.data, weight.shape, place)  # type: ignore[no-any-return]


def quant_conv2d(
    x: Tensor,
    weight: PackedWeight,
    activation: ActivationSpec,
    scale: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
) -> Tensor:
    """Convolve the codes of x, less their zero point, with weight codes: float32 (N, C, H, W) -> (N, O, H', W').

    scale and bias are float32 (O,). K * max|code - zero_point| * max|weight code| must stay below 2^31.
    """
    place = _place(weight, geometry)
    spec = (weight.bits, activation.scale, activation.zero_point, activation.bits)
    return _quant_conv2d(x, weight.data, weight.shape, *spec, scale, bias, place)  # type: ignore[no-any-return]


def quant_conv2d_acc(x: Tensor, weight: PackedWeight, activation: ActivationSpec, geometry: ConvGeometry) -> Tensor:
    """int32 accumulators of `quant_conv2d`, (N, O, H', W')."""
    place = _place(weight, geometry)
    spec = (weight.bits, activation.scale, activation.zero_point, activation.bits)
    return _quant_conv2d_acc(x, weight.data, weight.shape, *spec, place)  # type: ignore[no-any-return]


def binary_linear(x: Tensor, weight: PackedWeight, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply sign(x), float32 (..., K), with weights (O, K, 1, 1) in {-1, +1}: float32 (..., O)."""
    return _binary_linear(x, _one_bit(weight).data, weight.shape, scale, bias)  # type: ignore[no-any-return]


def quant_linear(
    x: Tensor, weight: PackedWeight, activation: ActivationSpec, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Multiply the codes of x, float32 (..., K), less their zero point, with codes (O, K, 1, 1): float32 (..., O)."""
    spec = (weight.bits, activation.scale, activation.zero_point, activation.bits)
    return _quant_linear(x, weight.data, weight.shape, *spec, scale, bias)  # type: ignore[no-any-return]
