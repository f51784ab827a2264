"""Attacks in turn, each on the samples that the ones before it left."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from robustlab.attacks._attack import Attack, AttackResult, look
from robustlab.attacks._goal import Goal
from robustlab.attacks._victim import Victim
from robustlab.core.keys import derive

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartResult:
    """What one attack of a cascade did.

    Attributes:
        attack: the attack.
        rows: int64 (n,), the samples of the batch that it was given.
        broken: bool (n,), which of them the model gets wrong on its images.
        attacked: bool (n,), False where the model's logits or gradients were not finite.
        gradient_calls: input-gradients that it took, over all samples.
        queries: int64 (n,), forward passes on each sample, its clean look and the judgement of its images included.
    """

    attack: Attack
    rows: Tensor
    broken: Tensor
    attacked: Tensor
    gradient_calls: int
    queries: Tensor


@dataclass(frozen=True)
class CascadeResult:
    """What a cascade did.

    Attributes:
        result: as `Attack.run` returns it.
        parts: what every attack did, in order; those that found no sample left are absent.
        broken_by: int64 (N,), the index in `parts` of the attack that broke a sample; -1 for the others.
    """

    result: AttackResult
    parts: tuple[PartResult, ...]
    broken_by: Tensor


@dataclass(frozen=True)
class Cascade(Attack):
    """Attacks in turn, each on the samples that the ones before it left; a sample is broken if one of them breaks it.

    A sample that no attack breaks is returned unchanged. It counts as not attacked if the model's logits or gradients
    were not finite in any of them.
    """

    @abstractmethod
    def parts(self, classes: int) -> tuple[Attack, ...]:
        """The attacks, in order, on a model of so many classes; their balls are `ball`."""

    def run_parts(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
        keys: Tensor | None = None,
        on_part: Callable[[PartResult], None] | None = None,
    ) -> CascadeResult:
        """`run`, and what every part did; `on_part` is told as soon as one ends. Arguments and errors as of `run`."""
        done: list[PartResult] = []

        def listen(part: PartResult) -> None:
            done.append(part)
            if on_part is not None:
                on_part(part)

        body = partial(self._in_turn, listen=listen)
        result = self._run_as(model, images, labels, targets, keys, body)
        broken_by = torch.full((len(images),), -1, dtype=torch.int64, device=images.device)
        for index, part in enumerate(done):
            broken_by[part.rows[part.broken]] = index
        return CascadeResult(result, tuple(done), broken_by)

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        return self._in_turn(victim, origin, goal, keys, listen=lambda part: None)

    def _in_turn(
        self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor, listen: Callable[[PartResult], None]
    ) -> tuple[Tensor, Tensor]:
        rows, logits, attacked = look(victim, origin, goal)
        result = origin.clone()
        for index, attack in enumerate(self.parts(logits.shape[1])):
            if not len(rows):
                break
            its, its_goal = victim.part(len(rows), attack.draws), goal.at(rows)
            draws = derive(keys[rows.to(keys.device)], f"{index} {attack.slug}")
            images, sound = attack._attack(its, origin[rows], its_goal, draws)
            every = torch.arange(len(rows), device=rows.device)
            broken = its_goal.reached(its.logits(images, every)) & sound
            victim.add(its, rows)
            result[rows[broken]] = images[broken]
            attacked[rows] = (attacked[rows] & sound) | broken
            listen(PartResult(attack, rows, broken, sound, int(its.gradients.sum()), its.queries))
            _log.info("%s: %s broke %d of %d samples", self.slug, attack.slug, int(broken.sum()), len(rows))
            rows = rows[~broken]
        return result, attacked
