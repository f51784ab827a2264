"""DDN: Rony et al., "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks", CVPR 2019."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._goal import cross_entropy
from robustlab.attacks._slugs import Option
from robustlab.attacks.minimum_norm._norms import column, farthest, norm
from robustlab.attacks.minimum_norm._search import MinimumNorm, Search, Seen, falling, walk
from robustlab.core import L2, keys
from robustlab.core.errors import check_int, check_number

_LAST_RATE = 0.01  # The step length is annealed by a cosine from 1 to this.


@dataclass(frozen=True)
class DDN(MinimumNorm):
    """The nearest adversarial image in l2: gradient steps on a sphere that shrinks and grows.

    After a step along the cross-entropy's gradient the perturbation is rescaled to a norm that is `gamma` smaller
    than before if the image was adversarial, and `gamma` larger if not.

    Attributes:
        ball: L2, the radius infinite or the farthest that counts.
        steps: number of gradient steps, at least 1; published with 100, 300 and 1000.
        gamma: relative change of the norm in one step, in (0, 1).
        init_eps: the first norm, in image units, > 0.
        levels: with 256 every iterate is rounded to multiples of 1 / 255, so that the result is an 8-bit image; None
            does not round.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.full((2, 3, 2, 2), 0.5)
        >>> DDN(L2(0.5)).slug, DDN(steps=300, levels=256).slug
        ('ddn100-l2-0.5', 'ddn300-l2-levels256')
        >>> DDN(steps=10)(model, images, model(images).argmax(dim=1)).shape
        torch.Size([2, 3, 2, 2])
    """

    steps: int = 100
    gamma: float = 0.05
    init_eps: float = 1.0
    levels: int | None = None

    name: ClassVar[str] = "ddn"
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    options: ClassVar[tuple[Option, ...]] = (
        Option("gamma", "gamma", "number"),
        Option("init_eps", "init", "number"),
        Option("levels", "levels", "int"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        check_number("gamma", self.gamma, 0.0, 1 - 1e-9, open_low=True)
        check_number("init_eps", self.init_eps, 0.0, open_low=True)
        if self.levels is not None:
            check_int("levels", self.levels, 2)

    def _search(self, search: Search) -> None:
        radius = torch.full((len(search.rows),), self.init_eps, device=search.origin.device)
        walk(search, self.steps, cross_entropy, self._advance, radius)

    def _advance(self, step: Tensor, seen: Seen, radius: Tensor) -> tuple[Tensor, Tensor]:
        rate = _LAST_RATE + (1 - _LAST_RATE) * falling(step, self.steps)
        delta = seen.x - seen.origin + column(rate, seen.x).to(seen.x.dtype) * _direction(seen, step)
        radius = radius * torch.where(seen.reached, 1 - self.gamma, 1 + self.gamma)
        radius = torch.minimum(radius, farthest("l2", seen.origin))
        delta = delta * column(radius / norm("l2", delta).clamp(min=1e-12), delta)
        following = (seen.origin + delta).clamp(0, 1)
        if self.levels is not None:
            following = (following * (self.levels - 1)).round() / (self.levels - 1)
        return following, radius


def _direction(seen: Seen, step: Tensor) -> Tensor:
    """The gradient with length 1; a random direction where it is 0, as in the authors' code."""
    length = norm("l2", seen.gradient)
    lost = torch.nonzero(length == 0).flatten()
    gradient = seen.gradient
    for made in step[lost].unique().tolist():
        these = lost[step[lost] == made]
        drawn = keys.derive(seen.keys[these.to(seen.keys.device)], f"direction {made}")
        gradient = gradient.index_copy(0, these, keys.normal(drawn, gradient.shape[1:], gradient.device))
    return L2(math.inf).ascent(gradient)
