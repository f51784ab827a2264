"""DAB: thresholds that follow the sample (distribution-adaptive binarizer of BiDense), with one scale for a sample.

As published the scale differs from channel to channel, so it cannot be taken out of the sum over channels. Here it is
one number for a sample; the thresholds per channel are kept. The mean is differentiated, while the released code
detaches it, which hides part of the gradient from an attack. Linear layers have no image to average and take
ReActNet's shift.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.compress.algorithms.react import ShiftedSign
from robustlab.compress.coders import InputCoder
from robustlab.compress.composed import Composition
from robustlab.compress.contract import Algorithm, Site
from robustlab.compress.quantizers import WeightBinarizer, per_channel, sample_mean
from robustlab.core.subgradients import sign_ste


class AdaptiveSign(InputCoder):
    """exp(exponent * (mean|u[n]| - 1)) * sign(u), u = x - (gain[c] * mean_hw(x)[n, c] + offset[c]); all 0 at first.

    Behind a ReLU the gain is 1 at first, so that thresholds are the means of the channels.
    The sign has the derivative 2 - 2|u| where that is positive, else 0; everything else is differentiated as it stands.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(inputs))
        self.offset = nn.Parameter(torch.zeros(inputs))
        self.exponent = nn.Parameter(torch.zeros(()))

    def start(self, x: Tensor) -> None:
        """Set the first gains."""
        with torch.no_grad():
            self.gain.fill_(1.0 if bool((x >= 0).all()) else 0.0)

    def composition(self) -> Composition:
        """Thresholds and a factor for every sample."""
        return Composition("adaptive", {"gain": self.gain, "offset": self.offset, "exponent": self.exponent})

    def forward(self, x: Tensor) -> Tensor:
        """Binarize images (N, C, H, W)."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        u = x - (per_channel(self.gain, False) * mean + per_channel(self.offset, False))
        return torch.exp(self.exponent * (sample_mean(u.abs(), False) - 1)) * sign_ste(u, "approx")


def _input(site: Site) -> InputCoder:
    return ShiftedSign(site.inputs, True) if site.geometry is None else AdaptiveSign(site.inputs)


ALGORITHM = Algorithm(
    name="dab",
    summary="signs with thresholds that follow each image's channel means and one scale per image",
    source="BiDense (distribution-adaptive binarizer)",
    backward="2 - 2|x| on |x| < 1 for activations, through the means as well; 1 where |w| <= 1 for weights",
    weight=lambda _site: WeightBinarizer(),
    input=_input,
    deployability="S",
    binary=True,
)
