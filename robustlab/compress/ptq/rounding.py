"""Rounding up or down as something that can be learned (AdaRound, Nagel et al., ICML 2020, eq. 22 to 24)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustlab.compress.ptq.grid import FixedGridQuantizer, per_row
from robustlab.compress.quantizers import ActivationQuantizer, affine_codes

ZETA, GAMMA = 1.1, -0.1  # the sigmoid is stretched to (GAMMA, ZETA), then clipped to [0, 1]


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1), in [0, 1] (eq. 23)."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(h: Tensor) -> Tensor:
    """The V whose h(V) is `h`, in [0, 1)."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


class SoftRounding(FixedGridQuantizer):
    """code = clip(floor(W / s) + h(V)), V a float32 tensor like the weight that starts where the code is W / s.

    Forward differentiates with respect to V alone; `codes` are the hard ones, up where h(V) >= 1/2.
    """

    def __init__(self, bits: int, scale: Tensor, weight: Tensor) -> None:
        super().__init__(bits, scale)
        steps = weight.detach() / per_row(self.scale, weight)
        self.down = steps.floor()
        self.v = inverse_rectified_sigmoid(steps - self.down).requires_grad_(True)

    def forward(self, weight: Tensor) -> Tensor:
        """The softly quantized weight."""
        codes = (self.down + rectified_sigmoid(self.v)).clamp(-self.largest, self.largest)
        return codes * per_row(self.scale, weight)

    def hard(self) -> Tensor:
        """The codes as they are decided now, like the weight."""
        return (self.down + (self.v.detach() >= 0)).clamp(-self.largest, self.largest)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(hard codes, scale (O,))."""
        return self.hard(), self.scale

    def undecided(self, beta: float) -> Tensor:
        """Sum of 1 - |2 h(V) - 1|^beta: 0 where every code is whole (eq. 24)."""
        return (1 - (2 * rectified_sigmoid(self.v) - 1).abs().pow(beta)).sum()


class LearnedStep(ActivationQuantizer):
    """An activation quantizer whose step is learned and which quantizes each element only with some probability.

    The gradient with respect to the step is that of the rounded value (LSQ, Esser et al. 2020, eq. 3). `drop` is the
    probability that an element stays float (QDrop, Wei et al. 2022); it draws from `generator`. Not below a
    thousandth of where it started, so the step stays positive.
    """

    def __init__(self, start: ActivationQuantizer, drop: float, generator: torch.Generator) -> None:
        super().__init__(start.bits)
        self.scale.copy_(start.scale)
        self.zero_point = start.zero_point.clone()
        self.drop = drop
        self.generator = generator
        self.step = start.scale.detach().clone().requires_grad_(True)

    @property
    def learned(self) -> float:
        """The step as it is now."""
        return max(float(self.step.detach()), 1e-3 * float(self.scale))

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize x of any shape, or part of it."""
        step = self.step.clamp(min=1e-3 * float(self.scale))
        zero = self.zero_point.item()
        quantized = (affine_codes(x, step, zero, self.bits) - zero) * step
        if not self.drop:
            return quantized
        stays = torch.rand(x.shape, generator=self.generator) < self.drop
        return torch.where(stays, x, quantized)


def annealed(step: int, steps: int, warm_up: float, start: float, end: float) -> float | None:
    """beta at a step of the optimisation: None during the warm-up, then from `start` to `end` along a line."""
    first = math.ceil(warm_up * steps)
    if step < first:
        return None
    return start + (end - start) * (step - first) / max(1, steps - 1 - first)
