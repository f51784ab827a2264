"""Images on which a compressed model fails and the model it was made of does not.

Hao et al., "A Tale of Two Models: Constructing Evasive Attacks on Edge Models" (DIVA), MLSys 2022: projected ascent of
p_float(y) - c * p_compressed(y), the probabilities of the true class, with c = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustlab.attacks._attack import Attack
from robustlab.attacks._goal import Goal, finite_rows
from robustlab.attacks._victim import Victim, logits_of, network_of, no_gradient
from robustlab.attacks.gradient._loop import ascend
from robustlab.attacks.gradient.pgd import PGD
from robustlab.attacks.transfer._together import Pair
from robustlab.core import Tiled, frozen
from robustlab.core.access import gives
from robustlab.core.errors import check_number, invalid
from robustlab.deploy import fingerprint, load, unoptimized


@dataclass(frozen=True, repr=False)
class Divergence(Attack):
    """DIVA: images that the attacked (compressed) model gets wrong and `authority` (the float model) gets right.

    Success of a sample is both at once, see `diverges`. A sample that is so already is returned unchanged.

    Attributes:
        ball: the threat model.
        authority: the model that is to stay right, or its name such as ``robustlab:signs_float``.
        steps, step_size, random_start: as of `PGD`; published for Linf(8 / 255): 20 steps of 1/255.
        weight: c, how much the compressed model's failure counts beside the authority's answer, > 0.

    Raises `ArgumentError` for bad parameters.
    """

    authority: nn.Module | str
    steps: int = 20
    step_size: float | None = None
    random_start: bool = True
    weight: float = 1.0

    name: ClassVar[str] = "diva"
    targetable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pgd()  # checks what it shares with it
        check_number("weight", self.weight, 0.0, open_low=True)
        if not isinstance(self.authority, (str, nn.Module)):
            raise invalid("authority", type(self.authority).__name__, "a model, or the name of one")
        if isinstance(self.authority, str):
            object.__setattr__(self, "authority", load(self.authority))
        if not gives(network_of(self._authority), "gradient"):
            raise invalid("authority", type(network_of(self._authority)).__name__, "a model that gives a gradient")

    @classmethod
    def of(cls, attack: Attack, authority: nn.Module | str) -> Divergence:
        """With ball, steps and start of a `PGD`; `ArgumentError` for another attack, or one with more to it."""
        if not isinstance(attack, PGD) or attack != PGD(
            attack.ball, attack.steps, attack.step_size, attack.random_start
        ):
            raise invalid("attack", attack.slug, "a PGD attack such as pgd20-linf-8of255, without other options")
        return cls(attack.ball, authority, attack.steps, attack.step_size, attack.random_start)

    @property
    def slug(self) -> str:
        """Such as ``diva20-linf-8of255-from-0123456789ab``: the authority by its fingerprint. It cannot be parsed."""
        weight = "" if self.weight == 1 else f"-weight{self.weight:g}"
        return f"diva{self._pgd().slug.removeprefix('pgd')}{weight}-from-{fingerprint(self._authority)[:12]}"

    def __repr__(self) -> str:
        """With the authority's fingerprint: part of the key of what is stored."""
        return f"Divergence({self._pgd()!r}, {self.weight}, {fingerprint(self._authority)})"

    @property
    def _authority(self) -> nn.Module:
        assert isinstance(self.authority, nn.Module)
        return self.authority

    def _pgd(self) -> PGD:
        return PGD(self.ball, self.steps, self.step_size, self.random_start)

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        pair: nn.Module = Pair(victim.network, unoptimized(self._authority))
        if victim.tile is not None:
            pair = Tiled(pair, victim.tile).eval()
        with frozen(self._authority):
            self._check(victim, origin[:1], goal)
            both = Victim(pair, len(origin))
            schedule = replace(self._pgd().schedule, loss=self._loss)
            result, attacked = ascend(both, origin, Parting(goal.labels), keys, schedule)
        victim.queries += both.queries
        victim.gradients += both.gradients
        return result, attacked

    def _check(self, victim: Victim, image: Tensor, goal: Goal) -> None:
        """Raise `ArgumentError` unless both models differentiate, have the same classes, and are not one."""
        authority = network_of(self._authority)
        if authority is victim.network or fingerprint(authority) == fingerprint(victim.network):
            raise invalid("authority", type(authority).__name__, "another model than the one under attack")
        classes = []
        for network in (victim.network, unoptimized(authority)):
            with torch.enable_grad():
                logits = logits_of(network, image.detach().clone().requires_grad_())
            if not logits.requires_grad:
                raise no_gradient(network)
            classes.append(logits.shape[1])
        if classes[0] != classes[1]:
            raise invalid(
                "authority", f"a model of {classes[1]} classes", f"one of {classes[0]}, as the attacked model"
            )
        goal.check(classes[0])

    def _loss(self, logits: Tensor, goal: Goal) -> Tensor:
        compressed, authority = (
            z.double().softmax(1).gather(1, goal.labels[:, None])[:, 0] for z in logits.chunk(2, dim=1)
        )
        return authority - self.weight * compressed

    def diverges(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """bool (N,): whether `model` gets an image wrong, with finite logits, and the authority gets it right."""
        with torch.no_grad():
            pair = Tiled(Pair(unoptimized(model), unoptimized(self._authority)))
            return Parting(labels).reached(pair(images))


class Parting(Goal):
    """Of the logits of two models side by side (N, 2 K): the first wrong, the second right, all finite."""

    def reached(self, logits: Tensor) -> Tensor:
        """bool (N,)."""
        first, second = (z.argmax(1) for z in logits.chunk(2, dim=1))
        return (first != self.labels) & (second == self.labels) & finite_rows(logits)

    def at(self, rows: Tensor) -> Goal:
        """The goal of the samples `rows` (n,)."""
        return Parting(self.labels[rows])
