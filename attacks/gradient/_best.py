"""The best of several starts: a sample that reaches its goal, or cannot be attacked, takes no other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Climb:
    """Where the n samples of one start ended.

    Attributes:
        images: float32 (n, C, H, W), in the threat model.
        reached: bool (n,), whether logits showed that `images` reach the goal.
        finite: bool (n,), whether logits and gradients were finite all the way.
        loss: float64 (n,), of `images`, where that was looked at, else -inf.
    """

    images: Tensor
    reached: Tensor
    finite: Tensor
    loss: Tensor

    @classmethod
    def at(cls, origin: Tensor) -> Climb:
        """Before the first step of the images `origin` (n, C, H, W)."""
        none = torch.zeros(len(origin), dtype=torch.bool, device=origin.device)
        unknown = torch.full((len(origin),), -torch.inf, dtype=torch.float64, device=origin.device)
        return cls(origin.clone(), none, ~none, unknown)


class Best:
    """The best images of every sample so far, and who is still to be attacked.

    Attributes:
        images: float32 (N, C, H, W).
        attacked: bool (N,), as in `AttackResult`.
        rows: int64 (n,), the samples that survive.
    """

    def __init__(self, origin: Tensor, rows: Tensor, attacked: Tensor) -> None:
        self.images, self.rows, self.attacked = origin.clone(), rows, attacked.clone()
        self._loss = torch.full((len(origin),), -torch.inf, dtype=torch.float64, device=origin.device)
        self._first = True

    def take(self, climb: Climb) -> None:
        """Keep of a start of all survivors what reached the goal, what cannot go on, and what has a larger loss."""
        over = climb.reached | ~climb.finite
        better = over | (climb.loss > self._loss[self.rows]) | self._first
        kept = self.rows[better]
        self.images[kept], self._loss[kept] = climb.images[better], climb.loss[better]
        self.attacked[self.rows] = climb.finite
        self.rows, self._first = self.rows[~over], False
