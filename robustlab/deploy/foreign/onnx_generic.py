"""Operators with the same name and meaning in an ONNX graph and in ours; what depends on constants alone is folded."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import Tensor

from robustlab.deploy.foreign.onnx_constants import Constant, constant_of, torch_type, working
from robustlab.deploy.foreign.onnx_nodes import Node
from robustlab.deploy.foreign.onnx_state import Grid, State, Unsupported
from robustlab.models.graph import OPERATORS, Step

# Operators that only move codes: their output is on the grid of their input.
_MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Concat", "Split"}
    | {"Identity", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"}
)
# Two outputs or states that a network in use does not have; only the first output is made.
_ONE_OUTPUT = frozenset({"Dropout", "BatchNormalization", "LayerNormalization", "MaxPool"})


def generic(state: State, node: Node) -> None:
    """An operator with the same name and meaning here."""
    used = [name for name in node.outputs if name]
    if len(used) > 1 and node.op in _ONE_OUTPUT:
        raise Unsupported("more than one output")
    attributes = _attributes(state, node)
    if all(not name or name in state.constants for name in node.inputs):
        _fold(state, node, attributes)
        return
    data = [name for name in node.inputs if name in state.codes]
    if data and node.op not in _MOVES:
        raise Unsupported("on integers")
    if data and len({_key(state.codes[name]) for name in data}) > 1:
        raise Unsupported("on integers of different scales")
    outputs = [state.new() + f"_{i}" if name else "" for i, name in enumerate(node.outputs)]
    inputs = [state.value(name) for name in node.inputs]
    state.steps.append(Step(op=node.op, name=node.name, inputs=inputs, outputs=outputs, attributes=attributes))
    for name, output in zip(node.outputs, outputs, strict=True):
        if not name:
            continue
        state.values[name] = output
        if data:
            state.codes[name] = state.codes[data[0]]
        grids = [state.levels.get(value) for value in inputs if value and not value.startswith("c")]
        first = grids[0] if grids else None
        keeps = node.op in _MOVES or (node.op == "Pad" and _pads_with_zero(state, node))
        if keeps and first is not None and all(g == first for g in grids):
            state.levels[output] = first


def _pads_with_zero(state: State, node: Node) -> bool:
    """Whether what is added is 0, which every grid has among its levels."""
    given = node.input(2)
    value = state.constant(given).reshape(-1)[0].item() if given else node.attributes.get("value", 0.0)
    return node.attributes.get("mode", "constant") == "constant" and value == 0


def _key(grid: Grid | tuple[Tensor, Tensor, int, int, int]) -> object:
    return grid if isinstance(grid, Grid) else tuple(map(id, grid))


def _attributes(state: State, node: Node) -> dict[str, Any]:
    """Attributes as JSON values, with what an operator's meaning takes from the opset and from its outputs."""
    attributes: dict[str, Any] = {}
    for key, value in node.attributes.items():
        if isinstance(value, (onnx.GraphProto, onnx.SparseTensorProto)):
            raise Unsupported("a graph inside it")
        if not isinstance(value, onnx.TensorProto):
            attributes[key] = value
    if node.op in ("Softmax", "LogSoftmax") and state.file.opset < 13:
        attributes.setdefault("axis", 1)
        attributes["flattened"] = True
    elif node.op in ("Cast",):
        attributes["to"] = torch_type(int(node.attributes["to"]))
    elif node.op == "ConstantOfShape":
        value = node.attributes.get("value")
        attributes["value"], attributes["to"] = 0.0, "float32"
        if value is not None:
            filler = constant_of(value)
            attributes["value"] = filler.tensor.reshape(-1)[0].item()
            attributes["to"] = torch_type(filler.elem_type)
    elif node.op == "Split":
        attributes["parts"] = len(node.outputs)
    elif node.op == "BatchNormalization" and node.attributes.get("training_mode"):
        raise Unsupported("in training mode")
    return attributes


def _fold(state: State, node: Node, attributes: dict[str, Any]) -> None:
    inputs = [working(state.constants[name]) if name else None for name in node.inputs]
    made = OPERATORS[node.op](inputs, attributes)
    types = {torch.float32: onnx.TensorProto.FLOAT, torch.bool: onnx.TensorProto.BOOL}
    for name, tensor in zip(node.outputs, (made,) if isinstance(made, Tensor) else made, strict=False):
        state.constants[name] = Constant(tensor.contiguous(), types.get(tensor.dtype, onnx.TensorProto.INT64))
