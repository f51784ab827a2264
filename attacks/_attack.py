"""What every gradient attack is to its user: a frozen description of a threat model and a schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustlab.attacks._loop import AttackResult, Schedule, ascend
from robustlab.core import Ball
from robustlab.core.errors import check_images, invalid
from robustlab.core.keys import sample_keys


@dataclass(frozen=True)
class Attack(ABC):
    """An untargeted attack that ascends the cross-entropy inside `ball`, with the gradient of the model as shipped.

    Attributes:
        ball: the threat model, `Linf` or `L2` of `robustlab.core`.
        version: raised when the results of the same hyper-parameters change.
        needs_gradient: whether the model must differentiate with respect to its images.
    """

    ball: Ball

    version: ClassVar[int] = 1
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.ball, Ball):
            raise invalid("ball", self.ball, "a ball such as Linf(8 / 255) or L2(0.5)")

    @property
    @abstractmethod
    def slug(self) -> str:
        """All hyper-parameters over [a-z0-9.+-], the inverse of `parse_attack`."""

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """Steps, step size and start, as the loop takes them."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """`run`, and only the images of its result: float32 (N, C, H, W) in the threat model."""
        return self.run(model, images, labels, keys=keys).images

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, keys: Tensor | None = None) -> AttackResult:
        """Attack `images` and say what was done.

        The model's mode, parameters, gradients and buffers, and the global random state, are left as found. A
        `robustlab.core.Tiled` model is run and differentiated tile by tile, so that memory does not grow with N and
        a sample's result does not depend on the samples beside it.

        Args:
            model: images -> logits (N, K); normalisation is part of it.
            images: float32 (N, C, H, W) in [0, 1].
            labels: int64 (N,), the true classes.
            keys: int64 (N,) from `sample_keys`, the source of all randomness; by default
                ``sample_keys(0, attack.slug, range(N))``.

        Raises:
            ArgumentError: a bad argument, a model whose output is not (N, K), or a model without a gradient.
        """
        check_images(images)
        if keys is None:
            keys = sample_keys(0, self.slug, range(len(images)))
        return ascend(model, images, labels, keys, self.schedule)
