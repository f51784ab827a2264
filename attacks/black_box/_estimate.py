"""The gradient of a score, from its values at mirrored points, and the loop of the attacks that follow it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._attack import Access, Attack, look
from robustlab.attacks._goal import Goal, Loss, finite_rows
from robustlab.attacks._victim import Victim, goal_tensors
from robustlab.core import keys as _keys
from robustlab.core.errors import check_int, check_number, invalid

_DRAWN_AT_ONCE = 2**20  # Values of the directions of one sample; they, not the batch, decide where draws are cut.
_ASKED_AT_ONCE = 2**24  # Values of the images that a model is asked about together, 64 MB.


class Stepper(ABC):
    """Makes steps of estimated gradients; it may remember what it needs of each sample."""

    @abstractmethod
    def step(self, gradient: Tensor, loss: Tensor) -> Tensor:
        """The step (n, C, H, W), uphill, for gradients (n, C, H, W) and losses (n,)."""

    @abstractmethod
    def keep(self, stay: Tensor) -> None:
        """Forget all samples but `stay`, indices into those of the last step."""


@dataclass(frozen=True)
class EstimatedGradientAttack(Attack):
    """An attack that follows an estimate of the gradient of a loss.

    Every step asks about x + d and x - d for samples / 2 random directions d, and about the image that it leads to.

    The points that estimate a gradient are in the image box, but neither in the ball nor, for a `Lattice`, on it.
    """

    steps: int
    samples: int
    probe: float
    step_size: float | None

    access: ClassVar[Access] = "scores"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        if check_int("samples", self.samples, 2) % 2:
            raise invalid("samples", self.samples, "an even number: every direction is tried both ways")
        check_number("probe", self.probe, 0.0, open_low=True)
        if self.step_size is not None:
            check_number("step_size", self.step_size, 0.0, open_low=True)

    @abstractmethod
    def _loss(self) -> Loss:
        """What is ascended."""

    @abstractmethod
    def _directions(self, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
        """float32 (n, *shape): random directions, of which every value has mean 0 and variance 1."""

    @abstractmethod
    def _stepper(self, origin: Tensor) -> Stepper:
        """The rule that makes steps of gradients, for the samples `origin` (n, C, H, W)."""

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        rows, _, attacked = look(victim, origin, goal)
        result = origin.clone()
        if not len(rows):
            return result, attacked
        x = shown = origin = origin[rows]
        goal, keys = goal.at(rows), keys[rows.to(keys.device)]
        stepper = self._stepper(origin)
        for step in range(self.steps):
            gradient, loss, finite = self._estimate(victim, x, rows, goal, _keys.derive(keys, f"step {step}"))
            x = self.ball.project(x + stepper.step(gradient, loss), origin)
            candidate = self.ball.shown(x, origin)
            logits = victim.logits(candidate, rows)
            finite = finite & finite_rows(logits)
            shown = torch.where(finite.reshape(-1, 1, 1, 1), candidate, shown)
            out = ~finite | goal.reached(logits)
            if bool(out.any()):
                result[rows[out]], attacked[rows[out]] = shown[out], finite[out]
                stay = torch.nonzero(~out).flatten()
                rows, x, shown, origin = rows[stay], x[stay], shown[stay], origin[stay]
                goal, keys = goal.at(stay), keys[stay.to(keys.device)]
                stepper.keep(stay)
                if not len(rows):
                    return result, attacked
        result[rows] = shown
        return result, attacked

    def _estimate(
        self, victim: Victim, x: Tensor, rows: Tensor, goal: Goal, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients (n, C, H, W), the mean loss (n,) over all points, and bool (n,): all their logits are finite."""
        size = x[0].numel()
        pairs = self.samples // 2
        block = max(1, min(pairs, _DRAWN_AT_ONCE // size))
        width = max(1, _ASKED_AT_ONCE // (2 * block * size))
        gradient = torch.zeros_like(x)
        loss = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        finite = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for start in range(0, len(x), width):
            part = slice(start, start + width)
            for first in range(0, pairs, block):
                count = min(block, pairs - first)
                drawn = _keys.derive(keys[part], f"pairs {first}")
                directions = self._directions(drawn, (count, *x.shape[1:])).to(x.device)
                losses, whole = self._ask(victim, x[part], rows[part], goal_part(goal, part), directions)
                slopes = (losses[:, 0] - losses[:, 1]).to(x.dtype) / (2 * self.probe * pairs)
                gradient[part] += torch.einsum("nk,nkchw->nchw", slopes, directions)
                loss[part] += losses.sum(dim=(1, 2)) / self.samples
                finite[part] &= whole
        return gradient, loss, finite

    def _ask(self, victim: Victim, x: Tensor, rows: Tensor, goal: Goal, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (n, 2, k) at x + probe * d and x - probe * d, in the image box, and bool (n,): they are finite."""
        shift = self.probe * directions
        # In the box, since a model need not answer outside it; out of the ball, since only results must be in it.
        points = torch.stack([x[:, None] + shift, x[:, None] - shift], dim=1).clamp_(0, 1)
        count = 2 * directions.shape[1]
        many = Goal(*(t.repeat_interleave(count) for t in goal_tensors(goal)))
        logits = victim.logits(points.reshape(-1, *x.shape[1:]), rows.repeat_interleave(count))
        losses = self._loss()(logits, many).double().reshape(len(x), 2, -1)
        return losses, finite_rows(logits).reshape(len(x), -1).all(dim=1)


def goal_part(goal: Goal, part: slice) -> Goal:
    """The goal of a slice of the samples."""
    return Goal(*(t[part] for t in goal_tensors(goal)))
