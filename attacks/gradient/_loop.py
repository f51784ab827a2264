"""The one loop that every gradient attack runs: loss, gradient, step, projection, and who leaves early."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from robustlab.attacks._attack import Attack, look
from robustlab.attacks._goal import Goal, Loss, cross_entropy, finite_rows
from robustlab.attacks._victim import Victim, goal_tensors
from robustlab.core import Ball

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """What distinguishes one first-order attack from another: `steps` of length `step_size` in `ball`."""

    ball: Ball
    steps: int
    step_size: float
    random_start: bool


@dataclass(frozen=True)
class GradientAttack(Attack):
    """An attack that ascends the cross-entropy inside `ball`, with the gradient of the model as shipped."""

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """Steps, step size and start, as the loop takes them."""

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        return ascend(victim, origin, goal, keys, self.schedule)


def ascend(
    victim: Victim, origin: Tensor, goal: Goal, keys: Tensor, schedule: Schedule, loss: Loss = cross_entropy
) -> tuple[Tensor, Tensor]:
    """Projected steepest ascent of `loss` over the ball around each image: images (N, C, H, W), attacked (N,).

    A sample leaves the batch as soon as logits that were computed anyway show that the goal is reached, with the
    iterate that reaches it; the last iterate is returned unseen. With a random start the clean images cost one forward
    pass without gradient, so that what the model already gets wrong is not attacked. A sample whose logits or gradient
    stop being finite leaves with its last iterate that had finite logits.
    """
    ball = schedule.ball
    result = origin.clone()
    attacked = torch.ones(len(origin), dtype=torch.bool, device=origin.device)
    rows = torch.arange(len(origin), device=origin.device)  # Where in the batch each surviving sample came from.
    x = origin
    if schedule.random_start:
        rows, _, attacked = look(victim, origin, goal)
        if not len(rows):
            return result, attacked
        origin, goal = origin[rows], goal.at(rows)
        (x,) = victim.in_tiles(lambda o, k: (ball.random_start(o, k),), origin, keys[rows.to(keys.device)])

    alive = False  # Whether any gradient value was not zero.

    def advance(x: Tensor, origin: Tensor, *goal: Tensor) -> tuple[Tensor, ...]:
        nonlocal alive
        logits, gradient = victim.differentiate_tile(x, Goal(*goal), loss)
        alive = alive or bool(gradient.any())
        following = ball.project(x + schedule.step_size * ball.ascent(gradient), origin)
        return logits, following, finite_rows(gradient)

    previous = origin
    for step in range(schedule.steps):
        logits, following, gradient_finite = victim.in_tiles(advance, x, origin, *goal_tensors(goal))
        victim.count(rows, gradient=True)
        if step == 0 and not alive:
            name = type(victim.network).__name__
            _log.warning("%s: the first gradient is zero for all %d samples; is it masked?", name, len(rows))
        logits_finite, broken = finite_rows(logits), goal.reached(logits)
        staying = logits_finite & gradient_finite & ~broken
        if not bool(staying.all()):
            out = torch.nonzero(~staying).flatten()
            seen = logits_finite[out].reshape(-1, 1, 1, 1)
            result[rows[out]] = torch.where(seen, x[out], previous[out])
            attacked[rows[out]] = broken[out]
            stay = torch.nonzero(staying).flatten()
            rows, x, origin, following = (t.index_select(0, stay) for t in (rows, x, origin, following))
            goal = goal.at(stay)
            if not len(rows):
                return result, attacked
        previous, x = x, following
    result[rows] = x
    return result, attacked
