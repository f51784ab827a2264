"""What a compressed model starts its training with: first values of coders, and batch norms that fit signs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustlab.compress.layers import CompressedLayer
from robustlab.compress.norms import reestimate_batch_norms
from robustlab.compress.observers import RangeObserver
from robustlab.compress.quantizers import ActivationQuantizer


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


def fit_norms_to_signs(model: nn.Module, images: Tensor) -> None:
    """Re-estimate the batch norms of a model with binary layers on its calibration images, before grids are set.

    Signs have another size than the floats they stand for. With the statistics of the float network everything behind
    them, first values and ranges too, would be set on numbers that training never sees. Layers of more bits pass their
    input on meanwhile. One image has no statistics, and changes nothing.
    """
    layers = [module for module in model.modules() if isinstance(module, CompressedLayer)]
    quantizers = [q for q in (layer.quantize_input for layer in layers) if isinstance(q, ActivationQuantizer)]
    waiting = [q for q in quantizers if q.observer is None]
    if len(images) < 2 or not any(layer.binary for layer in layers):
        return
    for quantizer in waiting:
        quantizer.observer = RangeObserver("minmax", quantizer.bits)
    try:
        reestimate_batch_norms(model, images)
    finally:
        for quantizer in waiting:
            quantizer.observer = None
