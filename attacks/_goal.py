"""What an attack wants, and the losses it ascends to get there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.core.errors import check_labels, invalid


@dataclass(frozen=True)
class Goal:
    """Any class but `labels` (N,), or, where they are given, the classes `targets` (N,)."""

    labels: Tensor
    targets: Tensor | None = None

    def reached(self, logits: Tensor) -> Tensor:
        """bool (N,): whether logits (N, K) are finite and their largest is what the attack wants."""
        return self.wants(logits.argmax(dim=1)) & finite_rows(logits)

    def wants(self, answers: Tensor) -> Tensor:
        """bool (N,): whether the classes `answers` (N,) are what the attack wants."""
        return answers != self.labels if self.targets is None else answers == self.targets

    def at(self, rows: Tensor) -> Goal:
        """The goal of the samples `rows` (n,)."""
        chosen = (t.index_select(0, rows) for t in (self.labels, self.targets) if t is not None)
        return Goal(*chosen)

    def check(self, classes: int) -> None:
        """Raise `ArgumentError` for labels or targets outside [0, classes), or a target that is its label."""
        check_labels(self.labels, len(self.labels), classes)
        if self.targets is None:
            return
        check_labels(self.targets, len(self.labels), classes, "targets")
        same = torch.nonzero(self.targets == self.labels).flatten()
        if len(same):
            first = int(same[0])
            raise invalid(f"targets[{first}]", int(self.targets[first]), "any class but the label")


Loss = Callable[[Tensor, Goal], Tensor]
"""(logits (N, K), goal) -> loss per sample (N,). An attack ascends it, whatever it wants."""


def finite_rows(x: Tensor) -> Tensor:
    """bool (N,): whether all values of a sample are finite."""
    flat = x.reshape(len(x), -1)
    finite = torch.isfinite(flat.sum(dim=1))  # One pass; a sum can overflow, so only what fails is looked at closely.
    return finite if bool(finite.all()) else torch.isfinite(flat).all(dim=1)


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """-log softmax(logits)[label], or log softmax(logits)[target], per sample (N,), in float64.

    In float32 the label's part of the gradient, p - 1, rounds to 0 for a margin above 17, and what is left of the
    gradient points elsewhere: a confident model would look more robust than it is.
    """
    if goal.targets is None:
        return F.cross_entropy(logits.double(), goal.labels, reduction="none")
    return -F.cross_entropy(logits.double(), goal.targets, reduction="none")


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """How far the wanted class is in front of the others, per sample (N,): above 0 exactly where the goal is reached.

    max over k != y of z_k, minus z_y; or z_t - max over k != t of z_k (Carlini & Wagner 2017, f6, without the bound).
    """
    chosen = (goal.labels if goal.targets is None else goal.targets)[:, None]
    others = logits.scatter(1, chosen, -torch.inf).amax(dim=1)
    gap = others - logits.gather(1, chosen)[:, 0]
    return gap if goal.targets is None else -gap


def difference_of_logits_ratio(logits: Tensor, goal: Goal) -> Tensor:
    """DLR, per sample (N,): the margin over a difference of logits, so that scale and shift of the logits cancel.

    Untargeted, (max over k != y of z_k - z_y) / (z_1st - z_3rd); targeted, (z_t - z_y) / (z_1st - (z_3rd + z_4th) / 2);
    1st is the largest logit (Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020, section 4).

    Raises `ArgumentError` for fewer than 3 classes, or than 4 with targets.
    """
    need = 3 if goal.targets is None else 4
    if logits.shape[1] < need:
        kind = "DLR loss" if goal.targets is None else "targeted DLR loss"
        raise invalid("model", f"a network of {logits.shape[1]} classes", f"at least {need} classes for the {kind}")
    top = logits.topk(need, dim=1).values
    if goal.targets is None:
        return margin(logits, goal) / (top[:, 0] - top[:, 2] + 1e-12)
    label = logits.gather(1, goal.labels[:, None])[:, 0]
    target = logits.gather(1, goal.targets[:, None])[:, 0]
    return (target - label) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": difference_of_logits_ratio}
"""Name -> loss, as attacks take it."""
