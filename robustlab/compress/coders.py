"""What a quantizer owes the rest: its codes, what is deployed of it, its schedule, and what stands in the way.

A layer has a `WeightCoder`, an `InputCoder` and, rarely, an `OutputMap`. In training they return fake-quantized
floats with gradients; `robustlab.compress.freeze` asks them for the integers and the few floats that are deployed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustlab.compress.composed import Composition
from robustlab.kernels import ActivationSpec


@dataclass(frozen=True)
class Moment:
    """Where a training stands before a step: `step` of `steps` in `epoch` of `epochs`, all counted from 0."""

    epoch: int
    epochs: int
    step: int
    steps: int


class Coder(nn.Module):
    """What all of them share. Everything here may stay as it is.

    `decayed` names the parameters that weight decay applies to although they are vectors or scalars.
    """

    decayed: ClassVar[tuple[str, ...]] = ()

    def schedule(self, moment: Moment) -> None:
        """Called by the training loop before every step. What it sets belongs into buffers, so that it is saved."""

    def start(self, x: Tensor) -> None:
        """See the layer's float input of the first calibration batch, to set the first values of parameters."""

    def obstacle(self) -> str | None:
        """Why this cannot be deployed exactly, as ``what is; allowed: what``; None if it can."""
        return None

    def make_factorable(self) -> None:
        """Replace what `obstacle` names by the documented form that can be deployed."""


class WeightCoder(Coder):
    """Weights (O, ...) as scale[o] * (code - zero_point). `zero_point` is a multiple of 0.5."""

    zero_point: float = 0

    @property
    def levels(self) -> int:
        """The most different values that a row of weights may have."""
        raise NotImplementedError

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes, whole numbers in float32, shaped like the weight; scale (O,)), both with gradients."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """The fake-quantized weight (O, ...): by definition scale * (code - zero_point), one rounding."""
        codes, scale = self.codes(weight)
        levels = codes - self.zero_point if self.zero_point else codes
        return levels * scale.reshape(-1, *([1] * (weight.ndim - 1)))


class InputCoder(Coder):
    """Activations as codes of a grid or as signs. Forward returns the fake-quantized input."""

    def spec(self) -> ActivationSpec | None:
        """The grid that is deployed; None for signs."""
        return None

    def composition(self) -> Composition | None:
        """The float operations that are deployed around the integer layer, None for none."""
        return None


class OutputMap(Coder):
    """A factor for every output of a convolution. Forward takes and returns (N, O, H', W')."""

    def composition(self) -> Composition:
        """The float operations that are deployed behind the integer layer."""
        raise NotImplementedError
