"""Square: Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box adversarial attack via
random search", ECCV 2020.

Random search: repaint a random square (l_inf), or move perturbation from one window into another (l_2, and l_1 as in
Croce & Hein, "Mind the box", ICML 2021), and keep what raises the margin. Squares shrink with the queries made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustlab.attacks._attack import Access, Attack, look
from robustlab.attacks._goal import Goal, finite_rows, margin
from robustlab.attacks._slugs import Option
from robustlab.attacks._turns import Turn, take_turns
from robustlab.attacks._victim import Victim
from robustlab.attacks.black_box._squares import DRAW_LIMIT, DRAWS, Moves, moves_in
from robustlab.core import keys as _keys
from robustlab.core.errors import check_int, check_number

_BLOCK = 256  # Steps whose random numbers are drawn at once: a generator costs as much as a few hundred numbers.
_START = 0  # Stands where a side would: the first query is on the published start.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # Of 10,000 queries; from the authors' code.


@dataclass(frozen=True)
class Square(Attack):
    """Random search over squares, on the margin of the logits, without a gradient.

    It stands and falls with no gradient, so a model that looks robust to a gradient attack and not to this one hides
    its gradient. Published with 10,000 queries, and with 5,000 in AutoAttack; p = 0.8 there.

    Attributes:
        steps: queries on each sample that the clean look leaves, at least 1.
        fraction: share of the pixels in the first squares, in (0, 1]; the published schedule halves it nine times.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> import torch
        >>> from robustlab.core import Linf
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.full((2, 3, 2, 2), 0.5)
        >>> labels = model(images).argmax(dim=1)
        >>> attack = Square(Linf(8 / 255), steps=100)
        >>> attack.slug
        'square100-linf-8of255'
        >>> result = attack.run(model, images, labels)
        >>> int(result.gradient_calls), bool((result.queries <= 101).all())
        (0, True)
    """

    steps: int = 5000
    fraction: float = 0.8

    name: ClassVar[str] = "square"
    options: ClassVar[tuple[Option, ...]] = (Option("fraction", "p", "number"),)
    access: ClassVar[Access] = "scores"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        check_number("fraction", self.fraction, 0.0, 1.0, open_low=True)

    def sides(self, shape: Sequence[int]) -> list[int]:
        """Side of the square of every step, for images (C, H, W), before the norm's own bounds."""
        pixels = int(shape[1]) * int(shape[2])
        found = []
        for step in range(self.steps):
            at = step * 10_000 // self.steps
            share = self.fraction / 2 ** sum(at > bound for bound in _HALVINGS)
            found.append(round(math.sqrt(share * pixels)))
        return found

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        rows, _, attacked = look(victim, origin, goal)
        result = origin.clone()
        if len(rows):
            moves = moves_in(self.ball, origin[rows])
            sides = [moves.bound(side) for side in self.sides(origin.shape[1:])]
            search = _Search(victim, moves, rows, goal.at(rows), keys[rows.to(keys.device)], sides)
            search.run()
            result[rows], attacked[rows] = search.best, search.finite
        return result, attacked


class _Search:
    """The walks of n samples: each is its own, so they take turns, and no call of a `Tiled` model is half empty."""

    def __init__(
        self, victim: Victim, moves: Moves, rows: Tensor, goal: Goal, keys: Tensor, sides: Sequence[int]
    ) -> None:
        count = len(rows)
        self.victim, self.moves, self.rows, self.goal, self.keys = victim, moves, rows, goal, keys
        self.best = moves.origin.clone()
        self.score = torch.full((count,), -torch.inf, dtype=torch.float64, device=rows.device)
        self.finite = torch.ones(count, dtype=torch.bool, device=rows.device)
        self.made = np.zeros(count, dtype=np.int64)  # Queries on each.
        self.sides = np.array([_START, *sides[1:]])
        self.numbers = torch.empty((count, _BLOCK, DRAWS), dtype=torch.int64, device=rows.device)

    def run(self) -> None:
        """Until every sample has reached its goal, has used its queries, or stopped giving finite logits."""
        width = self.victim.turn(len(self.rows), self.rows.device)
        take_turns(len(self.rows), width, self._step, lambda turn: self.sides[self.made[turn]])

    def _step(self, turn: Turn) -> Turn:
        """One query on each of `turn` (m,), whose squares are of one size: which of them go on."""
        side = int(self.sides[self.made[turn[0]]])
        at = torch.from_numpy(turn).to(self.rows.device)
        if side == _START:
            candidate = self.moves.start(at, _keys.derive(self.keys[turn], "start"))
        else:
            candidate = self.moves.propose(self.best, at, self._draw(turn, at), side)
        logits = self.victim.logits(candidate, self.rows.index_select(0, at))
        self.made[turn] += 1
        goal = self.goal.at(at)
        finite, score = finite_rows(logits), margin(logits, goal)
        going = finite.clone()
        better = (score > self.score.index_select(0, at)) & finite
        if bool((score >= 0).any()):  # A margin of 0 is a tie, which the order of the classes decides.
            reached = goal.reached(logits)
            better, going = better | reached, going & ~reached
        which = torch.nonzero(better).flatten()
        if len(which):
            self.best.index_copy_(0, at[which], candidate.index_select(0, which))
            self.score.index_copy_(0, at[which], score.index_select(0, which).to(self.score.dtype))
        if not bool(finite.all()):
            self.finite[at] = finite
        staying: Turn = turn[going.cpu().numpy() & (self.made[turn] < len(self.sides))]
        return staying

    def _draw(self, turn: Turn, at: Tensor) -> Tensor:
        """int64 (m, DRAWS): the numbers of each sample's next step, from its own stream."""
        step = self.made[turn] - 1
        fresh = turn[step % _BLOCK == 0]
        if len(fresh):  # At most two blocks, since samples of a turn are at the same query or one apart.
            for block in np.unique((self.made[fresh] - 1) // _BLOCK):
                of_block = fresh[(self.made[fresh] - 1) // _BLOCK == block]
                keys = _keys.derive(self.keys[of_block], f"steps {block}")
                self.numbers[of_block] = _keys.integers(keys, (_BLOCK, DRAWS), 0, DRAW_LIMIT, self.rows.device)
        return self.numbers[at, torch.from_numpy(step % _BLOCK).to(at.device)]
