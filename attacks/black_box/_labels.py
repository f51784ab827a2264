"""Questions that are answered with yes or no, within a budget, and the nearest image that got a yes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustlab.attacks._goal import Goal
from robustlab.attacks._victim import Victim
from robustlab.core import Ball


class Decisions:
    """What n samples may ask: "is this image misclassified?", from labels alone.

    Attributes:
        origin: the clean images (n, C, H, W).
        nearest: the nearest misclassified image of each sample that was noted, the clean one if there is none; with a
            finite radius, only images in the ball count.
        left: int64 (n,), queries that a sample still has.
        finite: bool (n,), False once the model's logits were not finite.
    """

    def __init__(self, victim: Victim, ball: Ball, origin: Tensor, goal: Goal, rows: Tensor, budget: int) -> None:
        self.victim, self.ball, self.origin, self.goal, self.rows = victim, ball, origin, goal, rows
        self.nearest = origin.clone()
        self.distance = torch.full((len(origin),), math.inf, dtype=torch.float64, device=origin.device)
        self.left = torch.full((len(origin),), budget, dtype=torch.int64, device=origin.device)
        self.finite = torch.ones(len(origin), dtype=torch.bool, device=origin.device)

    def can_ask(self, at: Tensor) -> Tensor:
        """bool (m,): which of the samples `at` (m,) have queries left and a model that answers."""
        return self.finite[at] & (self.left[at] > 0)

    def going(self, at: Tensor | None = None) -> Tensor:
        """Those of the samples `at` (m,), by default all, that have queries left and something to look for."""
        at = torch.arange(len(self.origin), device=self.origin.device) if at is None else at
        open_ = self.can_ask(at)
        if math.isfinite(self.ball.eps):
            open_ &= self.distance[at] == math.inf
        return at[open_]

    def ask(self, images: Tensor, at: Tensor) -> Tensor:
        """bool (m,): whether `images` (m, C, H, W) of the samples `at` (m,) are misclassified.

        A sample may stand in `at` as often as it has queries left.
        """
        if not len(at):
            return torch.zeros(0, dtype=torch.bool, device=at.device)
        answers = self.victim.labels(images, self.rows[at])
        self.left.index_add_(0, at, torch.full_like(at, -1))
        known = answers >= 0
        self.finite[at[~known]] = False
        return self.goal.at(at).wants(answers) & known

    def note(self, x: Tensor, at: Tensor) -> None:
        """Remember misclassified images `x` (m, C, H, W) of the samples `at` (m,), each once, if they are nearer."""
        if not len(at):
            return
        origin = self.origin[at]
        shown = self.ball.shown(x, origin)
        distance = self.ball.distance(shown, origin)
        better = distance < self.distance[at]
        if math.isfinite(self.ball.eps):
            better &= self.ball.contains(shown, origin)
        if shown is not x:
            # What the ball makes of an image is another image, which must be asked about.
            worth = torch.nonzero(better & self.can_ask(at)).flatten()
            better = torch.zeros_like(better).index_put_((worth,), self.ask(shown[worth], at[worth]))
        self.distance[at[better]] = distance[better]
        self.nearest[at[better]] = shown[better]
