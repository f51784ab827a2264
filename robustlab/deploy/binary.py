"""Networks that are binary from their training on: every layer goes straight to packed kernels."""

from __future__ import annotations

from torch import Tensor, nn

from robustlab.compress.freeze import LayerScheme
from robustlab.compress.layers import numeric_padding
from robustlab.compress.structure import replace
from robustlab.core.errors import invalid
from robustlab.deploy.packed import PackedLayer
from robustlab.kernels import ActivationSpec, ConvGeometry
from robustlab.models.bnn import BinaryNetwork, Grid


def pack_binary(model: BinaryNetwork) -> nn.Module:
    """Put the signs of every convolution and linear layer of `model`, times mean |w| per output, on packed kernels.

    In place; returns the model in eval mode. Raises `ArgumentError` for a scale too small to be exact.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            replace(model, name, _packed(module, model.grids.get(name)))
    return model.eval()


def _packed(layer: nn.Conv2d | nn.Linear, grid: Grid | None) -> PackedLayer:
    weight = layer.weight.detach()
    scale: Tensor = weight.abs().flatten(1).mean(1)
    activation = None if grid is None else ActivationSpec(*grid)
    if activation is not None:
        scale = scale * activation.scale
    geometry = None
    if isinstance(layer, nn.Conv2d):
        padding = numeric_padding(layer)
        if padding is None:
            raise invalid("padding", layer.padding, "the same on both sides")
        (rows, columns), (down, right) = layer.stride, layer.dilation
        geometry = ConvGeometry((rows, columns), padding, (down, right), layer.groups)
    codes = (weight < 0).to(weight.dtype) * -2 + 1
    bias = None if layer.bias is None else layer.bias.detach().clone()
    return PackedLayer(codes, scale, bias, LayerScheme(1, activation, geometry)).eval()
