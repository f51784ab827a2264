"""`deploy`: from a compressed model to the same network on packed kernels, and back to its simulation."""

from __future__ import annotations

import copy

from torch import nn

from robustlab.compress.freeze import FrozenLayer, freeze
from robustlab.compress.layers import CompressedLayer
from robustlab.compress.structure import replace
from robustlab.core.errors import invalid
from robustlab.deploy.graph import unoptimized
from robustlab.deploy.packed import PackedLayer
from robustlab.models import info_of, set_info


def deploy(model: nn.Module, *, factorable: bool = False) -> nn.Module:
    """A copy of a compressed (or frozen) model whose compressed layers are packed; no value changes.

    What the kernels cannot run exactly is refused, or with `factorable` replaced by the documented form that they can:
    see `robustlab.compress.deployability`.

    Example: ``deploy(compress(net, weights=4, activations=4, calibration=images))``.
    Raises `ArgumentError` for a model without compressed layers, `RobustlabError` for a layer that is refused.
    """
    if any(isinstance(module, CompressedLayer) for module in model.modules()):
        result = freeze(model, factorable=factorable)
    elif any(isinstance(module, FrozenLayer) for module in model.modules()):
        result = copy.deepcopy(model).eval()
    else:
        raise invalid("model", type(model).__name__, "a compressed model, from robustlab.compress(...)")
    for name, module in list(result.named_modules()):
        if isinstance(module, FrozenLayer):
            replace(result, name, PackedLayer.from_frozen(module).eval())
    info = info_of(model)
    return set_info(result, info) if info else result


def simulated_twin(model: nn.Module) -> nn.Module | None:
    """The exact simulation of a deployed model, unpacked from its bits; None for a model without packed layers."""
    if not any(isinstance(module, PackedLayer) for module in model.modules()):
        return None
    result = copy.deepcopy(unoptimized(model)).eval()
    for name, module in list(result.named_modules()):
        if isinstance(module, PackedLayer):
            replace(result, name, module.to_frozen())
    return result
