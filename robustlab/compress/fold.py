"""Fold batch norms into the float layers they follow, before any quantizer is placed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from robustlab.compress.structure import BatchNorm, replace, trace
from robustlab.core.frozen import frozen

_TOLERANCE = 1e-3


def fold_batch_norms(model: nn.Module, images: Tensor, skip: Collection[str] = ()) -> tuple[str, ...]:
    """Fold, in place, every evaluation-mode batch norm that directly follows a convolution or linear layer.

    Layers named in `skip` keep theirs, and so do subclasses, parametrized and shared layers. Each fold is checked by
    running `images`: where the outputs move by more than 1e-3 of their range the layer's output has another reader as
    well, and the fold is undone. Returns the names of the folded norms.
    """
    seen = trace(model, images)
    same = function_check(model, images, seen.output)
    candidates = [
        (layer, norm)
        for layer, norm in seen.pairs
        if layer not in skip
        and seen.calls[layer] == 1
        and seen.calls[norm] == 1
        and _can_fold(model.get_submodule(layer), model.get_submodule(norm))
    ]
    undo = [_fold(model, layer, norm) for layer, norm in candidates]
    if same():
        return tuple(norm for _, norm in candidates)
    for action in reversed(undo):
        action()
    kept = []
    for layer, norm in candidates:
        restore = _fold(model, layer, norm)
        if same():
            kept.append(norm)
        else:
            restore()
    return tuple(kept)


def function_check(model: nn.Module, images: Tensor, output: object) -> Callable[[], bool]:
    """What tells whether `model` still maps `images` to `output`, up to 1e-3 of the output's range."""
    reference = _tensors(output)

    def same() -> bool:
        with frozen(model), torch.no_grad():
            found = _tensors(model(images))
        return len(found) == len(reference) and all(_close(a, b) for a, b in zip(found, reference, strict=True))

    return same


def _tensors(output: object) -> list[Tensor]:
    """The tensors in what a model returns: logits, or the lists and dicts of a detector."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [tensor for item in output for tensor in _tensors(item)]
    return []


def _close(found: Tensor, reference: Tensor) -> bool:
    if found.shape != reference.shape:
        return False
    if not reference.numel():
        return True
    tolerance = _TOLERANCE * float(reference.abs().max().clamp(min=1e-6))
    return bool(((found - reference).abs() <= tolerance).all())


def _can_fold(layer: nn.Module, norm: nn.Module) -> bool:
    plain = type(layer) in (nn.Conv2d, nn.Linear) and type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d)
    if not plain or (isinstance(layer, nn.Linear) and type(norm) is nn.BatchNorm2d):
        return False
    weight = layer.get_parameter("weight")
    assert isinstance(norm, BatchNorm)
    return norm.running_mean is not None and norm.num_features == len(weight) and weight.dtype == torch.float32


class _Restore:
    """Puts a layer and its batch norm back."""

    def __init__(self, model: nn.Module, norm_name: str, norm: nn.Module, layer: nn.Conv2d | nn.Linear) -> None:
        self.model, self.norm_name, self.norm, self.layer = model, norm_name, norm, layer
        self.weight, self.bias = layer.weight, layer.bias

    def __call__(self) -> None:
        replace(self.model, self.norm_name, self.norm)
        self.layer.weight, self.layer.bias = self.weight, self.bias


def _fold(model: nn.Module, layer_name: str, norm_name: str) -> _Restore:
    layer = model.get_submodule(layer_name)
    norm = model.get_submodule(norm_name)
    assert isinstance(layer, (nn.Conv2d, nn.Linear)) and isinstance(norm, BatchNorm)
    assert norm.running_mean is not None and norm.running_var is not None
    restore = _Restore(model, norm_name, norm, layer)
    with torch.no_grad():
        gain = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            gain = gain * norm.weight.double()
        offset = -norm.running_mean.double()
        if layer.bias is not None:
            offset = offset + layer.bias.double()
        bias = offset * gain
        if norm.bias is not None:
            bias = bias + norm.bias.double()
        shape = (-1, *([1] * (layer.weight.ndim - 1)))
        layer.weight = nn.Parameter((layer.weight.double() * gain.reshape(shape)).float())
        layer.bias = nn.Parameter(bias.float())
    replace(model, norm_name, nn.Identity())
    return restore
