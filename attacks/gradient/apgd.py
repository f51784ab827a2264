"""APGD: PGD without a step size to choose, on the cross-entropy, on the DLR loss, or towards one class after another.

Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML
2020; for the l1 ball Croce & Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML
2021.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustlab.attacks._attack import Attack, look
from robustlab.attacks._goal import Goal, Loss, cross_entropy, difference_of_logits_ratio
from robustlab.attacks._slugs import Option
from robustlab.attacks._victim import Victim
from robustlab.attacks.gradient._auto import AutoSchedule, Walks
from robustlab.core.errors import check_int, check_number

_RESTARTS, _RHO, _EOT = (
    Option("restarts", "restarts", "int"),
    Option("rho", "rho", "number"),
    Option("eot", "eot", "int"),
)


@dataclass(frozen=True)
class _APGD(Attack):
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    eot: int = 1

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    options: ClassVar[tuple[Option, ...]] = (_RESTARTS, _RHO, _EOT)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        check_int("restarts", self.restarts, 1)
        check_number("rho", self.rho, 0.0, 1.0)
        check_int("eot", self.eot, 1)

    @property
    def draws(self) -> int:
        """`eot`."""
        return self.eot

    @property
    @abstractmethod
    def _loss(self) -> Loss:
        """What is ascended."""

    def _aims(self, goal: Goal, logits: Tensor) -> list[Goal]:
        """What the loss is about, one start after the other; logits (N, K) are those of the clean images."""
        return [goal]

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        rows, logits, attacked = look(victim, origin, goal)
        images = origin.clone()
        if len(rows):
            narrow = goal.at(rows)
            schedule = AutoSchedule(self.ball, self.steps, self._loss, self.rho)
            aims = self._aims(narrow, logits)
            walks = Walks(victim, rows, origin[rows], narrow, aims, keys[rows.to(keys.device)], schedule, self.restarts)
            walks.run()
            images[rows], attacked[rows] = walks.images, walks.finite
        return images, attacked


@dataclass(frozen=True)
class APGDCE(_APGD):
    """Auto-PGD on the cross-entropy.

    Every sample has a step size of its own: 2 eps at first, halved where too few steps raise the loss or the best
    point stays, from which it then goes on. In the l1 ball the steps are sparse, with a number of values that follows
    the best point, and the ball shrinks from 3 eps over 2 eps. Published with 100 steps and 1 to 5 restarts. The point
    with the largest loss is returned, and for a sample that reaches the goal the iterate that does.

    Attributes:
        steps: from each start, at least 1.
        restarts: number of random starts; a sample takes another only while it survives.
        rho: the part of the steps since the last checkpoint that must have raised the loss, in [0, 1].
        eot: gradients averaged in each step, for models that are random.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> import torch
        >>> from robustlab.core import Linf
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.full((2, 3, 2, 2), 0.5)
        >>> attack = APGDCE(Linf(8 / 255))
        >>> attack.slug
        'apgdce100-linf-8of255'
        >>> adversarial = attack(model, images, model(images).argmax(dim=1))
        >>> bool(attack.ball.contains(adversarial, images).all())
        True
    """

    name: ClassVar[str] = "apgdce"

    @property
    def _loss(self) -> Loss:
        return cross_entropy


@dataclass(frozen=True)
class APGDDLR(_APGD):
    """Auto-PGD on the difference of logits ratio, which does not saturate and does not see the scale of the logits.

    As `APGDCE`; the model must have at least 3 classes, and 4 for an attack with targets.

    Attributes:
        steps: from each start, at least 1.
        restarts: number of random starts; a sample takes another only while it survives.
        rho: the part of the steps since the last checkpoint that must have raised the loss, in [0, 1].
        eot: gradients averaged in each step, for models that are random.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).
    """

    name: ClassVar[str] = "apgddlr"

    @property
    def _loss(self) -> Loss:
        return difference_of_logits_ratio


@dataclass(frozen=True)
class APGDT(_APGD):
    """Auto-PGD on the targeted DLR loss, towards the most likely other classes one after the other.

    The classes are ordered by the logits of the clean image; a sample leaves as soon as it is wrong in any way. With
    `targets` each sample is attacked towards its own target alone. The model must have at least 4 classes.

    Attributes:
        steps: from each start, at least 1.
        restarts: how often all classes are tried; a sample is attacked only while it survives.
        rho: the part of the steps since the last checkpoint that must have raised the loss, in [0, 1].
        eot: gradients averaged in each step, for models that are random.
        classes: how many other classes are tried, at least 1; all others where there are fewer.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).
    """

    classes: int = 9

    name: ClassVar[str] = "apgdt"
    options: ClassVar[tuple[Option, ...]] = (_RESTARTS, _RHO, _EOT, Option("classes", "classes", "int"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("classes", self.classes, 1)

    @property
    def _loss(self) -> Loss:
        return difference_of_logits_ratio

    def _aims(self, goal: Goal, logits: Tensor) -> list[Goal]:
        if goal.targets is not None:
            return [goal]
        order = logits.scatter(1, goal.labels[:, None], -float("inf")).argsort(dim=1, descending=True, stable=True)
        return [Goal(goal.labels, order[:, k]) for k in range(min(self.classes, logits.shape[1] - 1))]
