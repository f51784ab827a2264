"""Whether a model and images can be calibrated at all: finite numbers, channels and inputs that are not constant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustlab.compress.layers import CompressedLayer
from robustlab.compress.structure import BatchNorm
from robustlab.core.errors import invalid


def check_finite(model: nn.Module) -> None:
    """Raise `ArgumentError` that names a parameter, or statistics of a batch norm, with NaN or infinity."""
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm) and module.running_mean is not None and module.running_var is not None:
            tensors |= {f"{name}.running_mean": module.running_mean, f"{name}.running_var": module.running_var}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise invalid(f"tensor {name} of the model", "a tensor with NaN or infinity", "finite numbers")


def check_signs(name: str, weight: Tensor) -> None:
    """Raise `ArgumentError` for an output channel whose weights, at least two, are all equal, or that is all zeros.

    Its signs say nothing, and what normalizes a channel first has no deviation to divide by. Grids of more levels hold
    a constant channel as it is.
    """
    flat = weight.detach().flatten(1)
    constant = (flat == flat[:, :1]).all(dim=1)
    if flat.shape[1] == 1:
        constant = constant & (flat[:, 0] == 0)
    if bool(constant.any()):
        channel = int(constant.nonzero()[0])
        shown = f"{float(flat[channel, 0]):g} in all of channel {channel}"
        raise invalid(f"weight of layer {name}", shown, "channels whose weights differ, or more bits than one")


def check_zeros(name: str, layer: CompressedLayer) -> None:
    """Raise `ArgumentError` for an output channel of zeros, as pruning leaves them, that would not stay zeros."""
    with torch.no_grad():
        zeros = (layer.weight == 0).flatten(1).all(dim=1)
        moved = zeros & layer.quantize_weight(layer.weight).flatten(1).any(dim=1)
    if bool(moved.any()):
        shown = f"0 in all of channel {int(moved.nonzero()[0])}"
        raise invalid(
            f"weight of layer {name}", shown, "no such channel, or bits and an algorithm that have the level 0"
        )


class InputRange:
    """Smallest and largest input that a layer saw."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.finite = True

    def observe(self, x: Tensor) -> None:
        """See one input, any shape."""
        if not x.numel():
            return
        low, high = (float(v) for v in torch.aminmax(x.detach()))
        self.finite = self.finite and math.isfinite(low) and math.isfinite(high)
        self.low, self.high = min(self.low, low), max(self.high, high)

    def check(self, name: str) -> None:
        """Raise `ArgumentError` for a layer that saw nothing, NaN or infinity, or one number only."""
        if not self.finite:
            raise invalid(f"activations of layer {name}", "a tensor with NaN or infinity", "finite numbers")
        if self.low > self.high:
            raise invalid(f"layer {name}", "a layer that calibration never ran", "layers that run on all images")
        if self.low == self.high:
            shown = f"{self.low:g} everywhere on all calibration images"
            raise invalid(f"activations of layer {name}", shown, "inputs that differ, or the layer in keep_float")


@contextmanager
def watched(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, InputRange]]:
    """While it lasts, the ranges of the inputs of `layers`."""
    ranges = {name: InputRange() for name in layers}

    def hook(name: str) -> None:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            ranges[name].observe(inputs[0])

        handles.append(layers[name].register_forward_pre_hook(note))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        for name in layers:
            hook(name)
        yield ranges
    finally:
        for handle in handles:
            handle.remove()
