"""Stand-in derivatives of operations that have none: forward exact, backward stated.

Straight-through estimators (Bengio et al. 2013) and differences over a finite step, as in BPDA (Athalye et al. 2018,
"Obfuscated gradients give a false sense of security", section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LEAK = 0.1
"""Slope of a clamp outside its bounds: the sign of a pixel's gradient survives, live paths keep the upper hand."""


class _Replaced(torch.autograd.Function):
    """A value, and the derivative that it is to have; both of the shape of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None


def replaced(x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """`value`, with the derivative `slope` towards `x`; all of one shape."""
    result: Tensor = _Replaced.apply(x, value.detach(), slope.detach())
    return result


def spread(x: Tensor) -> Tensor:
    """The scale on which x lives: its standard deviation about zero, never 0."""
    return x.detach().float().square().mean().sqrt().clamp(min=1e-12)


def window(x: Tensor) -> Tensor:
    """A stand-in for the derivative of a unit step at 0: a triangle of area 1, as wide as x is spread."""
    width = spread(x)
    return ((1 - x.detach().abs() / width).clamp(min=0) / width).to(x.dtype)


def straight(x: Tensor, value: Tensor) -> Tensor:
    """`value`, with derivative 1."""
    return replaced(x, value, torch.ones_like(x))


def signed(x: Tensor, value: Tensor) -> Tensor:
    """`value` of a sign, which steps by 2 at 0."""
    return replaced(x, value, 2 * window(x))


def stepped(x: Tensor, value: Tensor) -> Tensor:
    """`value` of a unit step at 0."""
    return replaced(x, value, window(x))


def clamped(x: Tensor, value: Tensor) -> Tensor:
    """`value` of a clamp: derivative 1 where it changes nothing, else `LEAK`."""
    return replaced(x, value, torch.where(value.detach() == x.detach(), 1.0, LEAK).to(x.dtype))


def coarse(x: Tensor, value: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`value` of a function of each number, with its slope over a step as long as x is spread."""
    step = spread(x).to(x.dtype)
    here = x.detach()
    with torch.no_grad():
        slope = (function(here + step) - function(here - step)) / (2 * step)
    return replaced(x, value, slope)


class _Warm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, dim: int) -> Tensor:
        centred = x - x.amax(dim, keepdim=True)
        temperature = spread(centred).clamp(min=1.0).to(x.dtype)
        ctx.save_for_backward(torch.softmax(centred / temperature, dim), temperature)
        ctx.dim = dim
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        share, temperature = ctx.saved_tensors
        mean = (grads[0] * share).sum(ctx.dim, keepdim=True)
        return share * (grads[0] - mean) / temperature, None, None


def warm_softmax(x: Tensor, value: Tensor, dim: int) -> Tensor:
    """`value` of a softmax, differentiated at a temperature at which it is not saturated."""
    result: Tensor = _Warm.apply(x, value.detach(), dim)
    return result
