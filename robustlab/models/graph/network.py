"""The module that runs a graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustlab.core.errors import RobustlabError
from robustlab.models.graph.operators import OPERATORS
from robustlab.models.graph.spec import LAYER, GraphSpec, LayerSpec

_TYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


class GraphNetwork(nn.Module):
    """A network that runs the steps of a graph. Convolutions and linear layers are modules of its own, `layers`.

    Shape: what the graph's input takes, such as (N, C, H, W), -> what its output gives.
    """

    def __init__(self, spec: GraphSpec) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleDict({name: make_layer(layer) for name, layer in spec.layers.items()})
        self.constants = nn.Module()
        for name, (dtype, shape) in spec.constants.items():
            self.constants.register_buffer(name, torch.zeros(shape, dtype=_TYPES[dtype]))
        self._dead = _last_uses(spec)

    def fill(self, tensors: Mapping[str, Tensor]) -> GraphNetwork:
        """Set weights (``layers.NAME.weight``) and constants (``constants.NAME``), all of them; returns itself."""
        self.load_state_dict(dict(tensors), strict=True, assign=True)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph. Raises `RobustlabError` that names the step where one fails."""
        values: dict[str, Tensor] = {**dict(self.constants.named_buffers()), self.spec.input: x}
        layers = dict(self.layers.items())
        for step, dead in zip(self.spec.steps, self._dead, strict=True):
            try:
                if step.op == LAYER:
                    values[step.outputs[0]] = layers[step.attributes["layer"]](values[step.inputs[0]])
                else:
                    inputs = [values[name] if name else None for name in step.inputs]
                    made = OPERATORS[step.op](inputs, step.attributes)
                    if isinstance(made, Tensor):
                        values[step.outputs[0]] = made
                    else:
                        values.update(zip(step.outputs, made, strict=False))
            except (RuntimeError, ValueError, TypeError, LookupError, AssertionError, ArithmeticError) as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise RobustlabError(f"step {step.name} ({step.op}) of the graph failed: {reason}") from error
            for name in dead:
                values.pop(name, None)
        return values[self.spec.output]

    def extra_repr(self) -> str:
        """The steps, also part of a model's fingerprint."""
        return self.spec.model_dump_json()


def make_layer(spec: LayerSpec) -> nn.Module:
    """An `nn.Conv2d` or `nn.Linear` of zeros."""
    layer: nn.Module
    if spec.kind == "linear":
        outputs, inputs = spec.shape
        layer = nn.Linear(inputs, outputs, bias=spec.bias)
    else:
        outputs, inputs, height, width = spec.shape
        layer = nn.Conv2d(
            inputs * spec.groups,
            outputs,
            (height, width),
            stride=(spec.stride[0], spec.stride[1]),
            padding=(spec.padding[0], spec.padding[1]),
            dilation=(spec.dilation[0], spec.dilation[1]),
            groups=spec.groups,
            bias=spec.bias,
        )
    return layer


def _last_uses(spec: GraphSpec) -> list[list[str]]:
    """For each step, the values that nothing needs after it."""
    kept = {spec.output, *spec.constants}
    dead: list[list[str]] = []
    for step in reversed(spec.steps):
        gone = [name for name in dict.fromkeys([*step.inputs, *step.outputs]) if name and name not in kept]
        kept.update(gone)
        dead.append(gone)
    return dead[::-1]
