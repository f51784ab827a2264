"""LPB: activations as two planes of signs (Qin et al. 2022, "BiFSMNv2", learnable two-plane binarizer), factorable.

As published the second scale is a mean over one axis, which no sum of signs can be multiplied with afterwards. Here it
is one number for a sample, and the first scale is learned instead of 1. Two things are left out: the positive factors
inside the signs, which change gradients alone, and the constant subtracted at the end, which a batch norm takes in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.compress.coders import InputCoder
from robustlab.compress.composed import Composition
from robustlab.compress.contract import Algorithm
from robustlab.compress.quantizers import WeightBinarizer, one_sided_mean, per_channel, sample_mean
from robustlab.core.subgradients import sign_ste


class TwoPlaneSign(InputCoder):
    """first * sign(u) + mean|r[n]| * sign(r), u = x + shift[c], r = u - first * sign(u) + second_shift[c].

    Shifts are 0 at first, behind a ReLU minus the channel's mean in the first calibration batch, and `first` is mean|u|
    there. Signs have the derivative 1 where their
    argument lies in [-1, 1], else 0; everything else is differentiated as it stands.
    """

    def __init__(self, inputs: int, rows: bool) -> None:
        super().__init__()
        self.rows = rows
        self.shift = nn.Parameter(torch.zeros(inputs))
        self.second_shift = nn.Parameter(torch.zeros(inputs))
        self.first = nn.Parameter(torch.ones(()))

    def start(self, x: Tensor) -> None:
        """Set the first shifts, and the first scale to the mean magnitude."""
        with torch.no_grad():
            self.shift.copy_(-one_sided_mean(x, self.rows))
            self.first.copy_((x + per_channel(self.shift, self.rows)).abs().mean().clamp(min=1e-8))

    def composition(self) -> Composition:
        """Two planes."""
        tensors = {"shift": self.shift, "second_shift": self.second_shift, "first": self.first}
        return Composition("planes", tensors)

    def forward(self, x: Tensor) -> Tensor:
        """Binarize x, images or rows."""
        u = x + per_channel(self.shift, self.rows)
        plane = self.first * sign_ste(u, "clip")
        rest = u - plane + per_channel(self.second_shift, self.rows)
        return plane + sample_mean(rest.abs(), self.rows) * sign_ste(rest, "clip")


ALGORITHM = Algorithm(
    name="lpb",
    summary="activations as two planes of signs, a scale mean |w| per output channel; twice the work of one plane",
    source="Qin et al. 2022, BiFSMNv2",
    backward="1 where |x| <= 1, for weights and both planes",
    weight=lambda _site: WeightBinarizer(),
    input=lambda site: TwoPlaneSign(site.inputs, site.geometry is None),
    deployability="2P",
    binary=True,
)
