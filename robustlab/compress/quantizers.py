"""Quantizers: float tensor -> integer codes and back, with straight-through gradients.

Every one documents its codes and its gradient. Codes are what the kernels see; the fake-quantized value is only used
in training.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.compress.coders import InputCoder, WeightCoder
from robustlab.compress.learned import learned
from robustlab.compress.observers import RangeObserver, weight_scale
from robustlab.core.subgradients import clamp, floor_ste, hard_sign, round_ste, sign_ste
from robustlab.kernels import ActivationSpec


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
    return without_nan(codes, x, float(math.ceil(zero_point)))


def without_nan(codes: Tensor, x: Tensor, code: float) -> Tensor:
    """`codes`, but `code` where x is NaN. A selection is slow and NaN rare: a sum tells whether there may be any."""
    return torch.where(torch.isnan(x), code, codes) if bool(x.detach().sum().isnan()) else codes


class ActivationQuantizer(InputCoder):
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

    def spec(self) -> ActivationSpec:
        """The grid as it is deployed."""
        return ActivationSpec(float(self.scale), int(self.zero_point), self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize x of any shape."""
        if self.observer is not None:
            self.observer.observe(x)
            return x
        return self.quantize(x)

    def quantize(self, x: Tensor) -> Tensor:
        """The fake-quantized x: scale * (code - zero_point), with the gradient of `affine_codes`."""
        zero = int(self.zero_point)
        return (affine_codes(x, self.scale, zero, self.bits) - zero) * self.scale

    def extra_repr(self) -> str:
        """Bits and grid, also part of a model's fingerprint."""
        return f"bits={self.bits}"


class WeightQuantizer(WeightCoder):
    """Symmetric, per output channel: codes in [-(2^(bits-1) - 1), 2^(bits-1) - 1], value = scale[o] * code.

    The scale is a constant of the optimisation step: found anew from the weights in every training forward pass (by
    `rule`), no gradient. Gradient with respect to the weight: 1 inside the range, 0 outside.
    """

    def __init__(self, bits: int, rule: str) -> None:
        super().__init__()
        self.bits = bits
        self.rule = rule

    @property
    def levels(self) -> int:
        """2^bits - 1."""
        return (1 << self.bits) - 1

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes float32 like the weight, scale (O,))."""
        scale = weight_scale(weight, self.bits, self.rule)
        levels = (1 << (self.bits - 1)) - 1
        shape = (-1, *([1] * (weight.ndim - 1)))
        return clamp(round_ste(weight / scale.reshape(shape)), -levels, levels), scale

    def extra_repr(self) -> str:
        """Bits and rule, also part of a model's fingerprint."""
        return f"bits={self.bits}, rule={self.rule}"


class ActivationBinarizer(InputCoder):
    """sign(x) in {-1, +1}, sign(0) = +1; gradient 2 - 2|x| for |x| < 1, else 0 (Bi-Real Net, Liu et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize x of any shape."""
        return sign_ste(x, "approx")


class ClippedSign(InputCoder):
    """sign(x) in {-1, +1}, sign(0) = +1; gradient 1 for |x| <= 1, else 0 (Hubara et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize x of any shape."""
        return sign_ste(x, "clip")


class SignCoder(WeightCoder):
    """Weights as signs with a scale per output channel."""

    @property
    def levels(self) -> int:
        """2."""
        return 2


class WeightBinarizer(SignCoder):
    """scale[o] * sign(w), scale[o] = mean |w[o]| (XNOR-Net, Rastegari et al. 2016, eq. 6), not differentiated.

    Gradient with respect to w: scale[o] where |w| <= 1, else 0 (Hubara et al. 2016).
    """

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes -1 or +1 like the weight, scale (O,))."""
        return sign_ste(weight, "clip"), mean_magnitude(weight)


def mean_magnitude(weight: Tensor) -> Tensor:
    """mean |w[o]| of weights (O, ...), (O,), without a gradient: the s that makes |w[o] - s sign(w[o])|^2 least."""
    return weight.detach().abs().flatten(1).mean(dim=1)


class LearnedScaleSign(SignCoder):
    """scale[o] * sign(w) with a learned scale per output channel, mean |w[o]| at first.

    Gradient with respect to w: scale[o] where |w| <= 1, else 0; of the scale: the sum of sign(w) times the gradient.
    """

    unit: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("unit", mean_magnitude(weight).clamp(min=1e-8))
        self.gain = nn.Parameter(torch.ones_like(self.unit))

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes -1 or +1 like the weight, scale (O,))."""
        return sign_ste(weight, "clip"), learned(self.gain, self.unit)


class _SignWith(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, derivative: Tensor) -> Tensor:
        ctx.save_for_backward(derivative)
        return hard_sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return grads[0] * derivative, None


def sign_with(x: Tensor, derivative: Tensor) -> Tensor:
    """`hard_sign` of x with this derivative, a tensor like x."""
    result: Tensor = _SignWith.apply(x, derivative)
    return result


def standardized(weight: Tensor, epsilon: float = 0.0) -> Tensor:
    """(w - mean) / sqrt(var + epsilon) of every output channel (O, ...), unbiased, differentiable.

    A channel of equal weights is all zeros.
    """
    flat = weight.flatten(1)
    correction = 1 if flat.shape[1] > 1 else 0
    centred = flat - flat.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / (flat.shape[1] - correction)
    return (centred / (variance + epsilon).clamp(min=1e-24).sqrt()).reshape(weight.shape)


def per_channel(vector: Tensor, rows: bool) -> Tensor:
    """A vector (C,) that broadcasts with the channels of images, or the last axis of rows."""
    return vector if rows else vector.reshape(1, -1, 1, 1)


def sample_mean(x: Tensor, rows: bool) -> Tensor:
    """Mean of every image (N, 1, 1, 1), or of every row (..., 1)."""
    return x.mean(dim=-1, keepdim=True) if rows else x.mean(dim=(1, 2, 3), keepdim=True)


def one_sided_mean(x: Tensor, rows: bool) -> Tensor:
    """Mean of every channel (C,) where x is nowhere negative, as behind a ReLU; else zeros.

    What learned thresholds start at: at 0, as published for inputs of both signs, such signs would all be +1 and say
    nothing, and no gradient would tell which way to go.
    """
    axes = tuple(range(x.ndim - 1)) if rows else (0, 2, 3)
    mean = x.mean(dim=axes)
    return mean if bool((x >= 0).all()) else torch.zeros_like(mean)
