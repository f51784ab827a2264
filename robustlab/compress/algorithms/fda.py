"""FDA: the gradient of a Fourier series, and a noise network that fades out (Xu et al. 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.compress.coders import Coder, InputCoder, Moment
from robustlab.compress.contract import Algorithm
from robustlab.compress.quantizers import SignCoder, mean_magnitude, sign_with
from robustlab.core.keys import sample_keys, uniform
from robustlab.core.subgradients import hard_sign, within

_OMEGA = 0.1
_TERMS = 9
_NOISE = 0.1


class FourierSign(Coder):
    """sign(x) + alpha * eta(x), eta(x) = B relu(A x) + 0.1 sin(x) along an axis of `size` numbers.

    A is (h, size), B (size, h), h = max(1, size // 64). In epoch e of E the derivative of the sign has n = 9 + floor(9
    e / E) terms: 4 omega / pi * sum_{i = 0..n} cos((2 i + 1) omega x) where |x| <= 1, else 0, with omega = 0.1; and
    alpha = 0.05 (1 + cos(pi (e + 1) / E)), 0 in the last. Deployed are the signs: alpha has to be 0.
    """

    terms: Tensor
    alpha: Tensor

    def __init__(self, size: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        hidden = max(1, size // 64)
        draws = uniform(sample_keys(0, "fda", range(2)), (hidden, size))
        self.inward = nn.Parameter((2 * draws[0] - 1) / math.sqrt(size))
        self.outward = nn.Parameter((2 * draws[1].T - 1).contiguous() / math.sqrt(hidden))
        self.register_buffer("terms", torch.tensor(_TERMS))
        self.register_buffer("alpha", torch.tensor(_NOISE))

    def schedule(self, moment: Moment) -> None:
        """Set the terms and alpha of the epoch."""
        self.terms.fill_(_TERMS + _TERMS * moment.epoch // moment.epochs)
        self.alpha.fill_(_NOISE / 2 * (1 + math.cos(math.pi * (moment.epoch + 1) / moment.epochs)))

    def obstacle(self) -> str | None:
        """The noise, while it has weight."""
        if float(self.alpha) == 0:
            return None
        return f"fda's noise has weight {float(self.alpha):g}; allowed: 0, as after the last epoch"

    def make_factorable(self) -> None:
        """Drop the noise."""
        self.alpha.zero_()

    def sign(self, x: Tensor) -> Tensor:
        """The sign with its derivative."""
        if not torch.is_grad_enabled():
            return hard_sign(x)
        # The sum of cosines is sin(2 count a) / (2 sin(a)), a = omega |x|; kept off its hole at 0.
        count, angle = int(self.terms) + 1, x.detach().abs().add_(1e-30).mul_(_OMEGA)
        total = torch.sin(2 * count * angle).div_(angle.sin_().mul_(2))
        return sign_with(x, within(total.mul_(4 * _OMEGA / math.pi), x.detach(), -1.0, 1.0))

    def noise(self, x: Tensor) -> Tensor:
        """alpha * eta(x), a tensor like x."""
        # Two linear layers, not tensor products: autocast lowers both operands of those.
        hidden = torch.relu(F.linear(x.movedim(self.axis, -1), self.inward))
        eta = F.linear(hidden, self.outward).movedim(-1, self.axis)
        result: Tensor = self.alpha * (eta + 0.1 * torch.sin(x))
        return result


class FourierWeight(FourierSign, SignCoder):
    """scale[o] * (sign(w) + alpha * eta(w)), scale[o] = mean |w[o]|, not differentiated; eta along a row of weights."""

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes -1 or +1 like the weight, scale (O,))."""
        return self.sign(weight), mean_magnitude(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """The fake-quantized weight, with its noise."""
        value = super().forward(weight)
        if float(self.alpha) == 0:
            return value
        scale = mean_magnitude(weight).reshape(-1, *([1] * (weight.ndim - 1)))
        return value + self.noise(weight.flatten(1)).reshape(weight.shape) * scale


class FourierInput(FourierSign, InputCoder):
    """sign(x) + alpha * eta(x), eta along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize x, images or rows."""
        signs = self.sign(x)
        return signs if float(self.alpha) == 0 else signs + self.noise(x)


ALGORITHM = Algorithm(
    name="fda",
    summary="signs with the gradient of a Fourier series and a noise network that fades out in training",
    source="Xu et al. 2021, Learning Frequency Domain Approximation for Binary Neural Networks",
    backward="4 omega / pi * sum of cos((2 i + 1) omega x) on |x| <= 1, for weights and activations",
    weight=lambda site: FourierWeight(site.weight[0].numel(), 1),
    input=lambda site: FourierInput(site.inputs, -1 if site.geometry is None else 1),
    binary=True,
)
