"""Quantizers: float tensor -> integer codes and back, with straight-through gradients.

Every one documents its codes and its gradient. Codes are what the kernels see; the fake-quantized value is only used
in training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustlab.compress.observers import RangeObserver, weight_scale
from robustlab.core.subgradients import clamp, floor_ste, round_ste, sign_ste


def rounded_codes(x: Tensor, scale: Tensor, zero_point: float) -> Tensor:
    """Codes before they are clamped, as float32: rint(x / scale) + zero_point, half-integers floor and add 1/2 more.

    Gradient with respect to x: 1 / scale.
    """
    steps = x / scale
    if zero_point == int(zero_point):
        return round_ste(steps) + zero_point
    return floor_ste(steps) + (zero_point + 0.5)


def affine_codes(x: Tensor, scale: Tensor, zero_point: float, bits: int) -> Tensor:
    """Codes 0..2^bits - 1 as float32, by the rule of `robustlab.kernels.ActivationSpec`; NaN counts as x = 0.

    Gradient with respect to x: 1 / scale where the rounded code lies in the range, bounds included, else 0.
    """
    codes = clamp(rounded_codes(x, scale, zero_point), 0, (1 << bits) - 1)
    return torch.where(torch.isnan(x), float(math.ceil(zero_point)), codes)


class ActivationQuantizer(nn.Module):
    """Affine, per tensor: unsigned codes 0..2^bits - 1, value = scale * (code - zero_point).

    While `observer` is set the input passes unchanged and is observed. Forward returns the fake-quantized tensor.
    """

    scale: Tensor
    zero_point: Tensor
    observer: RangeObserver | None

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int64))
        self.observer = None

    def set_grid(self, scale: float, zero_point: int) -> None:
        """Fix the grid."""
        self.scale.fill_(scale)
        self.zero_point.fill_(zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize x of any shape."""
        if self.observer is not None:
            self.observer.observe(x)
            return x
        zero = int(self.zero_point)
        return (affine_codes(x, self.scale, zero, self.bits) - zero) * self.scale

    def extra_repr(self) -> str:
        """Bits and grid, also part of a model's fingerprint."""
        return f"bits={self.bits}"


class WeightQuantizer(nn.Module):
    """Symmetric, per output channel: codes in [-(2^(bits-1) - 1), 2^(bits-1) - 1], value = scale[o] * code.

    The scale is a constant of the optimisation step: found anew from the weights in every training forward pass (by
    `rule`), no gradient. Gradient with respect to the weight: 1 inside the range, 0 outside.
    """

    def __init__(self, bits: int, rule: str) -> None:
        super().__init__()
        self.bits = bits
        self.rule = rule

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes float32 like the weight, scale (O,))."""
        scale = weight_scale(weight, self.bits, self.rule)
        levels = (1 << (self.bits - 1)) - 1
        shape = (-1, *([1] * (weight.ndim - 1)))
        return clamp(round_ste(weight / scale.reshape(shape)), -levels, levels), scale

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantize a weight (O, ...)."""
        codes, scale = self.codes(weight)
        return codes * scale.reshape(-1, *([1] * (weight.ndim - 1)))

    def extra_repr(self) -> str:
        """Bits and rule, also part of a model's fingerprint."""
        return f"bits={self.bits}, rule={self.rule}"


class ActivationBinarizer(nn.Module):
    """sign(x) in {-1, +1}, sign(0) = +1; gradient 2 - 2|x| for |x| < 1, else 0 (Bi-Real Net, Liu et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize x of any shape."""
        return sign_ste(x, "approx")


class WeightBinarizer(nn.Module):
    """scale[o] * sign(w), scale[o] = mean |w[o]| (XNOR-Net, Rastegari et al. 2016, eq. 6), not differentiated.

    Gradient with respect to w: scale[o] where |w| <= 1, else 0 (Hubara et al. 2016).
    """

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes -1 or +1 like the weight, scale (O,))."""
        return sign_ste(weight, "clip"), weight.detach().abs().flatten(1).mean(dim=1)

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantize a weight (O, ...)."""
        codes, scale = self.codes(weight)
        return codes * scale.reshape(-1, *([1] * (weight.ndim - 1)))
