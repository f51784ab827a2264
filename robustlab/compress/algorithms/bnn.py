"""BNN: signs without a scale (Hubara et al. 2016, "Binarized Neural Networks", eq. 1 and 4)."""

from __future__ import annotations

from torch import Tensor

from robustlab.compress.contract import Algorithm
from robustlab.compress.quantizers import ClippedSign, SignCoder
from robustlab.core.subgradients import sign_ste


class PlainSign(SignCoder):
    """sign(w), every scale 1. Gradient with respect to w: 1 where |w| <= 1, else 0."""

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes -1 or +1 like the weight, ones (O,))."""
        return sign_ste(weight, "clip"), weight.new_ones(len(weight))


ALGORITHM = Algorithm(
    name="bnn",
    summary="signs of weights and activations, no scale: a batch norm behind it has to give one",
    source="Hubara et al. 2016, Binarized Neural Networks",
    backward="1 where |x| <= 1, for weights and activations",
    weight=lambda _site: PlainSign(),
    input=lambda _site: ClippedSign(),
    binary=True,
)
