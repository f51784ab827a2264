"""The nearest point of a hyperplane inside the image box, exactly, in l_inf, l_2 and l_1, and FAB's step towards it.

The problem of Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML
2020, section 2: minimise ||d||_p subject to <normal, d> = shift and x + d in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.attacks.minimum_norm._norms import norm
from robustlab.kernels import boundary


def boundary_step(
    norm_name: str, x: Tensor, origin: Tensor, normal: Tensor, gap: Tensor, *, alpha_max: float, eta: float
) -> Tensor:
    """FAB's iterate after `x` (n, D), whose linearised boundary is where <normal, d> = -gap (n,).

    It lies between `eta` times the steps onto the boundary from `x` and from `origin` (n, D), with a weight of the
    latter that is at most `alpha_max`, and in [0, 1].
    """
    if boundary.can_step(norm_name, x):
        return boundary.boundary_step(norm_name, x, origin, normal, gap, alpha_max=alpha_max, eta=eta)
    onward = step_onto(norm_name, x, normal, -gap)
    anew = step_onto(norm_name, origin, normal, -gap + (normal * (x - origin)).sum(dim=1))
    length, again = (norm(norm_name, d).clamp(min=1e-8) for d in (onward, anew))
    alpha = (length / (length + again)).clamp(max=alpha_max)[:, None]
    return ((x + eta * onward) * (1 - alpha) + (origin + eta * anew) * alpha).clamp(0, 1)


def step_onto(norm_name: str, x: Tensor, normal: Tensor, shift: Tensor) -> Tensor:
    """The smallest d (n, D), for `x` (n, D) in [0, 1], `normal` (n, D) and `shift` (n,).

    Where the hyperplane misses the box, the d that comes nearest to it; 0 where the normal is 0.
    """
    slope = normal.abs()
    direction = normal.sign() * shift.sign()[:, None]
    room = torch.where(direction > 0, 1 - x, x)  # How far each value can go in its direction.
    room = torch.where(direction == 0, 0, room)
    if norm_name == "l1":
        return direction * _fill(slope, room, shift.abs())
    return direction * _level(slope, torch.ones_like(slope) if norm_name == "linf" else slope, room, shift.abs())


def _level(slope: Tensor, speed: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """min(t * speed, room) with the smallest t for which the sum of slope times that is `wanted`.

    The sum grows with t and is concave and piecewise linear, so that Newton's steps from 0 never pass the solution.
    A step is a function of which values are at their limit, so that it settles exactly, after very few of them.
    """
    gain, full = slope * speed, slope * room
    t = torch.zeros_like(wanted)
    while True:
        free = t[:, None] * speed < room
        rate = (gain * free).sum(dim=1)
        missing = wanted - full.masked_fill(free, 0).sum(dim=1)
        following = torch.where(rate > 0, torch.maximum(t, missing / rate), t)
        if not bool((following > t).any()):
            return torch.minimum(t[:, None] * speed, room)
        t = following


def _fill(slope: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """Use all room where the slope is steepest, until the sum of slope times what is used is `wanted`."""
    order = slope.argsort(dim=1, descending=True, stable=True)
    steep, space = slope.gather(1, order), room.gather(1, order)
    gained = (steep * space).cumsum(dim=1)
    missing = wanted[:, None] - gained + steep * space  # Before each value is used.
    used = torch.minimum(missing.clamp(min=0) / steep.clamp(min=1e-30), space)
    return torch.zeros_like(room).scatter(1, order, used)
