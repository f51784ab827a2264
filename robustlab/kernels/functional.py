"""Convolution and linear layers on packed weights, with the dataclasses of this package as arguments.

Every function computes acc, the exact integer sum, and returns y = fl(fl(float(acc) * scale[o]) + bias[o]): two float32
roundings, no fused multiply-add. They are forward only, and raise `ArgumentError` for operands that do not fit.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from robustlab.core.errors import invalid
from robustlab.kernels.ops import flat_form, flat_geometry  # importing them registers torch.ops.robustlab
from robustlab.kernels.prepack import PackedWeight
from robustlab.kernels.spec import ActivationSpec, ConvGeometry, shown

_OPS = torch.ops.robustlab
_binary_conv2d = _OPS.binary_conv2d.default
_binary_conv2d_acc = _OPS.binary_conv2d_acc.default
_quant_conv2d = _OPS.quant_conv2d.default
_quant_conv2d_acc = _OPS.quant_conv2d_acc.default
_binary_linear = _OPS.binary_linear.default
_quant_linear = _OPS.quant_linear.default

_flat_geometry = lru_cache(maxsize=1024)(flat_geometry)
_flat_form = lru_cache(maxsize=4096)(flat_form)


def binary_conv2d(
    x: Tensor, weight: PackedWeight, scale: Tensor, bias: Tensor | None, geometry: ConvGeometry
) -> Tensor:
    """Convolve sign(x) with weights in {-1, +1}: float32 (N, C, H, W) -> float32 (N, O, H', W').

    sign is -1 where x < 0, else +1 (zeros and NaN give +1). scale and bias are float32 (O,).
    """
    form, place = _form(x, weight), _place(geometry)
    return _binary_conv2d(x, weight.data, form, scale, bias, place)  # type: ignore[no-any-return]


def binary_conv2d_acc(x: Tensor, weight: PackedWeight, geometry: ConvGeometry) -> Tensor:
    """int32 accumulators of `binary_conv2d`, (N, O, H', W')."""
    form, place = _form(x, weight), _place(geometry)
    return _binary_conv2d_acc(x, weight.data, form, place)  # type: ignore[no-any-return]


def quant_conv2d(
    x: Tensor,
    weight: PackedWeight,
    activation: ActivationSpec,
    scale: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
) -> Tensor:
    """Convolve the codes of x, less their zero point, with those of the weights: (N, C, H, W) -> (N, O, H', W').

    scale and bias are float32 (O,). Products of code - zero_point must sum to less than 2^31 in magnitude, counted in
    halves where a zero point is a half-integer. The weights must be packed for the activations' bits.
    """
    form, place = _quant_form(x, weight, activation), _place(geometry)
    spec = (activation.scale, activation.zero_point)
    return _quant_conv2d(x, weight.data, form, *spec, scale, bias, place)  # type: ignore[no-any-return]


def quant_conv2d_acc(x: Tensor, weight: PackedWeight, activation: ActivationSpec, geometry: ConvGeometry) -> Tensor:
    """int32 accumulators of `quant_conv2d`, (N, O, H', W'): in units of 1, or 1/2 for every half-integer zero point."""
    form, place = _quant_form(x, weight, activation), _place(geometry)
    spec = (activation.scale, activation.zero_point)
    return _quant_conv2d_acc(x, weight.data, form, *spec, place)  # type: ignore[no-any-return]


def binary_linear(x: Tensor, weight: PackedWeight, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply sign(x), float32 (..., K), with weights (O, K, 1, 1) in {-1, +1}: float32 (..., O)."""
    form = _form(x, weight)
    return _binary_linear(x, weight.data, form, scale, bias)  # type: ignore[no-any-return]


def quant_linear(
    x: Tensor, weight: PackedWeight, activation: ActivationSpec, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Multiply the codes of x, float32 (..., K), less their zero point, with those of weights (O, K, 1, 1)."""
    form = _quant_form(x, weight, activation)
    spec = (activation.scale, activation.zero_point)
    return _quant_linear(x, weight.data, form, *spec, scale, bias)  # type: ignore[no-any-return]


def _form(x: Tensor, weight: PackedWeight) -> tuple[int, ...]:
    """The flat form of packed weights. What torch's dispatcher would refuse in several lines is refused here."""
    if not isinstance(x, Tensor):
        raise invalid("x", shown(x), "a float32 tensor")
    if not isinstance(weight, PackedWeight):
        raise invalid("weight", shown(weight), "a PackedWeight, from pack_weight(...)")
    return _flat_form(weight.form)


def _place(geometry: ConvGeometry) -> tuple[int, ...]:
    if not isinstance(geometry, ConvGeometry):
        raise invalid("geometry", shown(geometry), "a ConvGeometry")
    return _flat_geometry(geometry)


def _quant_form(x: Tensor, weight: PackedWeight, activation: ActivationSpec) -> tuple[int, ...]:
    form = _form(x, weight)
    if not isinstance(activation, ActivationSpec):
        raise invalid("activation", shown(activation), "an ActivationSpec")
    if weight.form.activation_bits != activation.bits:
        packed = weight.form.activation_bits
        raise invalid("activation", activation, f"{packed or 'no'} bits, for which the weights were packed")
    return form
