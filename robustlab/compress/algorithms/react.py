"""ReActNet's RSign: a learned shift per channel in front of the sign (Liu et al. 2020, "ReActNet").

RPReLU, the paper's other half, belongs to the architecture: `robustlab.models.blocks.ShiftedPReLU`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.compress.coders import InputCoder
from robustlab.compress.composed import Composition
from robustlab.compress.contract import Algorithm
from robustlab.compress.quantizers import WeightBinarizer, one_sided_mean, per_channel
from robustlab.core.subgradients import sign_ste


class ShiftedSign(InputCoder):
    """sign(x + shift[c]). Gradient of both: 2 - 2|x + shift| where that is positive, else 0.

    The shift is 0 at first, behind a ReLU minus the channel's mean in the first calibration batch.
    """

    def __init__(self, inputs: int, rows: bool) -> None:
        super().__init__()
        self.rows = rows
        self.shift = nn.Parameter(torch.zeros(inputs))

    def start(self, x: Tensor) -> None:
        """Set the first shifts."""
        with torch.no_grad():
            self.shift.copy_(-one_sided_mean(x, self.rows))

    def composition(self) -> Composition:
        """The shift."""
        return Composition("shift", {"shift": self.shift})

    def forward(self, x: Tensor) -> Tensor:
        """Binarize x, images or rows."""
        return sign_ste(x + per_channel(self.shift, self.rows), "approx")


ALGORITHM = Algorithm(
    name="react",
    summary="signs with a learned threshold per input channel, a scale mean |w| per output channel",
    source="Liu et al. 2020, ReActNet",
    backward="2 - 2|x| on |x| < 1 for activations, 1 where |w| <= 1 for weights",
    weight=lambda _site: WeightBinarizer(),
    input=lambda site: ShiftedSign(site.inputs, site.geometry is None),
    binary=True,
)
