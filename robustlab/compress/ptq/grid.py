"""Weights on a grid that stays: the integer codes that a post-training method chose, and their scale."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robustlab.compress.layers import CompressedLayer
from robustlab.compress.observers import weight_scale
from robustlab.compress.quantizers import WeightQuantizer
from robustlab.compress.weight_grid import FixedGrid, GridQuantizer
from robustlab.core.errors import RobustlabError
from robustlab.core.subgradients import clamp, round_ste


def per_row(vector: Tensor, weight: Tensor) -> Tensor:
    """A vector (O,) in a shape that broadcasts over the rows of a weight (O, ...)."""
    return vector.reshape(-1, *([1] * (weight.ndim - 1)))


class FixedGridQuantizer(WeightQuantizer):
    """Symmetric, per output channel, with a scale (O,) that is given and stays: value = scale[o] * code.

    Codes lie in [-(2^(bits-1) - 1), 2^(bits-1) - 1]. A weight fl(scale[o] * code) gives back that very code: the
    product and the quotient are each off by less than one part in 2^23, and codes are at most 127. Gradient with
    respect to the weight: 1 inside the range, 0 outside.
    """

    scale: Tensor

    def __init__(self, bits: int, scale: Tensor) -> None:
        super().__init__(bits, "given")
        self.register_buffer("scale", scale.detach().to(torch.float32).clone())

    @property
    def largest(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes float32 like the weight, scale (O,))."""
        return clamp(round_ste(weight / per_row(self.scale, weight)), -self.largest, self.largest), self.scale


def nearest_codes(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Codes of the nearest grid points, float32 like the weight (O, ...), scale (O,)."""
    largest = (1 << (bits - 1)) - 1
    return torch.round(weight / per_row(scale, weight)).clamp(-largest, largest)


def layer_scale(layer: CompressedLayer, rule: str) -> Tensor:
    """The scale (O,) that `rule` gives a layer's weight."""
    return weight_scale(layer.weight, layer.weight_bits, rule)


def hold(layer: CompressedLayer, codes: Tensor, scale: Tensor) -> None:
    """Make `codes` (like the weight) at `scale` (O,) a layer's weight, exactly and for good.

    Raises `RobustlabError` for a scale that is not positive and finite in float32.
    """
    scale = scale.detach().to(torch.float32)
    _check_scale(scale)
    with torch.no_grad():
        layer.weight.copy_(codes.to(torch.float32) * per_row(scale, layer.weight))
    layer.quantize_weight = FixedGridQuantizer(layer.weight_bits, scale).eval()


def _check_scale(scale: Tensor) -> None:
    if not bool(((scale >= torch.finfo(torch.float32).tiny) & torch.isfinite(scale)).all()):
        raise RobustlabError(f"weight scale is {float(scale.min()):g}..{float(scale.max()):g}; allowed: normal float32")


def held(layer: CompressedLayer) -> tuple[Tensor, Tensor]:
    """(codes, scale) that a layer's weight has now, without a gradient."""
    with torch.no_grad():
        codes, scale = layer.quantize_weight.codes(layer.weight)
    return codes.detach(), scale.detach()


def rescale(layer: CompressedLayer, gain: Tensor) -> None:
    """Fix the codes that a layer's weight has now, for good, with scales that are gain[o] (O,) times theirs.

    Raises `RobustlabError` for a scale that is then not positive and finite in float32.
    """
    quantizer = layer.quantize_weight
    if not isinstance(quantizer, GridQuantizer):
        codes, scale = held(layer)
        hold(layer, codes, (scale.double() * gain).float())
        return
    with torch.no_grad():
        grid = quantizer.grid(layer.weight)
        codes = grid.codes(layer.weight)
        grid = replace(grid, scale=(grid.scale.double() * gain.double()[:, None]).float())
        _check_scale(grid.scale)
        layer.weight.copy_(grid.values(codes))
    layer.quantize_weight = FixedGrid(quantizer.bits, quantizer.scheme, grid).eval()


def bias_of(layer: CompressedLayer) -> Tensor:
    """A layer's bias (O,), made of zeros if it has none."""
    if layer.bias is None:
        layer.bias = torch.nn.Parameter(layer.weight.detach().new_zeros(len(layer.weight)))
    return layer.bias
