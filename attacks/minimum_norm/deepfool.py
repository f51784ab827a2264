"""DeepFool: Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep networks", CVPR 2016."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._goal import Goal
from robustlab.attacks._images import FastImageGradients
from robustlab.attacks._slugs import Option
from robustlab.attacks._victim import logits_of, no_gradient
from robustlab.attacks.minimum_norm._norms import column, dual_norm
from robustlab.attacks.minimum_norm._search import MinimumNorm, Search, warn_if_masked
from robustlab.core.errors import check_int, check_number

_BEYOND = {"l2": 1e-4, "linf": 1e-5}  # Added to every step, so that what the box cuts off cannot stall it forever.


@dataclass(frozen=True)
class DeepFool(MinimumNorm):
    """The first adversarial image on a path over the nearest linearised decision boundaries.

    Cheap and not optimal: it stops once an image is adversarial, and says how far a model can be from robust rather
    than how near its boundary is.

    Attributes:
        ball: L2 or Linf, the radius infinite or the farthest that counts.
        steps: number of linearisations, at least 1; each costs a gradient for every candidate.
        overshoot: how much longer than to the boundary the path is, relative, >= 0.
        candidates: how many classes are linearised, the label's included: those with the largest clean logits; >= 2.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> DeepFool().slug
        'deepfool50-l2'
    """

    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10

    name: ClassVar[str] = "deepfool"
    targetable: ClassVar[bool] = False
    options: ClassVar[tuple[Option, ...]] = (
        Option("overshoot", "over", "number"),
        Option("candidates", "top", "int"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        check_number("overshoot", self.overshoot, 0.0)
        check_int("candidates", self.candidates, 2)

    def _search(self, search: Search) -> None:
        count = min(self.candidates, search.clean.shape[1]) - 1
        others = search.clean.scatter(1, search.goal.labels[:, None], -torch.inf)
        classes = others.argsort(dim=1, descending=True, stable=True)[:, :count]
        x, path = search.origin, torch.zeros_like(search.origin)
        for step in range(self.steps + 1):
            if step:
                x, reached, finite = search.ask(x)
                x, path, classes = search.keep(finite & ~reached, x, path, classes)
            if not len(x) or step == self.steps:
                return

            def tile(origin: Tensor, _keys: Tensor, goal: Goal, *state: Tensor) -> tuple[Tensor, ...]:
                return self._advance(search, origin, goal, *state)

            x, path, *gradient = search.in_tiles(tile, x, path, classes)
            search.victim.count(search.rows, gradient=True)
            search.victim.gradients[search.rows.cpu()] += count - 1
            if step == 0:
                warn_if_masked(search.victim, gradient[0])
            x, path, classes = search.keep(search.check(*gradient), x, path, classes)
            if not len(x):
                return

    def _advance(
        self, search: Search, origin: Tensor, goal: Goal, x: Tensor, path: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Following iterates and path, and the gradients they come from: of the nearest boundary."""
        norm_name = self.ball.norm_name
        with torch.enable_grad(), FastImageGradients():
            leaf = x.detach().requires_grad_()
            logits = logits_of(search.victim.network, leaf)
            gaps = (logits.gather(1, classes) - logits.gather(1, goal.labels[:, None])).to(x.dtype)
        gap, normal, nearest = gaps.detach()[:, 0], torch.zeros_like(x), torch.full_like(gaps.detach()[:, 0], torch.inf)
        for k, value in enumerate(gaps.detach().unbind(1)):
            gradient = self._gradient(search, gaps[:, k], leaf, last=k + 1 == gaps.shape[1])
            distance = value.abs() / dual_norm(norm_name, gradient).clamp(min=1e-12)
            better = (distance < nearest) | ~torch.isfinite(distance)  # What is not finite wins, so that it is seen.
            nearest, gap = torch.where(better, distance, nearest), torch.where(better, value, gap)
            normal = torch.where(column(better, x), gradient, normal)
        length = dual_norm(norm_name, normal).clamp(min=1e-12)
        direction = normal.sign() if norm_name == "linf" else normal / column(length, x)
        path = path + column(gap.abs() / length + _BEYOND[norm_name], x) * direction
        return (origin + (1 + self.overshoot) * path).clamp(0, 1), path, normal

    @staticmethod
    def _gradient(search: Search, gap: Tensor, images: Tensor, *, last: bool) -> Tensor:
        gradient = None
        if gap.requires_grad:
            (gradient,) = torch.autograd.grad(gap.sum(), images, retain_graph=not last, allow_unused=True)
        if gradient is None:
            raise no_gradient(search.victim.network)
        return gradient
