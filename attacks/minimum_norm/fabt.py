"""FAB-T: Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.

The targeted version of Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, as in AutoAttack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._goal import Goal
from robustlab.attacks._slugs import Option
from robustlab.attacks.minimum_norm._hyperplane import step_onto
from robustlab.attacks.minimum_norm._norms import norm
from robustlab.attacks.minimum_norm._search import MinimumNorm, Search, warn_if_masked
from robustlab.core.errors import check_int, check_number


@dataclass(frozen=True)
class FABT(MinimumNorm):
    """The nearest adversarial image in linf, l2 or l1: steps onto the linearised boundary to one class after another.

    Every step lands between the projections of the iterate and of the clean image onto the boundary, inside the image
    box and slightly beyond it; from an adversarial iterate the way leads back towards the clean image. Any class but
    the label counts. With a finite radius a sample is finished as soon as it has an adversarial image inside.

    Attributes:
        ball: Linf, L2 or L1, the radius infinite or the farthest that counts.
        steps: steps towards each class, at least 1; each costs a gradient and a forward pass.
        classes: how many classes are aimed at: those with the largest clean logits besides the label; at least 1.
        alpha_max: the largest weight of the clean image's projection, in [0, 1].
        eta: how far a step goes, 1 is onto the boundary; >= 1.
        beta: what an adversarial iterate's perturbation is multiplied by, in (0, 1).

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> from robustlab.core import Linf
        >>> FABT(Linf(8 / 255)).slug
        'fabt100-linf-8of255'
    """

    steps: int = 100
    classes: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    name: ClassVar[str] = "fabt"
    targetable: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    options: ClassVar[tuple[Option, ...]] = (
        Option("classes", "classes", "int"),
        Option("alpha_max", "alpha", "number"),
        Option("eta", "eta", "number"),
        Option("beta", "beta", "number"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        check_int("classes", self.classes, 1)
        check_number("alpha_max", self.alpha_max, 0.0, 1.0)
        check_number("eta", self.eta, 1.0)
        check_number("beta", self.beta, 0.0, 1 - 1e-9, open_low=True)

    def _search(self, search: Search) -> None:
        others = search.clean.scatter(1, search.goal.labels[:, None], -torch.inf)
        order = others.argsort(dim=1, descending=True, stable=True)
        for rank in range(min(self.classes, order.shape[1] - 1)):
            self._aim(search.part(), order[:, rank], first=rank == 0)
            (order,) = search.keep(search.alive() & ~search.inside(), order)
            if not len(search.rows):
                return

    def _aim(self, search: Search, targets: Tensor, *, first: bool) -> None:
        """All steps towards the classes `targets` (n,), one for every sample that looks."""
        victim, x = search.victim, search.origin

        def tile(origin: Tensor, _keys: Tensor, goal: Goal, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            x = search.shown(x, origin)
            logits, gradient = victim.differentiate_tile(x, Goal(goal.labels, targets), _gap)
            gap = _gap(logits, Goal(goal.labels, targets)).to(x.dtype)
            return self._step(x, origin, gap, gradient), gradient

        def back(origin: Tensor, _keys: Tensor, _goal: Goal, x: Tensor) -> tuple[Tensor]:
            return (origin + (x - origin) * self.beta,)

        for step in range(self.steps):
            x, gradient = search.in_tiles(tile, x, targets)
            victim.count(search.rows, gradient=True)
            if first and step == 0:
                warn_if_masked(victim, gradient)
            x, targets = search.keep(search.check(x, gradient), x, targets)
            if not len(x):
                return
            _, reached, finite = search.ask(x)
            stay = finite & ~search.inside()
            x, targets, reached = search.keep(stay, x, targets, reached)
            if not len(x):
                return
            if bool(reached.any()):
                x = torch.where(reached[:, None, None, None], search.in_tiles(back, x)[0], x)

    def _step(self, x: Tensor, origin: Tensor, gap: Tensor, gradient: Tensor) -> Tensor:
        """From `x` (n, ...), where the wanted class is `gap` (n,) in front of the label, to the following iterates."""
        here, start, normal = x.flatten(1), origin.flatten(1), gradient.flatten(1)
        norm_name = self.ball.norm_name
        onward = step_onto(norm_name, here, normal, -gap)
        anew = step_onto(norm_name, start, normal, -gap + (normal * (here - start)).sum(dim=1))
        length, again = (norm(norm_name, d).clamp(min=1e-8) for d in (onward, anew))
        alpha = (length / (length + again)).clamp(max=self.alpha_max)[:, None]
        following = (here + self.eta * onward) * (1 - alpha) + (start + self.eta * anew) * alpha
        return following.clamp(0, 1).reshape(x.shape)


def _gap(logits: Tensor, goal: Goal) -> Tensor:
    """The target's logit minus the label's (n,)."""
    assert goal.targets is not None
    return (logits.gather(1, goal.targets[:, None]) - logits.gather(1, goal.labels[:, None]))[:, 0]
