"""XNOR-Net (Rastegari et al. 2016, section 3.2), with one factor mean |x| per sample in place of the paper's map K."""

from __future__ import annotations

from torch import Tensor

from robustlab.compress.coders import InputCoder
from robustlab.compress.composed import Composition
from robustlab.compress.contract import Algorithm
from robustlab.compress.quantizers import WeightBinarizer, sample_mean
from robustlab.core.subgradients import sign_ste


class SampleScaledSign(InputCoder):
    """mean|x[n]| * sign(x), the mean a constant. Gradient with respect to x: the mean where |x| <= 1, else 0."""

    def __init__(self, rows: bool) -> None:
        super().__init__()
        self.rows = rows

    def composition(self) -> Composition:
        """A factor for every sample."""
        return Composition("sample", {})

    def forward(self, x: Tensor) -> Tensor:
        """Binarize x, images or rows."""
        return sign_ste(x, "clip") * sample_mean(x.detach().abs(), self.rows)


ALGORITHM = Algorithm(
    name="xnor",
    summary="signs, a scale mean |w| per output channel and mean |x| per sample",
    source="Rastegari et al. 2016, XNOR-Net",
    backward="1 where |x| <= 1, for weights and activations; scales are constants",
    weight=lambda _site: WeightBinarizer(),
    input=lambda site: SampleScaledSign(site.geometry is None),
    deployability="S",
    binary=True,
)
