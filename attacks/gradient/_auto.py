"""The loop of APGD: steps that halve themselves where a sample makes no progress, and go on from its best point.

Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML
2020, algorithm 1; for the l1 ball Croce & Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
classifiers", ICML 2021, algorithm 1.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from robustlab.attacks._goal import Goal, Loss, finite_rows
from robustlab.attacks._turns import Turn, take_turns
from robustlab.attacks._victim import Victim
from robustlab.core import Ball, Lattice, Linf
from robustlab.core.balls import sparse_sign
from robustlab.core.keys import derive, normal
from robustlab.kernels.ascent import Points, ascent_step, can_ascend

_log = logging.getLogger(__name__)

_MOMENTUM = 0.75  # Weight of the new step, 1 - 0.75 of the last one (2020, section 3.1).
_FIRST, _LEAST, _SHORTER = 0.22, 0.06, 0.03  # Checkpoints, in parts of all steps (2020, section 3.2).
_L1_PERIOD = 0.04  # Steps between checkpoints in the l1 ball, in parts of all steps.
_L1_SHARE = 0.2  # Of all values that the first steps in the l1 ball change.
_L1_FEWER = 1.5  # The next steps change the number of values that the best point changes, over this.
_L1_SHRINK, _L1_SMALLEST = 1.5, 10.0  # A step is divided by the first, and the full one at most by the second.
_L1_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # Radii over eps, and shares of the steps (2021, section 4.3).


def _changed(x: Tensor, origin: Tensor) -> Tensor:
    """int64 (n,): how many values differ."""
    return (x != origin).reshape(len(x), -1).sum(dim=1)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *([1] * (like.ndim - 1)))


@lru_cache(maxsize=64)
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


class Walks:
    """The climbs of n samples: from every start, and towards every class that is aimed at, one after the other.

    No sample depends on another, so they take turns, and no call of a `Tiled` model is half empty. A climb is one turn
    for each of its gradients, and for each of its balls one without a gradient, for the last iterate.

    Attributes:
        images: (n, C, H, W), the best image of each sample over all climbs: the one that reaches the goal, or that it
            had when it stopped giving finite values, else the one with the largest loss.
        finite: bool (n,), whether logits and gradients were finite all the way.
    """

    def __init__(
        self,
        victim: Victim,
        rows: Tensor,
        origin: Tensor,
        goal: Goal,
        aims: Sequence[Goal],
        keys: Tensor,
        schedule: AutoSchedule,
        restarts: int,
    ) -> None:
        """`rows` (n,): where the samples stand in the victim's batch; all other tensors are aligned with them."""
        count = len(rows)
        self.victim, self.rows, self.goal, self.aims, self.keys = victim, rows, goal, aims, keys
        self.schedule, self.stages, self.climbs = schedule, schedule.stages(), restarts * len(aims)
        self.images = origin.clone()
        self.finite = torch.ones(count, dtype=torch.bool, device=origin.device)
        # Of the climb that a sample is on; l1 alone knows `moves`, the values that a step changes, and `moved`, those
        # that the best point changed at the last checkpoint.
        x, old, best, best_gradient = (
            torch.zeros_like(origin, memory_format=torch.contiguous_format) for _ in range(4)
        )
        self.points = Points(x, old, best, best_gradient, origin.contiguous())
        self.loss, self.best_loss, self.checked, self.top = (
            torch.full((count,), -torch.inf, dtype=torch.float64, device=origin.device) for _ in range(4)
        )
        self.length = torch.zeros(count, device=origin.device)
        self.rises, self.moves, self.moved = (
            torch.zeros(count, dtype=torch.int64, device=origin.device) for _ in range(3)
        )
        self.halved = torch.ones(count, dtype=torch.bool, device=origin.device)
        self.made = np.zeros(count, dtype=np.int64)  # Turns that each has had.
        # What the turns of a climb are: in which ball, after how many steps in it, and whether it is the last there.
        self.stage = np.repeat(np.arange(len(self.stages)), [steps + 1 for _, steps in self.stages])
        self.step = np.concatenate([np.arange(steps + 1) for _, steps in self.stages])
        self.last = self.step == np.array([steps for _, steps in self.stages])[self.stage]

    def run(self) -> None:
        """Until every sample has reached its goal, has made all climbs, or stopped giving finite values."""

        def kind(turn: Turn) -> np.ndarray:
            place = self.made[turn] % len(self.step)
            kinds: np.ndarray = 2 * self.stage[place] + self.last[place]
            return kinds

        count = len(self.rows)
        take_turns(count, self.victim.turn(count, self.rows.device), self._turn, kind)

    def _turn(self, turn: Turn) -> Turn:
        """The next step, or last look, of each of `turn`, which are in one ball: those that go on."""
        climb, place = np.divmod(self.made[turn], len(self.step))
        step = self.step[place]
        for number in np.unique(climb[step == 0]):
            self._begin(self._at(turn[(step == 0) & (climb == number)]), int(number), int(self.stage[place[0]]))
        going = (self._look if self.last[place[0]] else self._step)(turn)
        self.made[turn] += 1
        staying: Turn = going[self.made[going] < self.climbs * len(self.step)]
        return staying

    def _at(self, turn: Turn) -> Tensor:
        return torch.from_numpy(turn).to(self.rows.device)

    def _begin(self, at: Tensor, climb: int, stage: int) -> None:
        """Before the first step of the samples `at` in a ball."""
        ball, origin = self.stages[stage][0], self.points.origin.index_select(0, at)
        values = origin[0].numel()
        if stage:
            best = self.points.best.index_select(0, at)
            (x,) = self.victim.in_tiles(lambda b, o: (ball.project(b, o),), best, origin)
            self.moved[at] = _changed(x, origin)
            self.moves[at] = (self.moved[at] / _L1_FEWER).long()
        else:
            restart, aim = divmod(climb, len(self.aims))
            keys = derive(self.keys[at.to(self.keys.device)], f"restart{restart}-aim{aim}")
            (x,) = self.victim.in_tiles(lambda o, k: (self.schedule.start(o, k),), origin, keys)
            self.moved[at], self.moves[at] = values, int(values * _L1_SHARE)
        for name, start in (("x", x), ("old", x), ("best", origin), ("best_gradient", torch.zeros_like(x))):
            getattr(self.points, name).index_copy_(0, at, start)
        for marks in (self.loss, self.best_loss, self.checked):
            marks[at] = -torch.inf
        self.length[at] = (1.0 if ball.norm_name == "l1" else 2.0) * ball.eps
        self.rises[at], self.halved[at] = 0, True

    def _step(self, turn: Turn) -> Turn:
        """One gradient, and one step along it."""
        at, place = self._at(turn), self.made[turn] % len(self.step)
        ball, steps = self.stages[self.stage[place[0]]]
        x, origin = self.points.x.index_select(0, at), self.points.origin.index_select(0, at)
        shown, aim = ball.shown(x, origin), self._aim(turn, at)
        logits, gradient = self.victim.differentiate(shown, aim, self.schedule.loss, self.rows.index_select(0, at))
        if not self.made.any() and not bool(gradient.any()):
            name = type(self.victim.network).__name__
            _log.warning("%s: the first gradient is zero for all %d samples; is it masked?", name, len(turn))
        staying = self._leave(turn, logits, finite_rows(gradient))
        if staying is not None:
            kept = torch.from_numpy(staying).to(at.device)
            turn, place, aim = turn[staying], place[staying], aim.at(kept)
            at, logits, gradient = (t.index_select(0, kept) for t in (at, logits, gradient))
            if not len(turn):
                return turn
        better = self._rise(at, self.schedule.loss(logits, aim).double())
        judged = checkpoints(steps, ball.norm_name)
        periods = np.array([judged.get(int(step), 0) for step in self.step[place]])
        first = torch.from_numpy(self.step[place] == 0).to(at.device)
        in_place = type(ball.inner if type(ball) is Lattice else ball) is Linf and can_ascend(gradient)
        if not in_place:
            self._keep_best(at, better, gradient)
        back = (
            self._judge(at, torch.from_numpy(periods).to(at.device), ball) if periods.any() else torch.zeros_like(first)
        )
        if in_place:
            ascent_step(
                self.points,
                at,
                gradient,
                better=better,
                back=back,
                first=first,
                length=self.length.index_select(0, at),
                eps=ball.eps,
                momentum=_MOMENTUM,
            )
        else:
            self._move(at, gradient, back, first, ball)
        return turn

    def _look(self, turn: Turn) -> Turn:
        """What the last iterate in a ball is worth; after the last ball, whether the climb was the best so far."""
        at, place = self._at(turn), self.made[turn] % len(self.step)
        ball, final = self.stages[self.stage[place[0]]][0], bool(self.stage[place[0]] == len(self.stages) - 1)
        shown = ball.shown(self.points.x.index_select(0, at), self.points.origin.index_select(0, at))
        logits, aim = self.victim.logits(shown, self.rows.index_select(0, at)), self._aim(turn, at)
        staying = self._leave(turn, logits, torch.ones_like(at, dtype=torch.bool))
        if staying is not None:
            kept = torch.from_numpy(staying).to(at.device)
            turn, at, logits, aim = turn[staying], at.index_select(0, kept), logits.index_select(0, kept), aim.at(kept)
            if not len(turn):
                return turn
        self._keep_best(at, self._rise(at, self.schedule.loss(logits, aim).double()))
        if final:
            loss = self.best_loss.index_select(0, at)
            above = (loss > self.top.index_select(0, at)) | torch.from_numpy(self.made[turn] < len(self.step)).to(
                at.device
            )
            where = at[above]
            best, origin = (t.index_select(0, where) for t in (self.points.best, self.points.origin))
            self.images.index_copy_(0, where, ball.shown(best, origin))
            self.top[where] = loss[above]
        return turn

    def _aim(self, turn: Turn, at: Tensor) -> Goal:
        """What the loss of each of `turn` is about; they are on one climb, or on two in succession."""
        numbers = self.made[turn] // len(self.step) % len(self.aims)
        if (numbers == numbers[0]).all():
            return self.aims[int(numbers[0])].at(at)
        parts = [self.aims[int(number)].at(at[i : i + 1]) for i, number in enumerate(numbers)]
        targets = [part.targets for part in parts if part.targets is not None]
        return Goal(torch.cat([part.labels for part in parts]), torch.cat(targets) if targets else None)

    def _leave(self, turn: Turn, logits: Tensor, finite: Tensor) -> np.ndarray | None:
        """Let samples go whose iterate reached the goal, or gave what is not finite: who stays; None if all do."""
        at, stage = self._at(turn), self.stage[self.made[turn[0]] % len(self.step)]
        ball, final = self.stages[stage][0], bool(stage == len(self.stages) - 1)
        seen, hit = finite_rows(logits), self.goal.at(at).reached(logits) & final
        staying = seen & finite & ~hit
        if bool(staying.all()):
            return None
        out = at[~staying]
        x, best, origin = (t.index_select(0, out) for t in (self.points.x, self.points.best, self.points.origin))
        last = torch.where(_wide(seen[~staying], x), x, best)
        if not final:
            ball = self.schedule.ball
            (last,) = self.victim.in_tiles(lambda b, o: (ball.project(b, o),), last, origin)
        self.images.index_copy_(0, out, ball.shown(last, origin))
        self.finite[out] = hit[~staying]
        stays: np.ndarray = np.flatnonzero(staying.cpu().numpy())
        return stays

    def _rise(self, at: Tensor, loss: Tensor) -> Tensor:
        """Note the `loss` (m,) of the iterates: bool (m,), which are the best of their climbs so far."""
        before, most = self.loss.index_select(0, at), self.best_loss.index_select(0, at)
        self.rises[at] += (loss > before) & torch.isfinite(before)
        self.loss[at] = loss
        better = loss > most
        self.best_loss[at] = torch.where(better, loss, most)
        return better

    def _keep_best(self, at: Tensor, better: Tensor, gradient: Tensor | None = None) -> None:
        which = torch.nonzero(better).flatten()
        where = at.index_select(0, which)
        self.points.best.index_copy_(0, where, self.points.x.index_select(0, where))
        if gradient is not None:
            self.points.best_gradient.index_copy_(0, where, gradient.index_select(0, which))

    def _judge(self, at: Tensor, period: Tensor, ball: Ball) -> Tensor:
        """Judge the progress of the last `period` (m,) steps, where that is not 0: who goes back to its best point."""
        due = torch.nonzero(period).flatten()
        rows, period = at.index_select(0, due), period.index_select(0, due)
        if ball.norm_name == "l1":
            best, origin = (t.index_select(0, rows) for t in (self.points.best, self.points.origin))
            now = _changed(best, origin)
            turned = now < 0.95 * self.moved[rows]
            length = torch.where(turned, ball.eps, self.length[rows] / _L1_SHRINK)
            self.length[rows] = length.clamp(ball.eps / _L1_SMALLEST, ball.eps)
            self.moves[rows], self.moved[rows] = (now / _L1_FEWER).long(), now
        else:
            stuck = ~self.halved[rows] & (self.checked[rows] >= self.best_loss[rows])
            turned = (self.rises[rows] <= self.schedule.rho * period) | stuck
            self.length[rows] = torch.where(turned, self.length[rows] / 2, self.length[rows])
            self.halved[rows], self.checked[rows], self.rises[rows] = turned, self.best_loss[rows], 0
        return torch.zeros_like(at, dtype=torch.bool).index_copy_(0, due, turned)

    def _move(self, at: Tensor, gradient: Tensor, back: Tensor, first: Tensor, ball: Ball) -> None:
        """What `ascent_step` does, for every ball: a step along `gradient`, or from the best point along its own."""
        x, old, best, best_gradient, origin = (t.index_select(0, at) for t in self.points.tensors())
        wide = _wide(back, x)
        x, gradient = torch.where(wide, best, x), torch.where(wide, best_gradient, gradient)
        length, moves = self.length.index_select(0, at), self.moves.index_select(0, at)
        (following,) = self.victim.in_tiles(partial(_step_in, ball), x, old, gradient, origin, length, moves, first)
        self.points.old.index_copy_(0, at, x)
        self.points.x.index_copy_(0, at, following)


def _step_in(
    ball: Ball, x: Tensor, old: Tensor, gradient: Tensor, origin: Tensor, length: Tensor, moves: Tensor, first: Tensor
) -> tuple[Tensor]:
    """The iterate after `x`, with momentum but in the l1 ball."""
    length = _wide(length, x)
    if ball.norm_name == "l1":
        return (ball.project(x + length * sparse_sign(gradient, moves.clamp(min=1)), origin),)
    following = ball.project(x + length * ball.ascent(gradient, x), origin)
    ahead = (following - x).mul_(_MOMENTUM).add_(x).add_(x - old, alpha=1 - _MOMENTUM)
    return (torch.where(_wide(first, x), following, ball.project(ahead, origin)),)
