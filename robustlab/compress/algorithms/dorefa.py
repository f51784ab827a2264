"""DoReFa-Net: weights through tanh onto an odd lattice, activations in [0, 1] (Zhou et al. 2016, eq. 7, 9 and 11)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.compress.coders import InputCoder, WeightCoder
from robustlab.compress.contract import Algorithm, Site
from robustlab.compress.quantizers import ActivationQuantizer, ClippedSign, SignCoder, affine_codes
from robustlab.core.subgradients import clamp, round_ste, sign_ste


class TanhWeight(WeightCoder):
    """largest * (2 q / n - 1), q = round(n (tanh(w) / (2 largest) + 1/2)), n = 2^bits - 1, largest = max|tanh(w)|.

    The 2^bits levels are odd multiples of 1 / n: codes q - 2^(bits-1) with the zero point -1/2. Where `odd` is False
    n = 2^bits - 2, so the levels are multiples of 2 / n with 0 among them, and the zero point is 0. `largest` is one
    number for the layer and a constant of the step. The paper leaves out the factor `largest`; a batch norm behind the
    layer takes it in, and with it the layer starts at the size it had. Gradient with respect to w: 1 - tanh(w)^2.
    """

    def __init__(self, bits: int, odd: bool = True) -> None:
        super().__init__()
        self.bits = bits
        self.zero_point = -0.5 if odd else 0

    @property
    def levels(self) -> int:
        """2^bits, or one less."""
        return (1 << self.bits) - (0 if self.zero_point else 1)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes of the bits' two's complement like the weight, scale (O,), all equal)."""
        count = self.levels - 1
        bent = torch.tanh(weight)
        largest = bent.detach().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        lowest = 1 << (self.bits - 1) if self.zero_point else count // 2
        codes = round_ste((bent / (2 * largest) + 0.5) * count) - lowest
        return codes, (2 * largest / count).expand(len(weight))


class UnitInput(ActivationQuantizer):
    """round(n clip(x, 0, 1)) / n, n = 2^bits - 1: the grid is fixed. Gradient: 1 where 0 <= x <= 1, else 0."""

    def set_grid(self, scale: float, zero_point: int) -> None:
        """Keep to [0, 1], whatever was calibrated."""
        super().set_grid(1 / ((1 << self.bits) - 1), 0)

    def quantize(self, x: Tensor) -> Tensor:
        """The fake-quantized x."""
        return affine_codes(clamp(x, 0.0, 1.0), self.scale, 0, self.bits) * self.scale


class LayerSign(SignCoder):
    """scale * sign(w), scale = mean|w| of the whole layer, not differentiated (eq. 7).

    Gradient with respect to w: the scale where |w| <= 1, else 0.
    """

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes -1 or +1 like the weight, scale (O,), all equal)."""
        return sign_ste(weight, "clip"), weight.detach().abs().mean().expand(len(weight))


def tanh_weight(site: Site) -> WeightCoder:
    """DoReFa's weights for a layer. Of eight bits with groups the kernels take whole zero points only."""
    if site.weight_bits == 1:
        return LayerSign()
    grouped = site.geometry is not None and site.geometry.groups > 1
    return TanhWeight(site.weight_bits, odd=site.weight_bits < 8 or not grouped)


def _input(site: Site) -> InputCoder:
    return ClippedSign() if site.activation_bits == 1 else UnitInput(site.activation_bits)


ALGORITHM = Algorithm(
    name="dorefa",
    summary="weights through tanh, activations clipped to [0, 1]; with one bit signs and a scale per layer",
    source="Zhou et al. 2016, DoReFa-Net",
    backward="straight-through: 1 - tanh(w)^2 for weights, 1 on [0, 1] for activations; for signs 1 where |x| <= 1",
    weight=tanh_weight,
    input=_input,
    binary=True,
    multibit=True,
)
