"""Signs that can only be +1: a sign behind a ReLU sees nothing below zero, and says nothing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustlab.compress.layers import CompressedLayer

_log = logging.getLogger(__name__)
_SHOWN = 3


@contextmanager
def watching_signs(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """While it lasts, watch what the layers in `names` take the sign of; warn of those that saw nothing below zero.

    Watched are signs with their threshold at zero. Where the threshold is learned (react, lpb, dab), training moves it.
    """
    lowest: dict[str, float] = {}

    def watch(name: str) -> None:
        def look(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].numel():
                lowest[name] = min(lowest.get(name, float("inf")), float(inputs[0].detach().min()))

        handles.append(model.get_submodule(name).register_forward_pre_hook(look))

    handles: list[RemovableHandle] = []
    for name in names:
        if _has_fixed_sign(model.get_submodule(name)):
            watch(name)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    blind = [name for name, low in lowest.items() if low >= 0]
    if blind:
        more = f" and {len(blind) - _SHOWN} more" if len(blind) > _SHOWN else ""
        _log.warning(
            "the inputs of %s%s are never negative, as behind a ReLU, so their signs are always +1; take a network "
            "with Hardtanh or PReLU there, such as robustlab:cifar_bireal, or an algorithm that learns its thresholds: "
            "react, lpb, dab",
            ", ".join(blind[:_SHOWN]),
            more,
        )


def _has_fixed_sign(layer: nn.Module) -> bool:
    if not isinstance(layer, CompressedLayer) or not layer.binary:
        return False
    around = layer.quantize_input.composition()
    return layer.quantize_input.spec() is None and (around is None or around.kind == "sample")
