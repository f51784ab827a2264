"""Steps and offsets that training learns: how they are stored, clipped, started, and how their gradients are scaled."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustlab.core.subgradients import between

_SMALLEST_GAIN = 2.0**-10
_CANDIDATES = 80


class _Learned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gain: Tensor, unit: Tensor, smallest: float) -> Tensor:
        ctx.save_for_backward(unit)
        return unit * gain.clamp(min=smallest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (unit,) = ctx.saved_tensors
        return grads[0] / unit, None, None


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


class _OpenClip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = (low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return between(grads[0], x, *ctx.bounds), None, None


class _Stepped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: float, high: float, clipped: Tensor | None) -> Tensor:
        units = x / step
        ctx.save_for_backward(units)
        ctx.bounds = (low, high)
        return units.clamp(low, high).round_().mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, Tensor | None]:
        (units,) = ctx.saved_tensors
        inside = between(grads[0], units, *ctx.bounds)
        levels = units.clamp(*ctx.bounds).round_()
        towards = levels.mul_(grads[0]).sum() - (inside * units).sum()
        outside = grads[0].sum() - inside.sum() if ctx.needs_input_grad[4] else None
        return inside, towards, None, None, outside


def stepped(x: Tensor, step: Tensor, low: float, high: float, clipped: Tensor | None = None) -> Tensor:
    """step * round(clip(x / step, low, high)), `step` a number (), low and high whole ones; without NaN.

    Gradient of x: 1 strictly inside the range, else 0; of the step: round(x / step) - x / step inside, `low` and `high`
    outside (LSQ, Esser et al. 2020). `clipped`, a zero (), is added where x is clipped, for the sake of its gradient.
    """
    result: Tensor = _Stepped.apply(x, step, low, high, clipped)
    return result


def learned(gain: Tensor, unit: Tensor, smallest: float = _SMALLEST_GAIN) -> Tensor:
    """A learned number, unit * max(gain, smallest). `unit` > 0 is a constant, `gain` the parameter, mostly 1 at first.

    Gradient of `gain`: that of the number, divided by `unit`, also below `smallest`. So gradient descent moves the
    number itself as if it were the parameter, and Adam, blind to the size of gradients, in proportion to its size.
    """
    result: Tensor = _Learned.apply(gain, unit, smallest)
    return result


def with_gradient_scale(x: Tensor, factor: float) -> Tensor:
    """x, whose gradient is multiplied by `factor`."""
    result: Tensor = _ScaledGradient.apply(x, factor)
    return result


def lsq_factor(count: int, positive_levels: float) -> float:
    """1 / sqrt(N Q_p), by which LSQ scales the gradient of a step (Esser et al. 2020, section 2.2)."""
    return 1 / math.sqrt(max(1.0, count * positive_levels))


def open_clip(x: Tensor, low: float, high: float) -> Tensor:
    """min(max(x, low), high); gradient 1 strictly between the bounds, 0 from them on."""
    result: Tensor = _OpenClip.apply(x, low, high)
    return result


def fitted_step(weight: Tensor, low: float, high: float, *, half: bool) -> Tensor:
    """The step per output channel (O,), of 80 fractions of max|w| / high, with the least squared error.

    Levels are the whole numbers in [low, high], or with `half` the odd multiples of 1/2. A channel of zeros gets 1.
    """
    flat = weight.detach().float().flatten(1)
    largest = flat.abs().amax(dim=1) / high
    largest = torch.where(largest < torch.finfo(torch.float32).tiny, torch.ones_like(largest), largest)
    best, chosen = torch.full_like(largest, float("inf")), largest.clone()
    for index in range(_CANDIDATES):
        step = largest * (1 - index / _CANDIDATES)
        units = (flat / step[:, None]).clamp(low, high)
        levels = (units.floor() + 0.5).clamp(low, high) if half else units.round()
        error = (levels * step[:, None] - flat).square().sum(dim=1)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, step, chosen)
    return chosen
