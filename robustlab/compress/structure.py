"""What a model does with its layers, found by running it once: order, sharing, and which batch norm follows what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.compress.layers import CompressedLayer
from robustlab.core.frozen import frozen

Layer = nn.Conv2d | nn.Linear
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True)
class Trace:
    """Layers in the order they first ran, how often each ran, and (layer, batch norm) pairs that ran back to back.

    Layers are convolutions and linear layers, compressed ones included. `output` is what the model returned.
    """

    order: tuple[str, ...]
    calls: dict[str, int]
    pairs: tuple[tuple[str, str], ...]
    output: object


def shared_names(model: nn.Module) -> set[str]:
    """Every name of a module that has more than one."""
    seen: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        seen.setdefault(id(module), []).append(name)
    return {name for names in seen.values() if len(names) > 1 for name in names}


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where the sub-module `name` is."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def trace(model: nn.Module, images: Tensor) -> Trace:
    """Run `model` on `images` once, leaving it as it was, and note what ran.

    A batch norm follows a layer when the tensor it gets is the very tensor the layer returned, not written to since.
    """
    order: list[str] = []
    calls: dict[str, int] = {}
    made_by: dict[int, tuple[str, int]] = {}
    keep: list[Tensor] = []
    pairs: list[tuple[str, str]] = []
    handles = []

    def on_layer(name: str) -> None:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if calls[name] == 1:
                order.append(name)
            made_by[id(output)] = (name, output._version)
            keep.append(output)  # an id stays unique only while the tensor lives

        handles.append(model.get_submodule(name).register_forward_hook(hook))

    def on_norm(name: str) -> None:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            layer, version = made_by.get(id(inputs[0]), ("", -1))
            if inputs[0]._version == version:
                pairs.append((layer, name))

        handles.append(model.get_submodule(name).register_forward_hook(hook))

    for name, module in model.named_modules():
        if isinstance(module, (Layer, CompressedLayer)):
            on_layer(name)
        elif isinstance(module, BatchNorm):
            on_norm(name)
    try:
        with frozen(model), torch.no_grad():
            output = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(tuple(order), calls, tuple(pairs), output)
