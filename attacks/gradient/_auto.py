"""The loop of APGD: steps that halve themselves where a sample makes no progress, and go on from its best point.

Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML
2020, algorithm 1; for the l1 ball Croce & Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
classifiers", ICML 2021, algorithm 1.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from robustlab.attacks._goal import Goal, Loss, finite_rows
from robustlab.attacks._victim import Victim
from robustlab.attacks.gradient._best import Climb
from robustlab.core import Ball, Lattice
from robustlab.core.balls import sparse_sign
from robustlab.core.keys import normal

_log = logging.getLogger(__name__)

_MOMENTUM = 0.75  # Weight of the new step, 1 - 0.75 of the last one (2020, section 3.1).
_FIRST, _LEAST, _SHORTER = 0.22, 0.06, 0.03  # Checkpoints, in parts of all steps (2020, section 3.2).
_L1_PERIOD = 0.04  # Steps between checkpoints in the l1 ball, in parts of all steps.
_L1_SHARE = 0.2  # Of all values that the first steps in the l1 ball change.
_L1_FEWER = 1.5  # The next steps change the number of values that the best point changes, over this.
_L1_SHRINK, _L1_SMALLEST = 1.5, 10.0  # A step is divided by the first, and the full one at most by the second.
_L1_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # Radii over eps, and shares of the steps (2021, section 4.3).


@dataclass
class _State:
    """What n samples carry along, changed in place.

    Attributes:
        x, old: float32 (n, C, H, W), this iterate and the one before.
        best, best_gradient: the iterate with the largest loss, and its gradient.
        loss, best_loss, checked: float64 (n,), of this iterate, of the best one, of the best at the last checkpoint.
        step: float32 (n,), length of a step.
        rises: int64 (n,), how often the loss rose since the last checkpoint.
        halved: bool (n,), whether the last checkpoint shortened the step.
        moves, moved: int64 (n,), values that a sparse step changes; values that the best point changed at the last
            checkpoint. For the l1 ball alone.
    """

    x: Tensor
    old: Tensor
    best: Tensor
    best_gradient: Tensor
    loss: Tensor
    best_loss: Tensor
    checked: Tensor
    step: Tensor
    rises: Tensor
    halved: Tensor
    moves: Tensor
    moved: Tensor

    @classmethod
    def at(cls, x: Tensor, origin: Tensor, ball: Ball, again: bool) -> _State:
        """Before the first step from `x`; `again`: `x` was found in a larger ball."""
        count, values = len(x), x[0].numel()
        low = torch.full((count,), -torch.inf, dtype=torch.float64, device=x.device)
        step = torch.full((count,), (1.0 if ball.norm_name == "l1" else 2.0) * ball.eps, device=x.device)
        moved = _changed(x, origin) if again else torch.full((count,), values, device=x.device)
        moves = moved / _L1_FEWER if again else moved * _L1_SHARE
        none = torch.zeros(count, dtype=torch.int64, device=x.device)
        return cls(
            x, x, origin.clone(), torch.zeros_like(x), low, low.clone(), low, step, none, none == 0, moves.long(), moved
        )

    def at_rows(self, rows: Tensor) -> _State:
        """Of the samples `rows`."""
        return _State(*(getattr(self, field.name).index_select(0, rows) for field in fields(self)))

    def take(self, loss: Tensor, gradient: Tensor) -> None:
        """Keep the iterate, and its gradient, where its `loss` (n,) is the largest so far."""
        self.rises = self.rises + ((loss > self.loss) & torch.isfinite(self.loss))
        self.loss = loss
        better = torch.nonzero(loss > self.best_loss).flatten()
        self.best_loss[better] = loss[better]
        self.best[better] = self.x[better]
        self.best_gradient[better] = gradient[better]

    def check(self, gradient: Tensor, origin: Tensor, ball: Ball, enough: float) -> Tensor:
        """Judge progress: change the step, and go back to the best iterate or not. Returns the gradient to follow."""
        if ball.norm_name == "l1":
            now = _changed(self.best, origin)
            back = now < 0.95 * self.moved
            step = torch.where(back, ball.eps, self.step / _L1_SHRINK)
            self.step = step.clamp(ball.eps / _L1_SMALLEST, ball.eps)
            self.moves, self.moved = (now / _L1_FEWER).long(), now
        else:
            back = (self.rises <= enough) | (~self.halved & (self.checked >= self.best_loss))
            self.step = torch.where(back, self.step / 2, self.step)
            self.halved, self.checked, self.rises = back, self.best_loss.clone(), torch.zeros_like(self.rises)
        self.x = torch.where(_wide(back, self.x), self.best, self.x)
        return torch.where(_wide(back, gradient), self.best_gradient, gradient)


def _move(
    ball: Ball, first: bool, x: Tensor, old: Tensor, gradient: Tensor, origin: Tensor, step: Tensor, moves: Tensor
) -> tuple[Tensor]:
    """The iterate after `x`: a step along `gradient`, with momentum but in the l1 ball."""
    length = _wide(step, x)
    if ball.norm_name == "l1":
        return (ball.project(x + length * sparse_sign(gradient, moves.clamp(min=1)), origin),)
    following = ball.project(x + length * ball.ascent(gradient, x), origin)
    if not first:
        ahead = (following - x).mul_(_MOMENTUM).add_(x).add_(x - old, alpha=1 - _MOMENTUM)
        following = ball.project(ahead, origin)
    return (following,)


def _changed(x: Tensor, origin: Tensor) -> Tensor:
    """int64 (n,): how many values differ."""
    return (x != origin).reshape(len(x), -1).sum(dim=1)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *([1] * (like.ndim - 1)))


def checkpoints(steps: int, norm: str) -> dict[int, int]:
    """After how many steps progress is judged -> how many steps it is judged over."""
    if norm == "l1":
        period = max(int(_L1_PERIOD * steps), 1)
        return dict.fromkeys(range(period, steps, period), period)
    period, shortest, shorter = (max(int(share * steps), 1) for share in (_FIRST, _LEAST, _SHORTER))
    found, at = {}, period
    while at < steps:
        found[at] = period
        period = max(period - shorter, shortest)
        at += period
    return found


@dataclass(frozen=True)
class AutoSchedule:
    """What distinguishes one APGD from another.

    Attributes:
        ball: the threat model.
        steps: from each start.
        loss: what is ascended.
        rho: the part of the steps since the last checkpoint that must have raised the loss, else the step is halved.
    """

    ball: Ball
    steps: int
    loss: Loss
    rho: float

    def stages(self) -> list[tuple[Ball, int]]:
        """Balls one after the other, each with its steps; the last is the threat model."""
        if self.ball.norm_name != "l1":
            return [(self.ball, self.steps)]
        given = [max(int(share * self.steps), 1) for _, share in _L1_STAGES[:-1]]
        left = max(self.steps - sum(given), 1)
        radii = [times * self.ball.eps for times, _ in _L1_STAGES[:-1]]
        return [*zip([_resized(self.ball, eps) for eps in radii], given, strict=True), (self.ball, left)]

    def start(self, origin: Tensor, keys: Tensor) -> Tensor:
        """Where the first stage starts: a uniform draw, and in the l1 ball the point nearest to Gaussian noise."""
        first = self.stages()[0][0]
        if first.norm_name == "l1":
            return first.project(origin + normal(keys, origin.shape[1:], origin.device), origin)
        return first.random_start(origin, keys)


def _resized(ball: Ball, eps: float) -> Ball:
    return Lattice(_resized(ball.inner, eps)) if isinstance(ball, Lattice) else replace(ball, eps=eps)


def climb(
    victim: Victim, rows: Tensor, origin: Tensor, goal: Goal, aim: Goal, keys: Tensor, schedule: AutoSchedule
) -> Climb:
    """One start of the samples `rows` (n,) of the victim, with the loss of `aim`; who reaches `goal` leaves."""
    survivors = _Survivors(victim, rows, origin, goal, aim, schedule)
    (x,) = victim.in_tiles(lambda o, k: (schedule.start(o, k),), origin, keys)
    stages = schedule.stages()
    for number, (ball, steps) in enumerate(stages):
        if number:
            (x,) = victim.in_tiles(lambda b, o, ball=ball: (ball.project(b, o),), x, survivors.origin)
        x = survivors.ascend(x, ball, steps, again=number > 0, final=number == len(stages) - 1)
        if not len(survivors.rows):
            break
    return survivors.climb


class _Survivors:
    """The samples of one start that have not left, and where those ended that have."""

    def __init__(
        self, victim: Victim, rows: Tensor, origin: Tensor, goal: Goal, aim: Goal, schedule: AutoSchedule
    ) -> None:
        self.victim, self.rows, self.origin, self.goal, self.aim = victim, rows, origin, goal, aim
        self.schedule = schedule
        self.climb = Climb.at(origin)
        self.here = torch.arange(len(rows), device=origin.device)

    def ascend(self, x: Tensor, ball: Ball, steps: int, again: bool, final: bool) -> Tensor:
        """All steps in one ball from `x`: the best point of each survivor; without `final` nobody reaches the goal."""
        state = _State.at(x, self.origin, ball, again)
        judged = checkpoints(steps, ball.norm_name)
        for step in range(steps):
            shown = ball.shown(state.x, self.origin)
            logits, gradient = self.victim.differentiate(shown, self.aim, self.schedule.loss, self.rows)
            if step == 0 and not again and not bool(gradient.any()):
                name = type(self.victim.network).__name__
                _log.warning("%s: the first gradient is zero for all %d samples; is it masked?", name, len(self.rows))
            staying = self._leave(logits, finite_rows(gradient), state, final)
            if staying is not None:
                state, logits, gradient = state.at_rows(staying), logits[staying], gradient[staying]
                if not len(self.rows):
                    return state.best
            state.take(self.schedule.loss(logits, self.aim).double(), gradient)
            if step in judged:
                gradient = state.check(gradient, self.origin, ball, self.schedule.rho * judged[step])
            move = partial(_move, ball, step == 0)
            (following,) = self.victim.in_tiles(
                move, state.x, state.old, gradient, self.origin, state.step, state.moves
            )
            state.x, state.old = following, state.x
        logits = self.victim.logits(ball.shown(state.x, self.origin), self.rows)
        staying = self._leave(logits, torch.ones_like(self.rows, dtype=torch.bool), state, final)
        if staying is not None:
            state, logits = state.at_rows(staying), logits[staying]
        state.take(self.schedule.loss(logits, self.aim).double(), state.best_gradient)
        if final:
            self.climb.images[self.here] = ball.shown(state.best, self.origin)
            self.climb.loss[self.here] = state.best_loss
        return state.best

    def _leave(self, logits: Tensor, finite: Tensor, state: _State, final: bool) -> Tensor | None:
        """Let samples go whose iterate reached the goal, or gave what is not finite: who stays; None if all do."""
        seen, hit = finite_rows(logits), self.goal.reached(logits) & final
        staying = seen & finite & ~hit
        if bool(staying.all()):
            return None
        out, stay = torch.nonzero(~staying).flatten(), torch.nonzero(staying).flatten()
        ball, origin = self.schedule.ball, self.origin[out]
        last = torch.where(seen[out].reshape(-1, 1, 1, 1), state.x[out], state.best[out])
        if not final:
            (last,) = self.victim.in_tiles(lambda b, o: (ball.project(b, o),), last, origin)
        self.climb.images[self.here[out]] = ball.shown(last, origin)
        self.climb.reached[self.here[out]] = self.climb.finite[self.here[out]] = hit[out]
        self.here, self.rows, self.origin = self.here[stay], self.rows[stay], self.origin[stay]
        self.goal, self.aim = self.goal.at(stay), self.aim.at(stay)
        return stay
