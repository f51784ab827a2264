"""AutoAttack: Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020; for the l1 ball Croce & Hein, "Mind the box", ICML 2021.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

from robustlab.attacks._attack import Attack
from robustlab.attacks._slugs import Option
from robustlab.attacks.black_box import Square
from robustlab.attacks.ensemble.cascade import Cascade
from robustlab.attacks.gradient import APGDCE, APGDDLR, APGDT
from robustlab.attacks.minimum_norm import FABT
from robustlab.core.errors import check_choice

_log = logging.getLogger(__name__)
_STEPS, _TARGETS, _QUERIES, _DRAWS = 100, 9, 5000, 20  # Those of the authors' code.


@dataclass(frozen=True)
class AutoAttack(Cascade):
    """APGD-CE, APGD-T, FAB-T and Square in turn, with the published parameters and none to choose.

    ``standard``: APGD on the cross-entropy, APGD on the targeted DLR loss and FAB-T towards the 9 most likely other
    classes (100 steps each), Square with 5,000 queries. ``rand``, for models that are random: APGD on the cross-entropy
    and on the DLR loss, 100 steps of the mean of 20 gradients. The targeted DLR loss needs 4 classes and the DLR loss
    3: on models with fewer, the attack that needs more is left out, and a warning says so.

    Attributes:
        variant: ``standard`` or ``rand``.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> import torch
        >>> from robustlab.core import Linf
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
        >>> images = torch.full((2, 3, 2, 2), 0.5)
        >>> attack = AutoAttack(Linf(8 / 255))
        >>> attack.slug
        'autoattack-linf-8of255'
        >>> found = attack.run_parts(model, images, (model(images).argmax(dim=1) + 1) % 4)
        >>> found.parts  # Both samples are wrong already.
        ()
    """

    variant: Literal["standard", "rand"] = "standard"

    name: ClassVar[str] = "autoattack"
    options: ClassVar[tuple[Option, ...]] = (Option("variant", "", "choice", ("standard", "rand")),)
    targetable: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("variant", self.variant, ("standard", "rand"))

    def parts(self, classes: int) -> tuple[Attack, ...]:
        """See `Cascade.parts`."""
        first: Attack
        second: Attack
        rest: tuple[Attack, ...]
        if self.variant == "rand":
            first, second, needed = APGDCE(self.ball, _STEPS, eot=_DRAWS), APGDDLR(self.ball, _STEPS, eot=_DRAWS), 3
            rest = ()
        else:
            first, second, needed = APGDCE(self.ball, _STEPS), APGDT(self.ball, _STEPS, classes=_TARGETS), 4
            rest = (FABT(self.ball, _STEPS, classes=_TARGETS), Square(self.ball, _QUERIES))
        if classes >= needed:
            return first, second, *rest
        _log.warning(
            "%s: %s needs %d classes and is left out, the model has %d", self.slug, second.slug, needed, classes
        )
        return first, *rest
