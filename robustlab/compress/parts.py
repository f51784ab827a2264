"""Layers whose weights have several scales in a row, or zero points of their own in every row, as sums of parts.

Part k is an integer layer on the input channels of group k. With fl the rounding to float32, zero points z, the zero
point `base` that the codes have in the kernels, and T[k] the exact sum of a part's input codes under the window:

    y[o] = fl(... fl(fl(y[0, o] + y[1, o]) + y[2, o]) ... + b[o])
    y[k, o] = fl(fl(acc[k, o] + fl(T[k] * (base - z[k, o]))) * s[k, o])

Without zero points the second sum is left out. It is exact, as the first is, while both stay below 2^24.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.compress.layers import CompressedConv2d, CompressedLayer
from robustlab.compress.weight_grid import GridQuantizer, WeightGrid


class Parts(nn.Module):
    """A sum of integer layers, see the module. Shape: (N, C, H, W) -> (N, O, H', W'), or (..., K) -> (..., O).

    layers: one for every group of input channels, with scales of 1 and no bias. sums: beside each of them one of
    weights of +1, with an output per group of the convolution; none without zero points. scales: float32 (K, O);
    zero_points: int8 (K, O) or None; bias: float32 (O,) or None. size: input channels of a part, in each group of the
    convolution.
    """

    kind = "parts"
    deployability = "G"
    scales: Tensor
    zero_points: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        layers: Sequence[nn.Module],
        sums: Sequence[nn.Module],
        scales: Tensor,
        zero_points: Tensor | None,
        bias: Tensor | None,
        size: int,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.sums = nn.ModuleList(sums)
        self.register_buffer("scales", scales)
        self.register_buffer("zero_points", zero_points)
        self.register_buffer("bias", bias)
        self.size = size
        scheme: Any = layers[0].scheme
        self._base: float = scheme.weight_zero_point
        self._rows: bool = scheme.geometry is None
        self._groups: int = 1 if scheme.geometry is None else scheme.geometry.groups

    def _spread(self, vector: Tensor) -> Tensor:
        return vector if self._rows else vector.reshape(-1, 1, 1)

    def _inputs(self, x: Tensor, index: int) -> Tensor:
        """The input channels of part `index`, of every group of the convolution."""
        start = index * self.size
        if self._rows:
            rows: Tensor = x[..., start : start + self.size]
            return rows.contiguous()
        grouped: Tensor = x.unflatten(1, (self._groups, -1))[:, :, start : start + self.size]
        return grouped.flatten(1, 2).contiguous()

    def _part(self, x: Tensor, index: int) -> Tensor:
        inputs = self._inputs(x, index)
        y: Tensor = self.layers[index](inputs)
        if self.zero_points is not None:
            total: Tensor = self.sums[index](inputs)
            if self._groups > 1:
                total = total.repeat_interleave(self.scales.shape[1] // self._groups, dim=1)
            y = y + total * self._spread(self._base - self.zero_points[index].float())
        return y * self._spread(self.scales[index])

    def forward(self, x: Tensor) -> Tensor:
        """The parts, added in their order, then the bias."""
        y = self._part(x, 0)
        for index in range(1, len(self.layers)):
            y = y + self._part(x, index)
        return y if self.bias is None else y + self._spread(self.bias)

    def extra_repr(self) -> str:
        """Groups, outputs and input channels of a group, also part of a model's fingerprint."""
        return f"{tuple(self.scales.shape)}, size={self.size}"


def base_of(bits: int, symmetric: bool) -> float:
    """The zero point of the codes in the kernels: with -1/2 they may use all of two's complement."""
    return 0 if symmetric or bits == 8 else -0.5


def parts_grid(layer: CompressedLayer) -> WeightGrid | None:
    """The grid of a layer that is deployed as a sum of parts; None for one whose codes the kernels take as they are."""
    quantizer = layer.quantize_weight
    if not isinstance(quantizer, GridQuantizer):
        return None
    with torch.no_grad():
        grid = quantizer.grid(layer.weight)
    if grid.scale.shape[1] > 1:
        return grid
    grouped = isinstance(layer, CompressedConv2d) and layer.groups > 1
    shared = quantizer.scheme.granularity == "tensor" and not (quantizer.bits == 8 and grouped)
    symmetric = grid.low == -grid.high and not bool(grid.zero_point.any())
    return None if shared or symmetric else grid
