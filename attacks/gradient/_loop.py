"""The one loop that every attack with a fixed step runs: loss, gradient, step, projection, best so far, who leaves."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.attacks._attack import Attack, look
from robustlab.attacks._goal import Goal, Loss, cross_entropy, finite_rows
from robustlab.attacks._victim import Victim, goal_tensors
from robustlab.attacks.gradient._best import Best, Climb
from robustlab.attacks.gradient._diversity import Diversity
from robustlab.core import Ball
from robustlab.core.keys import derive

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """What distinguishes one first-order attack from another: `steps` of length `step_size` in `ball`.

    Attributes:
        loss: what is ascended.
        restarts: how many random starts a sample that survives gets; the iterate with the largest loss is kept.
        decay: of the sum of l1-normalised gradients that is followed; 0: every step follows its own gradient.
        smoothing: (k, k), k odd: the gradient is convolved with it; None: it is not.
        diversity: the random resizing of what the model is shown; None: it sees the iterate itself.
        full: all steps are made, past the first iterate that reaches the goal, for images that move other models too.
    """

    ball: Ball
    steps: int
    step_size: float
    random_start: bool
    loss: Loss = cross_entropy
    restarts: int = 1
    decay: float = 0.0
    smoothing: Tensor | None = None
    diversity: Diversity | None = None
    full: bool = False

    @property
    def judged(self) -> bool:
        """Whether the last iterate is looked at: another restart, or the choice of another iterate, depends on it."""
        return self.restarts > 1 or (self.full and self.diversity is None)


@dataclass(frozen=True)
class GradientAttack(Attack):
    """An attack that ascends a loss inside `ball`, with the gradient of the model as shipped."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """Steps, step size and start, as the loop takes them."""

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        return ascend(victim, origin, goal, keys, self.schedule)


def ascend(victim: Victim, origin: Tensor, goal: Goal, keys: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Projected steepest ascent of a loss over the ball around each image: images (N, C, H, W), attacked (N,).

    A sample leaves the batch as soon as logits that were computed anyway show that the goal is reached, with the
    iterate that reaches it; the last iterate is returned unseen. With a random start the clean images cost one forward
    pass without gradient, so that what the model already gets wrong is not attacked. A sample whose logits or gradient
    stop being finite leaves with its last iterate that had finite logits.

    With restarts the last iterate costs one more forward pass. Where all steps are made (`full`) it does too, and
    where it does not reach the goal, but an earlier one did, the latest of those is returned.
    """
    rows = torch.arange(len(origin), device=origin.device)
    attacked = torch.ones(len(origin), dtype=torch.bool, device=origin.device)
    if schedule.random_start or schedule.diversity is not None:
        rows, _, attacked = look(victim, origin, goal)
    best = Best(origin, rows, attacked)
    for restart in range(schedule.restarts):
        rows = best.rows
        if not len(rows):
            break
        draws = keys[rows.to(keys.device)]
        draws = derive(draws, f"restart{restart}") if restart else draws
        best.take(_climb(victim, rows, origin[rows], goal.at(rows), draws, schedule))
    return best.images, best.attacked


def _climb(victim: Victim, rows: Tensor, origin: Tensor, goal: Goal, keys: Tensor, schedule: Schedule) -> Climb:
    """The steps from one start of the samples `rows` (n,) of the victim."""
    ball = schedule.ball
    climb = Climb.at(origin)
    x = origin
    if schedule.random_start:
        (x,) = victim.in_tiles(lambda o, k: (ball.random_start(o, k),), origin, keys)
    here = torch.arange(len(rows), device=origin.device)  # Where in the climb each survivor is.
    memory = [torch.zeros_like(origin)] if schedule.decay else []
    alive = False  # Whether any gradient value was not zero.

    def advance(x: Tensor, origin: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        nonlocal alive
        rest = list(others)
        view = schedule.diversity.view(rest.pop(0)) if schedule.diversity is not None else None
        sums = [rest.pop()] if schedule.decay else []
        logits, gradient = victim.differentiate_tile(ball.shown(x, origin), Goal(*rest), schedule.loss, view)
        alive = alive or bool(gradient.any())
        finite = finite_rows(gradient)
        if schedule.smoothing is not None:
            gradient = smooth(gradient, schedule.smoothing)
        if sums:
            gradient = schedule.decay * sums[0] + unit_l1(gradient)
            sums = [gradient]
        following = ball.project(x + schedule.step_size * ball.ascent(gradient, x), origin)
        return logits, following, finite, *sums

    previous = origin
    for step in range(schedule.steps + schedule.judged):
        if step < schedule.steps:
            draws = [schedule.diversity.draw(keys, step, x.device)] if schedule.diversity is not None else []
            logits, following, finite, *memory = victim.in_tiles(
                advance, x, origin, *draws, *goal_tensors(goal), *memory
            )
            victim.count(rows, gradient=True)
            if step == 0 and not alive:
                name = type(victim.network).__name__
                _log.warning("%s: the first gradient is zero for all %d samples; is it masked?", name, len(rows))
        else:
            logits = victim.logits(ball.shown(x, origin), rows)
            following, finite = x, torch.ones_like(here, dtype=torch.bool)
            climb.loss[here] = schedule.loss(logits, goal).double()
        seen, hit = finite_rows(logits), goal.reached(logits)
        if schedule.diversity is not None:
            hit = torch.zeros_like(hit)  # The model saw another image.
        staying = seen & finite & ~hit
        if schedule.full and (step or schedule.random_start):
            staying = seen & finite
            climb.images[here[hit]] = ball.shown(x[hit], origin[hit])
            climb.reached[here[hit]] = True
        if not bool(staying.all()):
            out, stay = torch.nonzero(~staying).flatten(), torch.nonzero(staying).flatten()
            last = torch.where(seen[out].reshape(-1, 1, 1, 1), x[out], previous[out])
            climb.images[here[out]] = ball.shown(last, origin[out])
            climb.reached[here[out]] = climb.finite[here[out]] = hit[out]
            here, rows, x, origin, following, *memory = (
                t.index_select(0, stay) for t in (here, rows, x, origin, following, *memory)
            )
            goal, keys = goal.at(stay), keys[stay.to(keys.device)]
            if not len(rows):
                return climb
        previous, x = x, following
    left = torch.nonzero(~climb.reached[here]).flatten()
    climb.images[here[left]] = ball.shown(x[left], origin[left])
    return climb


def unit_l1(gradient: Tensor) -> Tensor:
    """Each sample's gradient over its l1-norm; 0 where it is 0."""
    norm = gradient.reshape(len(gradient), -1).double().abs().sum(dim=1).clamp(min=1e-300)
    return (gradient.double() / norm.reshape(-1, *([1] * (gradient.ndim - 1)))).to(gradient.dtype)


def smooth(gradient: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel of (N, C, H, W) with a (k, k) kernel, k odd; zeros beyond the edges."""
    channels = gradient.shape[1]
    weight = kernel.to(gradient).expand(channels, 1, *kernel.shape)
    return F.conv2d(gradient, weight, padding=kernel.shape[0] // 2, groups=channels)
