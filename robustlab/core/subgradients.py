"""Primitives whose sub-gradients robustlab fixes itself, so that results do not change with the torch version.

torch moved the sub-gradient of `clamp` at the bound from 1 to 0 between 2.13 and 2.15. Attacks and quantizers must
not notice, so they use these. Each one states its gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, grads[0], 0.0), None, None  # Not a product: infinity * 0 is NaN.


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
        ctx.save_for_backward(sign_derivative(x, surrogate))
        return hard_sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return grads[0] * derivative, None


SIGN_SURROGATES = ("clip", "approx", "identity")


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
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)


def sign_derivative(x: Tensor, surrogate: str) -> Tensor:
    """Surrogate derivative of `hard_sign` at x.

    ``clip``: 1 where abs(x) <= 1 (Hubara et al. 2016). ``approx``: 2 - 2 abs(x) where abs(x) < 1, else 0 (Bi-Real
    Net, Liu et al. 2018, eq. 7). ``identity``: 1.
    """
    if surrogate == "clip":
        return (x.abs() <= 1).to(x.dtype)
    if surrogate == "approx":
        return (2 - 2 * x.abs()).clamp(min=0)
    return torch.ones_like(x)


def sign_ste(x: Tensor, surrogate: str = "approx") -> Tensor:
    """`hard_sign` with the gradient of `sign_derivative`."""
    result: Tensor = _Sign.apply(x, surrogate)
    return result
