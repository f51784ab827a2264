"""Primitives whose sub-gradients robustlab fixes itself, so that results do not change with the torch version.

torch moved the sub-gradient of `clamp` at the bound from 1 to 0 between 2.13 and 2.15. Attacks and quantizers must
not notice, so they use these. Each one states its gradient.

They run over every number in every layer of a training, so they are made of operations that torch vectorizes;
`torch.where` on the CPU is ten times slower than those.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = (low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return within(grads[0], x, *ctx.bounds), None, None


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.floor(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return hard_sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.surrogate == "clip":
            return within(grads[0], x, -1.0, 1.0), None
        return grads[0] * sign_derivative(x.detach(), ctx.surrogate), None


class _Prelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return torch.prelu(x, slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        right = torch.ops.aten.threshold_backward(grads[0], x, 0)
        left = grads[0] - right
        broad = slope.reshape(-1, *([1] * (x.ndim - 2)))
        products = left * x
        axes = [axis for axis in range(x.ndim) if axis != 1]
        towards = products.sum(axes) if slope.numel() > 1 else products.sum().reshape(slope.shape)
        return right + left * broad, towards


SIGN_SURROGATES = ("clip", "approx", "identity")


@lru_cache(maxsize=256)
def _around(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    """The numbers of a type next below `low` and next above `high`."""
    bounds, far = torch.tensor([low, high], dtype=dtype), torch.tensor([-torch.inf, torch.inf], dtype=dtype)
    below, above = torch.nextafter(bounds, far).tolist()
    return below, above


def within(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """`gradient` where low <= x <= high, bounds included, else 0, also where it is infinite."""
    # Open at its bounds, and a selection, not a product: infinity * 0 would be NaN.
    result: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, *_around(low, high, x.dtype))
    return result


def between(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """`gradient` where low < x < high, bounds not included, else 0, also where it is infinite."""
    result: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, low, high)
    return result


def at_least(gradient: Tensor, x: Tensor, low: float) -> Tensor:
    """`gradient` where x >= low, else 0, also where it is infinite."""
    result: Tensor = torch.ops.aten.threshold_backward(gradient, x, _around(low, low, x.dtype)[0])
    return result


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """`torch.prelu` of x (N, C, ...), slope (C,) or (1,), with the same gradients four times sooner on a CPU."""
    result: Tensor = _Prelu.apply(x, slope)
    return result


def clamp(x: Tensor, low: float, high: float) -> Tensor:
    """min(max(x, low), high); gradient 1 on the closed interval [low, high], bounds included, and 0 outside."""
    result: Tensor = _Clamp.apply(x, low, high)
    return result


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; gradient 1 everywhere (straight-through estimator, Bengio et al. 2013)."""
    result: Tensor = _Round.apply(x)
    return result


def floor_ste(x: Tensor) -> Tensor:
    """Round down; gradient 1 everywhere."""
    result: Tensor = _Floor.apply(x)
    return result


def hard_sign(x: Tensor) -> Tensor:
    """-1 where x < 0, else +1: zero, minus zero and NaN give +1, as a packed bit can only say two things."""
    if not x.is_floating_point():
        return torch.where(x < 0, -1, 1).to(x.dtype)
    # NaN becomes 0, and adding 0 turns minus zero into zero.
    magnitude = torch.ones((), dtype=x.dtype, device=x.device)
    return torch.copysign(magnitude, torch.nan_to_num(x.detach(), nan=0.0).add_(0.0))


def sign_derivative(x: Tensor, surrogate: str) -> Tensor:
    """Surrogate derivative of `hard_sign` at x.

    ``clip``: 1 where abs(x) <= 1 (Hubara et al. 2016). ``approx``: 2 - 2 abs(x) where abs(x) < 1, else 0 (Bi-Real
    Net, Liu et al. 2018, eq. 7). ``identity``: 1.
    """
    if surrogate == "clip":
        return (x.abs() <= 1).to(x.dtype)
    if surrogate == "approx":
        return (2 - 2 * x.abs()).clamp_(min=0)
    return torch.ones_like(x)


def sign_ste(x: Tensor, surrogate: str = "approx") -> Tensor:
    """`hard_sign` with the gradient of `sign_derivative`."""
    result: Tensor = _Sign.apply(x, surrogate)
    return result
