"""What minimum-norm attacks share: the nearest adversarial image of every sample so far, and who is still looking."""

from __future__ import annotations

import copy
import logging
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._attack import Attack, look
from robustlab.attacks._goal import Goal, Loss, finite_rows
from robustlab.attacks._turns import Turn, take_turns
from robustlab.attacks._victim import Victim, goal_tensors
from robustlab.core import L2, Ball, Lattice

_log = logging.getLogger(__name__)
_NEAREST = L2(math.inf)


@dataclass(frozen=True)
class MinimumNorm(Attack):
    """An attack that looks for the nearest image which the model gets wrong.

    With an infinite radius (the default) that image is the result. With a finite one the search is the same, and a
    sample whose nearest adversarial image is farther than `ball.eps` is returned unchanged, as is one for which none
    was found: all results are in the ball, and every changed sample is adversarial. With a `Lattice` the model is shown
    8-bit images, and the result is one.
    """

    ball: Ball = _NEAREST

    bounded: ClassVar[bool] = False

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        search = Search(self.ball, victim, origin, goal, keys)
        if len(search.rows):
            self._search(search)
        return search.result()

    @abstractmethod
    def _search(self, search: Search) -> None:
        """Offer adversarial images to `search`, which has at least one sample."""


class Search:
    """The samples of a batch that still look for an adversarial image, and the nearest one each has been offered.

    Attributes:
        ball: the norm to minimise, and the radius beyond which nothing counts.
        victim: the model under attack.
        rows: int64 (n,), where in the batch each sample that is still looking came from; as are `origin`, `goal` and
            `keys`, it is shortened by `keep`.
        clean: (n, K), the logits of the clean images of the samples that were looking at the start.
        shown: (x, origin) -> what the model is shown for iterates x (n, ...): `x`, or 8-bit images for a `Lattice`.
        distance: float64 (N,), of the nearest adversarial image of every sample of the batch; infinite without one.
    """

    def __init__(self, ball: Ball, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> None:
        """`origin` (N, C, H, W): the batch, whose samples with finite logits and an open goal look."""
        self.ball, self.victim = ball, victim
        self.rows, clean, self._attacked = look(victim, origin, goal)
        self.clean = clean.to(origin.dtype)
        self.origin, self.goal, self.keys = origin[self.rows], goal.at(self.rows), keys[self.rows.to(keys.device)]
        self.distance = torch.full((len(origin),), math.inf, dtype=torch.float64, device=origin.device)
        self.shown = _without_radius(ball).shown
        self._batch, self._images = origin, origin.clone()
        self._inside = torch.zeros_like(self._attacked)  # Whether the nearest image is in the ball.

    def part(self) -> Search:
        """A search of the same samples with the same findings, from which samples can leave on their own."""
        return copy.copy(self)

    def at(self, rows: Tensor) -> Search:
        """A search of the samples `rows` (m,) of this one alone, with the same findings."""
        part = self.part()
        part._narrow(rows)
        return part

    def in_tiles(self, function: Callable[..., tuple[Tensor, ...]], *state: Tensor) -> list[Tensor]:
        """Apply ``function(origin, keys, goal, *state)`` tile by tile, so that no sample depends on its neighbours."""
        goals = goal_tensors(self.goal)

        def tile(origin: Tensor, keys: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            return function(origin, keys, Goal(*rest[: len(goals)]), *rest[len(goals) :])

        return self.victim.in_tiles(tile, self.origin, self.keys, *goals, *state)

    def offer(self, images: Tensor, logits: Tensor) -> Tensor:
        """Keep those of `images` (n, C, H, W), as they were shown, that reach the goal and are nearer: reached (n,)."""
        reached = self.goal.reached(logits)
        found = torch.nonzero(reached).flatten()
        if len(found):
            (distance,) = self.in_tiles(lambda origin, _keys, _goal, x: (self.ball.distance(x, origin),), images)
            nearer = found[distance[found] < self.distance[self.rows[found]]]
            rows, these = self.rows[nearer], images[nearer]
            self.distance[rows], self._images[rows] = distance[nearer], these
            self._inside[rows] = self.ball.contains(these, self.origin[nearer])
        return reached

    def ask(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offer what is shown for iterates `x` (n, C, H, W): those images, and bool (n,) each: reached, finite."""
        (shown,) = self.in_tiles(lambda origin, _keys, _goal, x: (self.shown(x, origin),), x)
        logits = self.victim.logits(shown, self.rows)
        return shown, self.offer(shown, logits), self.check(logits)

    def keep(self, stay: Tensor, *state: Tensor) -> list[Tensor]:
        """Let only the samples `stay`, bool (n,), go on; `state` is aligned with them and returned shortened."""
        if bool(stay.all()):
            return list(state)
        rows = torch.nonzero(stay).flatten()
        self._narrow(rows)
        return [t.index_select(0, rows) for t in state]

    def _narrow(self, rows: Tensor) -> None:
        self.goal, self.keys = self.goal.at(rows), self.keys[rows.to(self.keys.device)]
        self.rows, self.origin = self.rows.index_select(0, rows), self.origin.index_select(0, rows)

    def check(self, *parts: Tensor) -> Tensor:
        """bool (n,): samples whose values are finite in all `parts` (n, ...). The others count as not attacked."""
        finite = finite_rows(parts[0])
        for values in parts[1:]:
            finite = finite & finite_rows(values)
        self._attacked[self.rows[~finite]] = False
        return finite

    def alive(self) -> Tensor:
        """bool (n,): samples that gave finite values so far."""
        return self._attacked[self.rows]

    def inside(self) -> Tensor:
        """bool (n,): samples with an adversarial image within a finite radius, which is all that can be wanted."""
        return self._inside[self.rows] & math.isfinite(self.ball.eps)

    def result(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), and bool (N,): attacked, which a sample with an adversarial image always was."""
        images = torch.where(self._inside[:, None, None, None], self._images, self._batch)
        return images, self._attacked | self._inside


def _without_radius(ball: Ball) -> Ball:
    if isinstance(ball, Lattice):
        return Lattice(_without_radius(ball.inner))
    return replace(ball, eps=math.inf)


@dataclass(frozen=True)
class Seen:
    """A tile of iterates `x`, shown to the model as `shown`, and what it said; all tensors are aligned with samples."""

    x: Tensor
    shown: Tensor
    origin: Tensor
    keys: Tensor
    goal: Goal
    logits: Tensor
    gradient: Tensor
    reached: Tensor


Advance = Callable[..., tuple[Tensor, ...]]
"""(steps made (n,), `Seen`, *state) -> following iterates and state."""


def walk(search: Search, steps: int, loss: Loss, advance: Advance, *state: Tensor) -> None:
    """`steps` gradients of `loss`, from the clean images on; every iterate is offered, the last one included.

    No sample depends on another, so they take turns, and no call of a `Tiled` model is half empty.
    """
    made = torch.zeros_like(search.rows)
    whole = [search.origin.clone(), *(values.clone() for values in state)]  # The iterates, and their state.
    ended = [made[:0]]

    def tile(origin: Tensor, keys: Tensor, goal: Goal, step: Tensor, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        shown = search.shown(x, origin)
        logits, gradient = search.victim.differentiate_tile(shown, goal, loss)
        seen = Seen(x, shown, origin, keys, goal, logits.to(x.dtype), gradient, goal.reached(logits))
        return shown, logits, gradient, *advance(step, seen, *state)

    def turn(walks: Turn) -> Turn:
        at = torch.from_numpy(walks).to(made.device)
        part = search.at(at)
        shown, logits, gradient, *following = part.in_tiles(
            tile, made[at], *(values.index_select(0, at) for values in whole)
        )
        part.victim.count(part.rows, gradient=True)
        if len(ended) == 1 and not bool(made.any()):
            warn_if_masked(part.victim, gradient)
        part.offer(shown, logits)
        at, *following = part.keep(part.check(logits, gradient), at, *following)
        for values, new in zip(whole, following, strict=True):
            values[at] = new
        made[at] += 1
        going = made[at] < steps
        ended.append(at[~going])
        return at[going].cpu().numpy()

    take_turns(len(made), search.victim.turn(len(made), made.device), turn)
    last = torch.cat(ended)
    if len(last):
        search.at(last).ask(whole[0].index_select(0, last))


def falling(step: Tensor, steps: int) -> Tensor:
    """float64 (n,): half a cosine, 1 before the first of `steps` steps and 0 after the last; `step` (n,) are made."""
    return (1 + torch.cos(math.pi * step.double() / steps)) / 2


def warn_if_masked(victim: Victim, gradient: Tensor) -> None:
    """Warn when a first gradient (n, ...) is zero everywhere."""
    if not bool(gradient.any()):
        name = type(victim.network).__name__
        _log.warning("%s: the first gradient is zero for all %d samples; is it masked?", name, len(gradient))
