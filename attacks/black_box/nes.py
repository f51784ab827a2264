"""NES: Ilyas, Engstrom, Athalye, Lin, "Black-box adversarial attacks with limited queries and information", ICML 2018,
section 2.

The gradient is estimated with antithetic Gaussian directions (Wierstra et al., "Natural evolution strategies", JMLR
2014), and a PGD step is made of its running mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._goal import Loss, cross_entropy
from robustlab.attacks._slugs import Option
from robustlab.attacks.black_box._estimate import EstimatedGradientAttack, Stepper
from robustlab.core import Ball
from robustlab.core import keys as _keys

_MOMENTUM = 0.9
_PLATEAU = 5  # Steps without progress that halve the step size; this and what follows from the authors' code.
_DROP = 2.0
_SMALLEST = 1 / 200  # Of the first step size.


@dataclass(frozen=True)
class NES(EstimatedGradientAttack):
    """PGD on a gradient of the cross-entropy that is estimated from scores along Gaussian directions.

    Published with Linf(0.05), 50 samples, probes of 0.001, steps of 0.01 that are halved on a plateau, momentum 0.9,
    and up to 10,000 queries (200 steps).

    Attributes:
        steps: steps, at least 1; each is samples + 1 queries.
        samples: queries for one estimate, even, at least 2.
        probe: standard deviation of a value of the points asked about, in image units, > 0.
        step_size: length of the first steps in the ball's norm and image units, > 0; None means eps / 5.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> import torch
        >>> from robustlab.core import Linf
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.full((2, 3, 2, 2), 0.5)
        >>> labels = model(images).argmax(dim=1)
        >>> attack = NES(Linf(8 / 255), steps=5)
        >>> attack.slug
        'nes5-linf-8of255'
        >>> bool((attack.run(model, images, labels).queries <= 1 + 5 * 51).all())
        True
    """

    steps: int = 200
    samples: int = 50
    probe: float = 0.001
    step_size: float | None = None

    name: ClassVar[str] = "nes"
    options: ClassVar[tuple[Option, ...]] = (
        Option("samples", "samples", "int"),
        Option("probe", "probe", "number"),
        Option("step_size", "step", "number"),
    )

    def _loss(self) -> Loss:
        return cross_entropy

    def _directions(self, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
        return _keys.normal(keys, shape)

    def _stepper(self, origin: Tensor) -> Stepper:
        return _Momentum(self.ball, origin, self.ball.eps / 5 if self.step_size is None else self.step_size)


class _Momentum(Stepper):
    """Steepest ascent along the running mean of gradients; a sample's step is halved when its loss stops growing."""

    def __init__(self, ball: Ball, origin: Tensor, step_size: float) -> None:
        self.ball, self.least = ball, step_size * _SMALLEST
        self.mean = torch.zeros_like(origin)
        self.size = torch.full((len(origin),), step_size, dtype=torch.float64, device=origin.device)
        self.losses = torch.full((len(origin), _PLATEAU), torch.nan, dtype=torch.float64, device=origin.device)

    def step(self, gradient: Tensor, loss: Tensor) -> Tensor:
        """See `Stepper.step`."""
        self.mean = _MOMENTUM * self.mean + (1 - _MOMENTUM) * gradient
        self.losses = torch.cat([self.losses[:, 1:], loss[:, None]], dim=1)
        stuck = self.losses[:, -1] < self.losses[:, 0]  # Never so while the history is short: NaN compares false.
        self.size = torch.where(stuck, (self.size / _DROP).clamp(min=self.least), self.size)
        self.losses[stuck] = torch.nan
        return self.ball.ascent(self.mean) * self.size.to(gradient.dtype).reshape(-1, 1, 1, 1)

    def keep(self, stay: Tensor) -> None:
        """See `Stepper.keep`."""
        self.mean, self.size, self.losses = self.mean[stay], self.size[stay], self.losses[stay]
