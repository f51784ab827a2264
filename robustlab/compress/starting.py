"""The first calibration batch, shown to the coders of the layers that run on it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustlab.compress.layers import CompressedLayer


@contextmanager
def starting(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """While it lasts, the first input of every layer in `names` that has an algorithm sets what its coders start with.

    Layers run in their order, so that each is started on what the ones before it give, started themselves.
    """
    handles: dict[str, RemovableHandle] = {}

    def hook(name: str) -> None:
        def start(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            handles.pop(name).remove()
            assert isinstance(layer, CompressedLayer)
            for coder in layer.coders():
                coder.start(inputs[0].detach())

        handles[name] = model.get_submodule(name).register_forward_pre_hook(start)

    for name in names:
        layer = model.get_submodule(name)
        if isinstance(layer, CompressedLayer) and layer.algorithm is not None:
            hook(name)
    try:
        yield
    finally:
        for handle in handles.values():
            handle.remove()
