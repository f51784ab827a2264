"""What every attack is to its user: a frozen description of a threat model and a schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustlab.attacks._goal import Goal, finite_rows
from robustlab.attacks._slugs import Option, format_slug
from robustlab.attacks._victim import Victim, network_of
from robustlab.core import Ball, frozen
from robustlab.core.access import Access as Access
from robustlab.core.access import access_of, gives
from robustlab.core.errors import check_choice, check_images, check_labels, invalid
from robustlab.core.keys import check_keys, sample_keys


@dataclass(frozen=True)
class AttackResult:
    """What an attack did.

    Attributes:
        images: float32 (N, C, H, W), in the threat model. A sample that the model gets wrong already is unchanged
            (of a `Divergence`: one that parts the two models already).
        attacked: bool (N,). False where logits or gradients that are not finite stopped the attack: such a sample
            says nothing about robustness, and must never be counted as broken. Attacks that return their last iterate
            unseen cannot know what the model answers there: judge `images`, as the evaluation does.
        gradient_calls: input-gradients computed, summed over samples (a sample that leaves early costs fewer).
        queries: int64 (N,), forward passes on each sample, those of its gradients included.
    """

    images: Tensor
    attacked: Tensor
    gradient_calls: int
    queries: Tensor


@dataclass(frozen=True)
class Attack(ABC):
    """An attack on the model as shipped: images in the threat model `ball` that it gets wrong, where there are any.

    A subclass is a frozen dataclass with the class variables `name` (of its slug) and `options`, and `_attack`.

    Attributes:
        ball: the threat model, such as ``Linf(8 / 255)``; a minimum-norm attack also takes an infinite radius. What an
            attack judges and returns is ``ball.shown(x, origin)`` of an iterate, which is `x` but in a `Lattice`.
        version: raised when the results of the same hyper-parameters change.
        access: what the model must give.
        targetable: whether `run` takes `targets`.
        norms: the norms of the balls that it can be given.
        bounded: whether the radius must be finite.
    """

    ball: Ball

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()
    version: ClassVar[int] = 1
    access: ClassVar[Access] = "gradient"
    targetable: ClassVar[bool] = True
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.ball, Ball):
            raise invalid("ball", self.ball, "a ball such as Linf(8 / 255) or L2(0.5)")
        check_choice("norm of the ball", self.ball.norm_name, self.norms)
        if self.bounded and not math.isfinite(self.ball.eps):
            raise invalid("eps", self.ball.eps, f"a finite number >= 0: {type(self).__name__} needs a radius")

    @property
    def slug(self) -> str:
        """All hyper-parameters over [a-z0-9.+-], the inverse of `parse_attack`."""
        return format_slug(self)

    @property
    def needs_gradient(self) -> bool:
        """Whether the model must differentiate with respect to its images."""
        return self.access == "gradient"

    @property
    def draws(self) -> int:
        """How many gradients are averaged into one, for models that are random; 1 unless the attack says more."""
        return 1

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> Tensor:
        """`run`, and only the images of its result: float32 (N, C, H, W) in the threat model."""
        return self.run(model, images, labels, targets=targets, keys=keys).images

    def run(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> AttackResult:
        """Attack `images` and say what was done.

        The model's mode, parameters, gradients and buffers, and the global random state, are left as found. A
        `robustlab.core.Tiled` model is run and differentiated tile by tile, so that memory does not grow with N and
        a sample's result does not depend on the samples beside it.

        Args:
            model: images -> logits (N, K); normalisation is part of it.
            images: float32 (N, C, H, W) in [0, 1].
            labels: int64 (N,), the true classes.
            targets: int64 (N,), the classes that the attack wants, each another than the label; None: any other.
            keys: int64 (N,) from `sample_keys`, the source of all randomness; by default
                ``sample_keys(0, attack.slug, range(N))``.

        Raises:
            ArgumentError: a bad argument, a model whose output is not (N, K), or a model without a gradient.
        """
        return self._run_as(model, images, labels, targets, keys, self._attack)

    def _run_as(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        keys: Tensor | None,
        body: Callable[[Victim, Tensor, Goal, Tensor], tuple[Tensor, Tensor]],
    ) -> AttackResult:
        """`run` with another body than `_attack`."""
        count = len(check_images(images))
        self.ball.check_origin(images)
        if keys is None:
            keys = sample_keys(0, self.slug, range(count))
        _check(model, count, labels, targets, keys)
        if not gives(network_of(model), self.access):
            raise invalid(
                "model",
                f"{type(network_of(model)).__name__}, which gives {access_of(network_of(model))}",
                f"a model that gives {self.access}, which {type(self).__name__} needs",
            )
        if targets is not None and not self.targetable:
            raise invalid("targets", "a tensor", f"None: {type(self).__name__} has no targeted version")
        with torch.inference_mode(False):
            # Copies: a tensor made under inference mode cannot enter a graph, and the result must not alias the input.
            origin = images.detach().clone()
            goal = Goal(*(t.to(images.device, copy=True) for t in (labels, targets) if t is not None))
            if not count:
                return AttackResult(origin, torch.ones(0, dtype=torch.bool), 0, torch.zeros(0, dtype=torch.int64))
            victim = Victim(model, count, self.draws)
            with frozen(model):
                result, attacked = body(victim, origin, goal, keys)
        return AttackResult(result, attacked, int(victim.gradients.sum()), victim.queries)

    @abstractmethod
    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The images of the result and `attacked`; everything is checked, N >= 1, the model is frozen."""


def look(victim: Victim, origin: Tensor, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
    """One forward pass on clean images: rows to attack (n,), their logits (n, K), and bool (N,): logits are finite.

    Rows to attack have finite logits and a goal that is not reached yet. Raises `ArgumentError` for labels or targets
    that the logits do not have.
    """
    logits = victim.logits(origin, torch.arange(len(origin), device=origin.device))
    goal.check(logits.shape[1])
    finite = finite_rows(logits)
    rows = torch.nonzero(finite & ~goal.reached(logits)).flatten()
    return rows, logits[rows], finite


def _check(model: object, count: int, labels: object, targets: object, keys: object) -> None:
    if not isinstance(model, nn.Module):
        raise invalid("model", type(model).__name__, "a torch.nn.Module that returns logits (N, K)")
    check_labels(labels, count)
    if targets is not None:
        check_labels(targets, count, argument="targets")
    check_keys(keys, count)
    if any(t.is_inference() for t in (*model.parameters(), *model.buffers())):
        raise invalid(
            "model",
            f"{type(network_of(model)).__name__} made under torch.inference_mode()",
            "a model whose parameters were made outside it, since they take part in a gradient",
        )
