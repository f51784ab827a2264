"""IR-Net: standardized weights, power-of-two scales, a gradient that sharpens (Qin et al. 2020, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.compress.coders import Coder, InputCoder, Moment
from robustlab.compress.contract import Algorithm
from robustlab.compress.quantizers import SignCoder, sign_with, standardized

_SLOPE = (1e-3, 1e1)


class ErrorDecay(Coder):
    """The derivative k t (1 - tanh(t x)^2) of error decay: t grows from 1e-3 to 1e1, k = max(1 / t, 1).

    t(e) of epoch e of E lies at e / E of the way, on a logarithmic scale.
    """

    slope: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(_SLOPE[0]))

    def schedule(self, moment: Moment) -> None:
        """Set t of the epoch."""
        self.slope.fill_(_SLOPE[0] * (_SLOPE[1] / _SLOPE[0]) ** (moment.epoch / moment.epochs))

    def derivative(self, x: Tensor) -> Tensor:
        """Of the sign at x, a tensor like x."""
        t = self.slope
        return torch.clamp(1 / t, min=1.0) * t * (1 - torch.tanh(t * x.detach()).square())


class BalancedSign(ErrorDecay, SignCoder):
    """scale[o] * sign(v), v the standardized weights of a channel, scale = 2^round(log2 mean|v[o]|), a constant."""

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes -1 or +1 like the weight, scale (O,))."""
        normal = standardized(weight)
        size = normal.detach().abs().flatten(1).mean(dim=1).clamp(min=1e-8)
        return sign_with(normal, self.derivative(normal)), torch.exp2(torch.round(torch.log2(size)))


class SharpeningSign(ErrorDecay, InputCoder):
    """sign(x) with the derivative of `ErrorDecay`."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize x of any shape."""
        return sign_with(x, self.derivative(x))


ALGORITHM = Algorithm(
    name="irnet",
    summary="signs of standardized weights with power-of-two scales, a gradient that sharpens epoch by epoch",
    source="Qin et al. 2020, Forward and Backward Information Retention (IR-Net)",
    backward="k t (1 - tanh(t x)^2), t from 1e-3 to 1e1, for weights and activations",
    weight=lambda _site: BalancedSign(),
    input=lambda _site: SharpeningSign(),
    binary=True,
)
