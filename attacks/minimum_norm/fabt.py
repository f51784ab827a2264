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
from robustlab.attacks._turns import Turn, take_turns
from robustlab.attacks.minimum_norm._hyperplane import boundary_step
from robustlab.attacks.minimum_norm._norms import column
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
        _Walks(self, search).run()

    def _step(self, x: Tensor, origin: Tensor, gap: Tensor, gradient: Tensor) -> Tensor:
        """From `x` (n, ...), where the wanted class is `gap` (n,) in front of the label, to the following iterates."""
        rows = (x.flatten(1), origin.flatten(1), gradient.flatten(1), gap)
        return boundary_step(self.ball.norm_name, *rows, alpha_max=self.alpha_max, eta=self.eta).reshape(x.shape)


class _Walks:
    """One walk for each sample of a search, towards one class after the other.

    No walk depends on another, so they take turns, and no call of a `Tiled` model is half empty.

    Attributes:
        classes: int64 (n, K), the classes that a sample's walk aims at, in order.
        x: (n, C, H, W), where it is.
        made: int64 (n,), steps that it has made, towards all classes.
        first: whether no gradient has been seen yet.
    """

    def __init__(self, attack: FABT, search: Search) -> None:
        self.attack, self.search = attack, search
        others = search.clean.scatter(1, search.goal.labels[:, None], -torch.inf)
        order = others.argsort(dim=1, descending=True, stable=True)
        self.classes = order[:, : min(attack.classes, order.shape[1] - 1)]
        self.x = search.origin.clone()
        self.made = torch.zeros_like(search.goal.labels)
        self.first = True

    def run(self) -> None:
        """Until every sample has made all steps, has an image that is near enough, or stopped giving finite values."""
        take_turns(len(self.x), self.search.victim.turn(len(self.x), self.x.device), self._turn)

    def _turn(self, turn: Turn) -> Turn:
        """One step of each of `turn`: those that go on."""
        return self._advance(torch.from_numpy(turn).to(self.x.device)).cpu().numpy()

    def _advance(self, at: Tensor) -> Tensor:
        search, steps = self.search.at(at), self.attack.steps
        victim, x = search.victim, self.x.index_select(0, at)
        targets = self.classes[at, self.made[at] // steps]

        def tile(origin: Tensor, _keys: Tensor, goal: Goal, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            x = search.shown(x, origin)
            logits, gradient = victim.differentiate_tile(x, Goal(goal.labels, targets), _gap)
            gap = _gap(logits, Goal(goal.labels, targets)).to(x.dtype)
            return self.attack._step(x, origin, gap, gradient), gradient

        x, gradient = search.in_tiles(tile, x, targets)
        victim.count(search.rows, gradient=True)
        if self.first:
            warn_if_masked(victim, gradient)
            self.first = False
        x, at = search.keep(search.check(x, gradient), x, at)
        if not len(at):
            return at
        _, reached, finite = search.ask(x)
        x, at, reached = search.keep(finite & ~search.inside(), x, at, reached)
        made = self.made[at] + 1
        anew = made % steps == 0  # Towards the next class, from the clean image.
        share = torch.where(reached, self.attack.beta, 1.0).masked_fill(anew, 0).to(x.dtype)
        moved = column(share != 1, x)
        if bool(moved.any()):
            x = torch.where(moved, (x - search.origin).mul_(column(share, x)).add_(search.origin), x)
        self.x[at], self.made[at] = x, made
        return at[made < steps * self.classes.shape[1]]


def _gap(logits: Tensor, goal: Goal) -> Tensor:
    """The target's logit minus the label's (n,)."""
    assert goal.targets is not None
    return (logits.gather(1, goal.targets[:, None]) - logits.gather(1, goal.labels[:, None]))[:, 0]
