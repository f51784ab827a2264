"""A graph as data: steps over named values, the layers with weights among them, and the shapes of its constants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustlab.core.errors import check_choice, invalid

LAYER = "Layer"
"""The operator of a step that runs one of the layers; its attribute ``layer`` is the name."""

DTYPES = ("float32", "int64", "bool")

Name = Annotated[str, Field(min_length=1, max_length=200)]
Ident = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,150}$")]
Size = Annotated[int, Field(ge=1, le=1 << 20)]
Offset = Annotated[int, Field(ge=0, le=1 << 20)]
_MOST_ELEMENTS = 1 << 30


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Step(_Strict):
    """One operator. `inputs` name values, "" for one that is left out; `name` is shown where something fails."""

    op: Name
    name: str
    inputs: list[str]
    outputs: Annotated[list[str], Field(min_length=1)]
    attributes: dict[str, Any] = {}


class LayerSpec(_Strict):
    """A convolution or a linear layer. shape: of its weight, (O, C / groups, kh, kw) or (O, K)."""

    kind: Literal["conv", "linear"]
    shape: Annotated[list[Size], Field(min_length=2, max_length=4)]
    bias: bool
    stride: Annotated[list[Size], Field(min_length=2, max_length=2)] = [1, 1]
    padding: Annotated[list[Offset], Field(min_length=2, max_length=2)] = [0, 0]
    dilation: Annotated[list[Size], Field(min_length=2, max_length=2)] = [1, 1]
    groups: Size = 1


class GraphSpec(_Strict):
    """The whole graph, from `input` to `output`. Steps come in the order in which they run."""

    input: Name
    output: Name
    steps: Annotated[list[Step], Field(min_length=1, max_length=20_000)]
    layers: dict[Ident, LayerSpec]
    constants: dict[Ident, tuple[str, list[int]]]


def parse_graph(arguments: Mapping[str, object]) -> GraphSpec:
    """Check a graph given as JSON values: its fields, its operators, and that every value is made before it is used.

    Raises `ArgumentError` that names the first thing at fault.
    """
    try:
        spec = GraphSpec.model_validate_json(json.dumps(dict(arguments)))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise invalid(f"graph: {field}", first.get("input"), str(first["msg"])) from None
    check_graph(spec)
    return spec


def check_graph(spec: GraphSpec) -> None:
    """Raise `ArgumentError` for unknown operators, values that nothing makes, and constants that are too large."""
    from robustlab.models.graph.operators import OPERATORS

    known = {spec.input, *spec.constants}
    elements = 0
    for name, (dtype, shape) in spec.constants.items():
        check_choice(f"type of constant {name}", dtype, DTYPES)
        count = 1
        for side in shape:
            if side < 0:
                raise invalid(f"shape of constant {name}", shape, "whole numbers >= 0")
            count *= side
        elements += count
    for name, layer in spec.layers.items():
        if len(layer.shape) != (4 if layer.kind == "conv" else 2):
            raise invalid(f"shape of layer {name}", layer.shape, "four numbers for a convolution, two for a linear one")
        if layer.kind == "conv" and layer.shape[0] % layer.groups:
            raise invalid(f"groups of layer {name}", layer.groups, f"a divisor of its {layer.shape[0]} outputs")
        count = 1
        for side in layer.shape:
            count *= side
        elements += count
    if elements > _MOST_ELEMENTS:
        raise invalid("graph", f"{elements} weights", f"at most {_MOST_ELEMENTS}")
    for step in spec.steps:
        if step.op == LAYER:
            check_choice(f"layer of step {step.name}", step.attributes.get("layer"), spec.layers)
        else:
            check_choice(f"operator of step {step.name}", step.op, OPERATORS)
        for value in step.inputs:
            if value and value not in known:
                raise invalid(f"input of step {step.name}", value, "a value that an earlier step makes")
        for value in filter(None, step.outputs):
            if value in known:
                raise invalid(f"output of step {step.name}", value, "a value that nothing else makes")
            known.add(value)
    if spec.output not in known:
        raise invalid("output of the graph", spec.output, "a value that a step makes")
