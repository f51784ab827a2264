"""Which parts of a model are reconstructed together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustlab.compress.structure import shared_names
from robustlab.core.frozen import frozen

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_blocks(model: nn.Module, names: Sequence[str], images: Tensor) -> list[tuple[str, tuple[str, ...]]]:
    """[(module, the layers in it)], in the order they run, every one of the layers `names` in exactly one of them.

    A block is the innermost module of a class of its own (not `nn.Sequential` and its like) that holds at least two,
    but not all, of the layers, the way a residual block does. It has to run once per image batch, take one tensor and
    return one, and its layers have to run one after another. A layer outside such modules is a block by itself.
    `names` has the order the layers run in; `images` are a few to run the model on.
    """
    held = {
        name: tuple(layer for layer in names if layer.startswith(name + "."))
        for name, module in model.named_modules()
        if name and type(module) not in _CONTAINERS
    }
    shared = shared_names(model)
    candidates = [n for n, layers in held.items() if 2 <= len(layers) < len(names) and n not in shared]
    innermost = [n for n in candidates if not any(other.startswith(n + ".") for other in candidates)]
    simple = _simple(model, innermost, images)
    blocks: list[tuple[str, tuple[str, ...]]] = []
    done: set[str] = set()
    for index, layer in enumerate(names):
        if layer in done:
            continue
        around = next((n for n in innermost if layer in held[n]), None)
        inside = held[around] if around is not None else ()
        together = around in simple and inside == tuple(names[index : index + len(inside)])
        blocks.append((around, inside) if around is not None and together else (layer, (layer,)))
        done.update(blocks[-1][1])
    return blocks


def _simple(model: nn.Module, names: Sequence[str], images: Tensor) -> set[str]:
    """Those of the modules that ran exactly once, on one tensor, and returned one."""
    calls: dict[str, list[bool]] = {name: [] for name in names}
    handles = []
    for name in names:

        def hook(
            _m: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], y: object, name: str = name
        ) -> None:
            calls[name].append(len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(y, Tensor))

        handles.append(model.get_submodule(name).register_forward_hook(hook, with_kwargs=True))
    try:
        with frozen(model), torch.no_grad():
            model(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return {name for name, seen in calls.items() if seen == [True]}
