"""Transfer: adversarial images made on models one has, shown to a model one has not.

Papernot et al., "Transferability in Machine Learning", 2016; for ensembles Liu et al., "Delving into Transferable
Adversarial Examples and Black-box Attacks", ICLR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor, nn

from robustlab.attacks._attack import Attack, look
from robustlab.attacks._goal import Goal
from robustlab.attacks._slugs import check_flag
from robustlab.attacks._victim import Victim
from robustlab.attacks.gradient._loop import GradientAttack
from robustlab.attacks.transfer._together import Ensemble
from robustlab.core import Ball, Tiled, frozen
from robustlab.core.errors import invalid
from robustlab.core.tiles import DEFAULT_TILE
from robustlab.deploy import fingerprint, load
from robustlab.deploy.graph import unoptimized


@dataclass(frozen=True, repr=False)
class Transfer(Attack):
    """`attack` made on `sources` and judged on the model that it is called with, which only gives its classes.

    Attributes:
        attack: what makes the images, in its own ball.
        sources: the models it is made on, or their names such as ``robustlab:signs_float``; of several, the mean of
            their logits is attacked.
        early_exit: stop at the first image that fools the sources, as the attack does on a model it has. By default a
            gradient attack goes on to its last step, on samples too that the sources get wrong: such images transfer
            better. Other attacks always end as they do.

    A sample that the judged model gets wrong already is returned unchanged, as of any attack. Results do not depend on
    the judged model's batches, and repeat with the keys. Its slug names the sources by a hash and cannot be parsed.

    Raises `ArgumentError` for an attack that is none, or no sources.
    """

    ball: Ball = field(init=False)
    attack: Attack
    sources: Sequence[nn.Module | str]
    early_exit: bool = False

    name = "transfer"
    access = "labels"
    version = 1

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack) or isinstance(self.attack, Transfer):
            raise invalid("attack", self.attack, "an attack such as PGD(Linf(8 / 255))")
        if isinstance(self.sources, (str, nn.Module)) or not self.sources:
            raise invalid("sources", self.sources, "a list of at least one model or name of a model")
        for source in self.sources:
            if not isinstance(source, (str, nn.Module)):
                raise invalid("sources", type(source).__name__, "models, or names of models")
        check_flag("early_exit", self.early_exit)
        loaded = tuple(load(source) if isinstance(source, str) else source for source in self.sources)
        object.__setattr__(self, "sources", loaded)
        object.__setattr__(self, "ball", self.attack.ball)

    @property
    def slug(self) -> str:
        """Such as ``transfer-pgd20-linf-8of255-from-0123456789ab``."""
        names = "+".join(self._fingerprints()) + ("!" if self.early_exit else "")
        return f"transfer-{self.attack.slug}-from-{sha256(names.encode()).hexdigest()[:12]}"

    def __repr__(self) -> str:
        """With the fingerprints of the sources: part of the key of what is stored."""
        return f"Transfer({self.attack!r}, v{self.attack.version}, {self._fingerprints()}, {self.early_exit})"

    def _fingerprints(self) -> list[str]:
        return [fingerprint(source) for source in self.sources if isinstance(source, nn.Module)]

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        rows, _, attacked = look(victim, origin, goal)
        result = origin.clone()
        if len(rows):
            made, worked = craft(
                self.attack, self._models(), victim, origin[rows], goal.at(rows), keys[rows.to(keys.device)],
                early_exit=self.early_exit,
            )  # fmt: skip
            result[rows], attacked[rows] = made, worked
        return result, attacked

    def _models(self) -> list[nn.Module]:
        return [source for source in self.sources if isinstance(source, nn.Module)]


def craft(
    attack: Attack,
    sources: Sequence[nn.Module],
    judged: Victim,
    origin: Tensor,
    goal: Goal,
    keys: Tensor,
    *,
    early_exit: bool,
) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) made on `sources`, in tiles as the judged model has them, and where that worked (N,)."""
    together = Tiled(Ensemble([unoptimized(source) for source in sources]), judged.tile or DEFAULT_TILE)
    if isinstance(attack, GradientAttack) and not early_exit:
        goal = Restless(goal.labels, goal.targets)
    with frozen(together):
        return attack._attack(Victim(together, len(origin), attack.draws), origin, goal, keys)


class Restless(Goal):
    """The same goal, never reached: nobody leaves early."""

    def reached(self, logits: Tensor) -> Tensor:
        """False everywhere."""
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)

    def at(self, rows: Tensor) -> Goal:
        """The goal of the samples `rows` (n,)."""
        return Restless(self.labels[rows], None if self.targets is None else self.targets[rows])
