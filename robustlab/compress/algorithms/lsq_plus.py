"""LSQ+: learned steps and a learned offset of activations (Bhalgat et al. 2020, section 3).

The kernels subtract a whole number from the codes, so an offset can be deployed exactly where it is a multiple of the
step. `lsq+` rounds it to one in every forward pass of the training; `lsq+free` is the paper's, refused as it stands.
Both start at the steps and offset of least squared error.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from robustlab.compress.algorithms.lsq import StepInput, step_weight
from robustlab.compress.contract import Algorithm
from robustlab.compress.learned import learned, lsq_factor, stepped, with_gradient_scale
from robustlab.compress.quantizers import without_nan
from robustlab.core.subgradients import round_ste
from robustlab.kernels import ActivationSpec


class OffsetInput(StepInput):
    """value = step * round(clip((x - offset) / step, 0, L)) + offset, L = 2^bits - 1, step and offset learned.

    The offset is -`slide` times the calibrated range, the calibrated one at first, and stays in [-L step, 0], so that 0
    stays in range. With `snapped` it is rounded to a multiple of the step, straight through. Gradients: of x 1 strictly
    inside the range, else 0; of the step round(u) - u inside, with u = (x - offset) / step, 0 below and L above; of the
    offset 0 inside and 1 outside. Those two are summed and multiplied by 1 / sqrt(N L), N numbers per sample.
    """

    def __init__(self, bits: int, snapped: bool) -> None:
        super().__init__(bits)
        self.snapped = snapped
        self.slide = nn.Parameter(torch.zeros(()))

    @property
    def top(self) -> int:
        """L."""
        return (1 << self.bits) - 1

    def set_grid(self, scale: float, zero_point: int) -> None:
        """Start at this grid."""
        super().set_grid(scale, zero_point)
        with torch.no_grad():
            self.slide.fill_(zero_point / self.top)

    def reach(self) -> Tensor:
        """-offset, float32 ()."""
        return learned(self.slide, self.scale * self.top, smallest=0.0)

    def zero(self) -> Tensor:
        """-offset / step in [0, L], a whole number if snapped; no gradient."""
        zero = torch.clamp(self.reach().detach() / self.step().detach(), 0, self.top)
        return torch.round(zero) if self.snapped else zero

    def spec(self) -> ActivationSpec:
        """The grid as it is deployed."""
        return ActivationSpec(float(self.step().detach()), float(self.zero()), self.bits)

    def obstacle(self) -> str | None:
        """An offset between two steps."""
        zero = float(self.zero())
        return None if zero.is_integer() else f"its offset is {-zero:.9g} steps; allowed: a whole number of steps"

    def make_factorable(self) -> None:
        """Round the offset to a whole number of steps."""
        self.snapped = True

    def quantize(self, x: Tensor) -> Tensor:
        """The fake-quantized x."""
        factor = lsq_factor(x[:1].numel(), self.top)
        step, zero = with_gradient_scale(self.step(), factor), self.zero()
        reach = with_gradient_scale(self.reach(), factor)
        # What is clipped is worth L step + offset, or the offset: zeros that carry these gradients.
        ends = zero * (step - step.detach()) - (reach - reach.detach())
        if self.snapped or float(zero).is_integer():
            # Rounded before a whole zero point is added, as the kernels do: ties to even would fall otherwise after it.
            low = -int(zero)
            return without_nan(stepped(x, step, low, self.top + low, ends), x, 0.0)
        units, top = x / step, self.top - zero
        inside = round_ste(units + zero) - zero
        levels = torch.where(units >= top, top, torch.where(units <= -zero, -zero, inside))
        value = torch.where(torch.isnan(x), 0.0, levels) * step
        return value + torch.where((units >= top) | (units <= -zero), ends, 0.0)


ALGORITHM = Algorithm(
    name="lsq+",
    summary="learned steps, and a learned offset of activations that is kept at a multiple of the step",
    source="Bhalgat et al. 2020, LSQ+",
    backward="straight-through; steps and offset by LSQ+'s own gradients, scaled by 1 / sqrt(N L)",
    weight=step_weight,
    input=lambda site: OffsetInput(site.activation_bits, snapped=True),
    multibit=True,
    ends=True,
)
FREE = dataclasses.replace(
    ALGORITHM,
    name="lsq+free",
    summary="lsq+ with an offset that may lie between two steps: cannot be deployed exactly",
    input=lambda site: OffsetInput(site.activation_bits, snapped=False),
    deployability="X",
)
