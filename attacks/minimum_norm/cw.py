"""C&W: Carlini & Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, the l2 attack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._goal import Goal, margin
from robustlab.attacks._slugs import Option
from robustlab.attacks.minimum_norm._norms import column
from robustlab.attacks.minimum_norm._search import MinimumNorm, Search, warn_if_masked
from robustlab.core.errors import check_int, check_number

_INSIDE = 0.999999  # So that a value of 0 or 1 has a finite place in tanh space, as in the authors' code.
_MOMENTS = (0.9, 0.999)
_LEAST_WINDOW = 20  # Steps between two looks at the loss: across the boundary it rises for a few of them.
_PROGRESS = 0.9999  # A tenth of the steps that does not bring the loss below this part of what it was is the last.


@dataclass(frozen=True)
class CW(MinimumNorm):
    """The nearest adversarial image in l2: Adam on distance and margin, weighed by a binary search for each sample.

    Minimises ||x' - x||^2 + c max(-margin, -confidence) with x' = (tanh(w) + 1) / 2. The authors' code allows 10000
    steps for every weight; 1000 are the default here. As there, a sample stops early when its loss has settled.

    Attributes:
        ball: L2, the radius infinite or the farthest that counts.
        steps: steps of Adam for each weight c, at least 1.
        searches: how many weights are tried, at least 1.
        step_size: Adam's, > 0.
        constant: the first weight c, > 0; ten times as much after a failure as long as there was no success.
        confidence: the margin beyond which a sample is pushed no further, in logits, >= 0.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> from robustlab.core import L2
        >>> CW(L2(0.5), steps=100).slug
        'cw100-l2-0.5'
    """

    steps: int = 1000
    searches: int = 9
    step_size: float = 0.01
    constant: float = 0.001
    confidence: float = 0.0

    name: ClassVar[str] = "cw"
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    options: ClassVar[tuple[Option, ...]] = (
        Option("searches", "searches", "int"),
        Option("step_size", "step", "number"),
        Option("constant", "const", "number"),
        Option("confidence", "conf", "number"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        check_int("searches", self.searches, 1)
        check_number("step_size", self.step_size, 0.0, open_low=True)
        check_number("constant", self.constant, 0.0, open_low=True)
        check_number("confidence", self.confidence, 0.0)

    def _search(self, search: Search) -> None:
        weight = torch.full((len(search.rows),), self.constant, device=search.origin.device)
        low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        for trial in range(self.searches):
            reached = self._minimise(search.part(), weight, first=trial == 0)[search.rows]
            high = torch.where(reached, torch.minimum(high, weight), high)
            low = torch.where(reached, low, torch.maximum(low, weight))
            weight = torch.where(torch.isfinite(high), (low + high) / 2, weight * 10)
            weight, low, high = search.keep(search.alive(), weight, low, high)
            if not len(search.rows):
                return

    def _minimise(self, search: Search, weight: Tensor, *, first: bool) -> Tensor:
        """All steps for the weights `weight` (n,): bool (N,), samples of the batch that were adversarial once."""
        succeeded = torch.zeros_like(search.distance, dtype=torch.bool)
        w = ((2 * search.origin - 1) * _INSIDE).atanh()
        mean, square, before = torch.zeros_like(w), torch.zeros_like(w), torch.full_like(weight, torch.inf)
        window = max(_LEAST_WINDOW, self.steps // 10)
        for step in range(self.steps):
            tile = partial(self._adam, search, step)
            x, logits, gradient, loss, w, mean, square = search.in_tiles(tile, w, mean, square, weight)
            search.victim.count(search.rows, gradient=True)
            if first and step == 0:
                warn_if_masked(search.victim, gradient)
            stay = search.check(logits, gradient)
            succeeded[search.rows[search.offer(x, logits)]] = True
            if step % window == 0:
                stay, before = stay & (loss <= _PROGRESS * before), loss
            w, mean, square, weight, before = search.keep(stay, w, mean, square, weight, before)
            if not len(w):
                break
        return succeeded

    def _adam(
        self, search: Search, step: int, origin: Tensor, _keys: Tensor, goal: Goal, w: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Images at `w`, their logits, gradients of the margin and losses (n,); following `w` and Adam's moments."""
        mean, square, weight = state
        tanh = w.tanh()
        x = search.shown(((tanh + 1) / 2).clamp(0, 1), origin)
        logits, gradient = search.victim.differentiate_tile(x, goal, self._capped_margin)
        delta = x - origin
        loss = (delta * delta).flatten(1).sum(dim=1) - weight * self._capped_margin(logits, goal)
        slope = (2 * delta - column(weight, x) * gradient) * (1 - tanh * tanh) / 2
        mean = _MOMENTS[0] * mean + (1 - _MOMENTS[0]) * slope
        square = _MOMENTS[1] * square + (1 - _MOMENTS[1]) * slope * slope
        unbiased = (square / (1 - _MOMENTS[1] ** (step + 1))).sqrt() + 1e-8
        w = w - self.step_size / (1 - _MOMENTS[0] ** (step + 1)) * mean / unbiased
        return x, logits, gradient, loss, w, mean, square

    def _capped_margin(self, logits: Tensor, goal: Goal) -> Tensor:
        return margin(logits, goal).clamp(max=self.confidence)
