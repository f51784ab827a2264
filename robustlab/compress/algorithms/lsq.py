"""LSQ: learned step sizes (Esser et al. 2020, "Learned Step Size Quantization", eq. 1 to 3 and section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.compress.coders import WeightCoder
from robustlab.compress.contract import Algorithm, Site
from robustlab.compress.learned import fitted_step, learned, lsq_factor, open_clip, stepped, with_gradient_scale
from robustlab.compress.quantizers import ActivationQuantizer, without_nan
from robustlab.core.subgradients import floor_ste, round_ste
from robustlab.kernels import ActivationSpec


class StepWeight(WeightCoder):
    """value = step[o] * level, level = round(clip(w / step, -Q, Q)), with a learned step per output channel.

    From 3 bits on Q = 2^(bits-1) - 1, so that codes are symmetric; at two bits the four levels are -3/2, -1/2, 1/2 and
    3/2 steps, where the paper has -2, -1, 0 and 1. Gradients: of w 1 where |w / step| < Q, else 0; of the step the sum
    over its channel of round(w / step) - w / step there, -Q and Q outside, times 1 / sqrt(N Q), N weights per channel.
    """

    unit: Tensor

    def __init__(self, weight: Tensor, bits: int, unit: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.odd = bits == 2
        self.zero_point = -0.5 if self.odd else 0
        self.register_buffer("unit", unit.detach().float().clone())
        self.gain = nn.Parameter(torch.ones_like(self.unit))

    @property
    def largest(self) -> float:
        """Q: 3/2 at two bits."""
        return 1.5 if self.odd else float((1 << (self.bits - 1)) - 1)

    @property
    def levels(self) -> int:
        """4 at two bits, else 2^bits - 1."""
        return round(2 * self.largest) + 1

    def step(self, weight: Tensor) -> Tensor:
        """The steps (O,), float32."""
        return with_gradient_scale(learned(self.gain, self.unit), lsq_factor(weight[0].numel(), self.largest))

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes like the weight, step (O,))."""
        step = self.step(weight)
        units = open_clip(weight / step.reshape(-1, *([1] * (weight.ndim - 1))), -self.largest, self.largest)
        return floor_ste(units) if self.odd else round_ste(units), step


class StepInput(ActivationQuantizer):
    """value = step * (code - z), code = round(clip(x / step, -z, L - z)) + z, L = 2^bits - 1, with a learned step.

    The whole zero point z is the calibrated one: 0 behind a ReLU. `scale` holds the calibrated step, of which the step
    is `gain` times. Gradients: of x 1 strictly inside the range, else 0; of the step round(x / step) - x / step inside,
    -z and L - z outside, summed and multiplied by 1 / sqrt(N (L - z)), N numbers per sample.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.gain = nn.Parameter(torch.ones(()))

    def set_grid(self, scale: float, zero_point: int) -> None:
        """Start at this grid."""
        super().set_grid(scale, zero_point)
        with torch.no_grad():
            self.gain.fill_(1.0)

    def step(self) -> Tensor:
        """The step, float32 ()."""
        return learned(self.gain, self.scale)

    def spec(self) -> ActivationSpec:
        """The grid as it is deployed."""
        return ActivationSpec(float(self.step().detach()), int(self.zero_point), self.bits)

    def quantize(self, x: Tensor) -> Tensor:
        """The fake-quantized x."""
        zero = int(self.zero_point)
        top = (1 << self.bits) - 1 - zero
        step = with_gradient_scale(self.step(), lsq_factor(x[:1].numel(), top))
        return without_nan(stepped(x, step, -zero, top), x, 0.0)


def step_weight(site: Site) -> WeightCoder:
    """Weights of a layer at the steps of least squared error; the paper starts at 2 mean|w| / sqrt(Q)."""
    half = site.weight_bits == 2
    largest = 1.5 if half else float((1 << (site.weight_bits - 1)) - 1)
    return StepWeight(site.weight, site.weight_bits, fitted_step(site.weight, -largest, largest, half=half))


ALGORITHM = Algorithm(
    name="lsq",
    summary="learned steps of weights and activations; starts at the steps of least squared error",
    source="Esser et al. 2020, Learned Step Size Quantization",
    backward="straight-through; steps by LSQ's own gradient, scaled by 1 / sqrt(N Q)",
    weight=step_weight,
    input=lambda site: StepInput(site.activation_bits),
    multibit=True,
    ends=True,
)
