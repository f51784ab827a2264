"""SPSA: Uesato, O'Donoghue, van den Oord, Kohli, "Adversarial risk and the dangers of evaluating against weak attacks",
ICML 2018, section 3.

The gradient of the margin is estimated along random signs (Spall 1992), and Adam makes the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustlab.attacks._goal import Loss, margin
from robustlab.attacks._slugs import Option
from robustlab.attacks.black_box._estimate import EstimatedGradientAttack, Stepper
from robustlab.core import keys as _keys

_PUBLISHED_STEP = 0.01
_DECAY, _SQUARE_DECAY, _TINY = 0.9, 0.999, 1e-8  # Kingma & Ba 2015, the defaults of Adam.


@dataclass(frozen=True)
class SPSA(EstimatedGradientAttack):
    """Adam on a gradient of the margin that is estimated from scores along random signs.

    It needs no smooth model: probes of 0.01 look across the steps of a quantizer. Published with probes of 0.01 and
    steps of 0.01 at Linf(8 / 255), 100 steps, and up to thousands of samples; CleverHans made 128 samples usual.

    Attributes:
        steps: steps, at least 1; each is samples + 1 queries.
        samples: queries for one estimate, even, at least 2.
        probe: how far every value of the points asked about is moved, in image units, > 0.
        step_size: Adam's learning rate, in image units, > 0; None means 0.01, or eps / 4 if that is less.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> import torch
        >>> from robustlab.core import Linf
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.full((2, 3, 2, 2), 0.5)
        >>> labels = model(images).argmax(dim=1)
        >>> attack = SPSA(Linf(8 / 255), steps=5, samples=32)
        >>> attack.slug
        'spsa5-linf-8of255-samples32'
        >>> bool((attack.run(model, images, labels).queries <= 1 + 5 * 33).all())
        True
    """

    steps: int = 100
    samples: int = 128
    probe: float = 0.01
    step_size: float | None = None

    name: ClassVar[str] = "spsa"
    options: ClassVar[tuple[Option, ...]] = (
        Option("samples", "samples", "int"),
        Option("probe", "probe", "number"),
        Option("step_size", "step", "number"),
    )

    def _loss(self) -> Loss:
        return margin

    def _directions(self, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        signs = np.empty((len(keys), count), dtype=np.int8)
        for row, generator in zip(signs, _keys.generators(keys), strict=True):
            row[:] = np.unpackbits(np.frombuffer(generator.bytes(-(-count // 8)), dtype=np.uint8), count=count)
        return (torch.from_numpy(signs).float() * 2 - 1).reshape(-1, *shape)

    def _stepper(self, origin: Tensor) -> Stepper:
        size = min(_PUBLISHED_STEP, self.ball.eps / 4) if self.step_size is None else self.step_size
        return _Adam(origin, size)


class _Adam(Stepper):
    """Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015; its ascent."""

    def __init__(self, origin: Tensor, step_size: float) -> None:
        self.step_size, self.made = step_size, 0
        self.mean, self.square = torch.zeros_like(origin), torch.zeros_like(origin)

    def step(self, gradient: Tensor, loss: Tensor) -> Tensor:
        """See `Stepper.step`."""
        self.made += 1
        self.mean = _DECAY * self.mean + (1 - _DECAY) * gradient
        self.square = _SQUARE_DECAY * self.square + (1 - _SQUARE_DECAY) * gradient.square()
        mean = self.mean / (1 - _DECAY**self.made)
        return self.step_size * mean / ((self.square / (1 - _SQUARE_DECAY**self.made)).sqrt() + _TINY)

    def keep(self, stay: Tensor) -> None:
        """See `Stepper.keep`."""
        self.mean, self.square = self.mean[stay], self.square[stay]
