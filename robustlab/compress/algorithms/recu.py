"""ReCU: dead weights are revived by clamping to a quantile (Xu et al. 2021, "ReCU: Reviving the Dead Weights")."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustlab.compress.coders import InputCoder, Moment
from robustlab.compress.contract import Algorithm
from robustlab.compress.learned import learned
from robustlab.compress.quantizers import LearnedScaleSign, standardized
from robustlab.core.subgradients import clamp, sign_ste

_FIRST, _LAST = 0.85, 0.99


class RectifiedClamp(LearnedScaleSign):
    """scale[o] * sign(clamp(v, -q, q)), v the weights standardized per channel to a deviation of 2 sqrt(2).

    q = -mean|v| * ln(2 - 2 tau), the tau-quantile of a Laplacian, over the layer, not differentiated. tau(e) of epoch e
    of E is A exp(e / E) + B, 0.85 at 0 and 0.99 at E. Gradient of v: 1 where |v| <= q, else 0.
    """

    tau: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.register_buffer("tau", torch.tensor(_FIRST))

    def schedule(self, moment: Moment) -> None:
        """Set tau of the epoch."""
        slope = (_LAST - _FIRST) / (math.e - 1)
        self.tau.fill_(slope * math.exp(moment.epoch / moment.epochs) + _FIRST - slope)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes -1 or +1 like the weight, scale (O,))."""
        normal = standardized(weight, 1e-5) * (2 * math.sqrt(2))
        bound = float(-normal.detach().abs().mean() * torch.log(2 - 2 * self.tau))
        return sign_ste(clamp(normal, -bound, bound), "identity"), learned(self.gain, self.unit)


class NormalizedSign(InputCoder):
    """sign(x). Gradient: 2 - 2|u| where that is positive, else 0, with u = x, in training x / std(x) of its sample."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize x, images or rows."""
        if self.training:
            axes = tuple(range(1, x.ndim))
            x = x / (x.var(dim=axes, keepdim=True, correction=0) + 1e-5).sqrt()
        return sign_ste(x, "approx")


ALGORITHM = Algorithm(
    name="recu",
    summary="signs of standardized weights clamped to a growing quantile, a learned scale per output channel",
    source="Xu et al. 2021, ReCU",
    backward="2 - 2|x| on |x| < 1 for activations, 1 up to the quantile for weights",
    weight=lambda site: RectifiedClamp(site.weight),
    input=lambda _site: NormalizedSign(),
    binary=True,
)
