"""PACT: a learned clipping level of activations (Choi et al. 2018, eq. 1 to 3); weights as DoReFa has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustlab.compress.algorithms.dorefa import tanh_weight
from robustlab.compress.contract import Algorithm
from robustlab.compress.learned import learned
from robustlab.compress.quantizers import ActivationQuantizer, affine_codes
from robustlab.core.subgradients import at_least
from robustlab.kernels import ActivationSpec


class _Pact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, scale: Tensor, zero: int, bits: int) -> Tensor:
        ctx.save_for_backward(x, alpha)
        ctx.low = zero / ((1 << bits) - 1 - zero)  # the lower bound is -low * alpha
        return (affine_codes(x, scale, zero, bits) - zero) * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, alpha = ctx.saved_tensors
        grad, high = grads[0], float(alpha)
        above = at_least(grad, x, high)
        inside = at_least(grad, x, -ctx.low * high) - above
        clipped = above.sum()
        if ctx.low:
            clipped = clipped - ctx.low * (grad.sum() - inside.sum() - clipped)
        return inside, clipped, None, None, None


class ClippedInput(ActivationQuantizer):
    """round of clip(x, -beta, alpha) to steps of alpha / (L - z), L = 2^bits - 1, z the calibrated whole zero point.

    beta = alpha z / (L - z), 0 behind a ReLU, as in the paper. alpha starts at the calibrated range, the paper's at 6.
    Gradients: of x 1 where -beta <= x < alpha, else 0; of alpha the sum of 1 where x >= alpha and of -z / (L - z) where
    x < -beta. Weight decay applies to alpha, as the paper asks.
    """

    decayed = ("gain",)

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.gain = nn.Parameter(torch.ones(()))

    def set_grid(self, scale: float, zero_point: int) -> None:
        """Start at this grid; a range without positive numbers gets one level above 0."""
        super().set_grid(scale, min(zero_point, (1 << self.bits) - 2))
        with torch.no_grad():
            self.gain.fill_(1.0)

    def alpha(self) -> Tensor:
        """The clipping level, float32 ()."""
        return learned(self.gain, self.scale * ((1 << self.bits) - 1 - int(self.zero_point)))

    def spec(self) -> ActivationSpec:
        """The grid as it is deployed."""
        zero = int(self.zero_point)
        return ActivationSpec(float(self.alpha().detach() / ((1 << self.bits) - 1 - zero)), zero, self.bits)

    def quantize(self, x: Tensor) -> Tensor:
        """The fake-quantized x."""
        zero, alpha = int(self.zero_point), self.alpha()
        scale = alpha.detach() / ((1 << self.bits) - 1 - zero)
        result: Tensor = _Pact.apply(x, alpha, scale, zero, self.bits)
        return result


ALGORITHM = Algorithm(
    name="pact",
    summary="a learned clipping level of activations; weights through tanh as in DoReFa-Net",
    source="Choi et al. 2018, PACT",
    backward="straight-through inside the clipping levels, the level's own gradient from what it clips",
    weight=tanh_weight,
    input=lambda site: ClippedInput(site.activation_bits),
    multibit=True,
)
