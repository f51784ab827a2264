"""FMN: Pintor et al., "Fast minimum-norm adversarial attacks through adaptive norm constraints", NeurIPS 2021."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._goal import margin
from robustlab.attacks._slugs import Option
from robustlab.attacks.minimum_norm._norms import column, dual_norm, farthest, norm, shrink
from robustlab.attacks.minimum_norm._search import MinimumNorm, Search, Seen, falling, walk
from robustlab.core import L2
from robustlab.core.errors import check_int, check_number

_LAST_GAMMA = 0.001
_LAST_STEP = 0.01  # Relative to the first one.


@dataclass(frozen=True)
class FMN(MinimumNorm):
    """The nearest adversarial image in l0, l1, l2 or linf: steps inside a ball that follows the decision boundary.

    Until a sample is adversarial its ball reaches to the linearised boundary; from then on the ball gets `gamma`
    smaller where an iterate is adversarial, and larger where it is not. Step length and `gamma` fall like a cosine.

    Attributes:
        ball: L0, L1, L2 or Linf, the radius infinite or the farthest that counts.
        steps: number of gradient steps, at least 1; published with up to 1000.
        step_size: length (l2) of the first step along the margin's gradient, in image units, > 0; the last one is a
            hundredth of it.
        gamma: relative change of the first ball's radius, in (0, 1); the last one is 0.001.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> import math
        >>> from robustlab.core import Linf
        >>> FMN(Linf(math.inf)).slug, FMN(Linf(8 / 255), steps=300).slug
        ('fmn100-linf', 'fmn300-linf-8of255')
    """

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05

    name: ClassVar[str] = "fmn"
    norms: ClassVar[tuple[str, ...]] = ("l0", "l1", "l2", "linf")
    options: ClassVar[tuple[Option, ...]] = (
        Option("step_size", "step", "number"),
        Option("gamma", "gamma", "number"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        check_number("step_size", self.step_size, 0.0, open_low=True)
        check_number("gamma", self.gamma, 0.0, 1 - 1e-9, open_low=True)

    def _search(self, search: Search) -> None:
        first = 1.0 if self.ball.norm_name == "l0" else 0.0
        radius = torch.full((len(search.rows),), first, device=search.origin.device)
        walk(search, self.steps, margin, self._advance, radius, torch.full_like(radius, math.inf))

    def _advance(self, step: Tensor, seen: Seen, radius: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Following iterates, radius (n,) of their balls, and norm (n,) of the nearest adversarial image so far."""
        cosine = falling(step, self.steps)
        gamma = _LAST_GAMMA + (self.gamma - _LAST_GAMMA) * cosine
        rate = self.step_size * (_LAST_STEP + (1 - _LAST_STEP) * cosine)
        name, delta, dtype = self.ball.norm_name, seen.x - seen.origin, seen.x.dtype
        less, more, rate = (1 - gamma).to(dtype), (1 + gamma).to(dtype), column(rate, delta).to(dtype)
        size = norm(name, delta)
        nearest = torch.where(seen.reached, torch.minimum(norm(name, seen.shown - seen.origin), nearest), nearest)
        if name == "l0":
            smaller = torch.minimum(torch.minimum(radius - 1, (radius * less).floor()), nearest)
            larger = torch.maximum(radius + 1, (radius * more).floor())
            radius = torch.where(seen.reached, smaller, larger).clamp(min=1)
        else:
            boundary = margin(seen.logits, seen.goal).abs() / dual_norm(name, seen.gradient).clamp(min=1e-12)
            # The paper has size + boundary before the first success, and where the image box cuts steps off, that is
            # approached but never crossed: the ball grows as well.
            beyond = torch.where(torch.isfinite(nearest), radius, torch.maximum(radius, size + boundary))
            larger = beyond * more
            radius = torch.where(seen.reached, torch.minimum(radius * less, nearest), larger)
        radius = torch.minimum(radius, farthest(name, torch.ones_like(delta) if name == "l0" else seen.origin))
        delta = shrink(name, delta + rate * L2(math.inf).ascent(seen.gradient), radius)
        return (seen.origin + delta).clamp(0, 1), radius, nearest
