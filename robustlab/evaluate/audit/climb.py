"""The gradient attack of the audit: PGD with losses whose gradient does not vanish where the logits are large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.attacks import Attack
from robustlab.attacks._goal import Goal, Loss, cross_entropy, margin
from robustlab.attacks._victim import Victim
from robustlab.attacks.gradient._loop import Schedule, ascend

_RANGE = 10.0


def tempered_cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """Cross-entropy per sample (N,) of logits divided so that they span at most 10: no probability underflows."""
    z = logits.double()
    span = (z.amax(1, keepdim=True) - z.amin(1, keepdim=True)).detach()
    z = z / (span / _RANGE).clamp(min=1.0)
    if goal.targets is None:
        return F.cross_entropy(z, goal.labels, reduction="none")
    return -F.cross_entropy(z, goal.targets, reduction="none")


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "tempered": tempered_cross_entropy, "margin": margin}
"""Name -> loss to ascend."""


@dataclass(frozen=True)
class Climb(Attack):
    """PGD (Madry et al. 2018) with a random start and steps of 2.5 eps / steps, on one of `LOSSES`.

    Example:
        >>> from robustlab.core import Linf
        >>> Climb(Linf(2 / 255), steps=20, loss="margin").loss
        'margin'
    """

    steps: int = 20
    loss: str = "ce"

    name: ClassVar[str] = "climb"

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        schedule = Schedule(self.ball, self.steps, 2.5 * self.ball.eps / self.steps, True)
        return ascend(victim, origin, goal, keys, schedule, LOSSES[self.loss])


def runners_up(logits: Tensor, labels: Tensor, rank: int) -> Tensor:
    """The class with the rank-th largest logit among those that are not the label, int64 (N,); rank from 0."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.sort(others, dim=1, descending=True, stable=True).indices[:, rank]
