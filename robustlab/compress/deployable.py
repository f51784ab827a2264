"""Which layers of a compressed model the kernels can run exactly, and as what; for the others, why not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robustlab.compress.composed import COMPOSITIONS
from robustlab.compress.layers import CompressedLayer
from robustlab.compress.parts import Parts, parts_grid
from robustlab.core.errors import invalid


@dataclass(frozen=True)
class LayerDeployability:
    """One layer: its class, one of `robustlab.compress.contract.DEPLOYABILITY`, and for X the reason."""

    name: str
    algorithm: str
    kind: str
    reason: str = ""


def deployability(model: nn.Module) -> tuple[LayerDeployability, ...]:
    """The class of every compressed layer. `robustlab.deploy` refuses a model that has an X among them.

    Raises `ArgumentError` for a model without compressed layers.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, CompressedLayer)]
    if not layers:
        raise invalid("model", type(model).__name__, "a compressed model, from robustlab.compress(...)")
    return tuple(classify(name, layer) for name, layer in layers)


def classify(name: str, layer: CompressedLayer) -> LayerDeployability:
    """The class of one layer."""
    plain = "binary" if layer.binary else "uniform"
    algorithm = plain if layer.algorithm is None else layer.algorithm.name
    reasons = [reason for coder in layer.coders() if (reason := coder.obstacle()) is not None]
    if reasons:
        return LayerDeployability(name, algorithm, "X", reasons[0])
    around = [coder.composition() for coder in (layer.quantize_input, layer.scale_output) if coder is not None]
    if parts_grid(layer) is not None:
        return LayerDeployability(name, algorithm, Parts.deployability)
    kinds = [COMPOSITIONS[composition.kind].deployability for composition in around if composition is not None]
    return LayerDeployability(name, algorithm, kinds[0] if kinds else "P")
