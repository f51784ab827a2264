"""Cross-layer equalization: share ranges between neighbouring layers (Nagel et al., ICCV 2019, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.compress.fold import function_check
from robustlab.compress.ptq.method import Method
from robustlab.compress.ptq.pairs import find_pairs
from robustlab.compress.structure import Layer
from robustlab.core.errors import check_int, invalid
from robustlab.core.frozen import frozen


@dataclass(frozen=True)
class CrossLayerEqualization(Method):
    """Scale output channel i of a layer by 1 / s_i, input channel i of the next by s_i, s_i = sqrt(r1_i r2_i) / r2_i.

    r1 and r2 are the largest magnitudes of the channel's weights in the two layers (eq. 11): afterwards they are equal.
    Done on the float model, batch norms folded, for every pair that `robustlab.compress.ptq.pairs.find_pairs` finds,
    `rounds` times over, as a layer can be in two pairs. The weights behind and before it are then quantized to nearest.
    """

    rounds: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("rounds", self.rounds, 1)

    def prepare(self, model: nn.Module, images: Tensor) -> None:
        """Equalize a float model in place; its function stays, up to float rounding.

        Raises `ArgumentError` for a model that cannot be traced, has no such pair, or whose output on `images` moved.
        """
        pairs = find_pairs(model)
        if not pairs:
            raise invalid(
                "algorithm", "cle", f"another one for {type(model).__name__}: no two layers with only ReLU between them"
            )
        with frozen(model), torch.no_grad():
            output = model(images.clone())
        same = function_check(model, images, output)
        for _ in range(self.rounds):
            for first, second in pairs:
                one, other = model.get_submodule(first), model.get_submodule(second)
                assert isinstance(one, Layer) and isinstance(other, Layer)
                equalize(one, other)
        if not same():
            raise invalid("algorithm", "cle", f"another one for {type(model).__name__}: its function changed")


def equalize(first: Layer, second: Layer) -> None:
    """Equalize two layers of which the second reads what the first returns, channel by channel, through ReLU at most.

    A linear layer behind a flattened convolution reads several inputs per channel. A channel without weights in either
    layer is left alone.
    """
    with torch.no_grad():
        one = first.weight.flatten(1).abs().amax(dim=1).double()
        view = _by_input(second, len(one))
        other = view.abs().amax(dim=(0, 2)).double()
        factor = torch.where((one > 0) & (other > 0), (one * other).sqrt() / other, 1.0)
        first.weight.copy_(first.weight.double() / factor.reshape(-1, *([1] * (first.weight.ndim - 1))))
        if first.bias is not None:
            first.bias.copy_(first.bias.double() / factor)
        view.copy_(view.double() * factor[:, None])


def _by_input(layer: Layer, channels: int) -> Tensor:
    """A view (outputs, channels, taps) of the weight, or (1, channels, taps) of a depthwise convolution."""
    weight = layer.weight
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return weight.view(1, channels, -1)
    return weight.view(len(weight), channels, -1)
