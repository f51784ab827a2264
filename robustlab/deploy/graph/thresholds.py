"""The sign of a chain of float steps as a comparison of the integer accumulator, found by search.

Every step is rounded, but rounding never reverses an order: a chain of monotone steps with finite constants is
monotone in the accumulator, so its sign changes at most once. Where, is found with the very float operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustlab.kernels.program import (
    Add,
    AddAll,
    Clamp,
    Div,
    DivAll,
    Mul,
    MulAll,
    Prelu,
    Relu,
    Scale,
    Step,
    StoreBelow,
    Sub,
)

_NEVER = -(1 << 31)
_MONOTONE = (Scale, Mul, Add, Sub, Div, MulAll, AddAll, DivAll, Relu, Clamp)


def is_monotone(step: object) -> bool:
    """Whether a step, in every channel, never falls or never rises. Constants must be finite."""
    return isinstance(step, _MONOTONE) or (isinstance(step, Prelu) and bool((step.a >= 0).all()))


def falling(steps: Sequence[Step], channels: int) -> Tensor:
    """Channels, bool (C,), in which monotone steps fall. One that is constant there counts as rising or falling."""
    falls = torch.zeros(channels, dtype=torch.bool)
    for step in steps:
        if isinstance(step, (Scale, Mul, Div)):
            falls = falls ^ (step.a < 0)
        elif isinstance(step, (MulAll, DivAll)) and step.number < 0:
            falls = ~falls
    return falls


def threshold(steps: Sequence[Step], channels: int, bound: int) -> StoreBelow:
    """The comparison that equals ``steps(acc) < 0`` for every acc in [-bound, bound], in each channel.

    `steps` are monotone, start with `Scale`, and stay finite.
    """
    low = torch.full((channels,), -bound, dtype=torch.int64)
    high = -low
    first = _negative(steps, low)
    constant = first == _negative(steps, high)
    while bool((high - low > 1).any()):
        middle = torch.div(low + high, 2, rounding_mode="floor")
        same = _negative(steps, middle) == first
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    limits = torch.where(constant, _NEVER, high).to(torch.int32)
    return StoreBelow(limits, torch.where(constant, first, ~first))


def _negative(steps: Sequence[Step], acc: Tensor) -> Tensor:
    value = acc.to(torch.int32)
    for step in steps:
        value = _apply(step, value)
    return value < 0


_PER_CHANNEL: dict[type, Callable[[Tensor, Tensor], Tensor]] = {
    Mul: torch.mul,
    Add: torch.add,
    Sub: torch.sub,
    Div: torch.div,
}


def _apply(step: Step, value: Tensor) -> Tensor:
    if isinstance(step, Scale):
        return value.to(torch.float32) * step.a
    if isinstance(step, (Mul, Add, Sub, Div)):
        return _PER_CHANNEL[type(step)](value, step.a)
    if isinstance(step, MulAll):
        return value * step.number
    if isinstance(step, AddAll):
        return value + step.number
    if isinstance(step, DivAll):
        return value / step.number
    if isinstance(step, Prelu):
        return torch.where(value > 0, value, step.a * value)
    if isinstance(step, Relu):
        return value.clamp(min=0)
    assert isinstance(step, Clamp)
    return value.clamp(step.low, step.high)
