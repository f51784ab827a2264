"""From an ONNX graph to one of ours: constants folded, weights de-quantized, quantizers as straight-through grids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor

from robustlab.core.errors import ModelFileError
from robustlab.deploy.foreign.onnx_constants import (
    Codes,
    Constant,
    code_range,
    constant_of,
    dequantize,
    torch_type,
    working,
)
from robustlab.deploy.foreign.onnx_file import OnnxFile
from robustlab.deploy.foreign.onnx_nodes import Node, read_nodes
from robustlab.models.graph import OPERATORS, GraphSpec, LayerSpec, Step
from robustlab.models.graph.spec import LAYER

# Operators that only move codes: their output is on the grid of their input.
_MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Concat", "Split"}
    | {"Identity", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"}
)
# Two outputs or states that a network in use does not have; only the first output is made.
_ONE_OUTPUT = frozenset({"Dropout", "BatchNormalization", "LayerNormalization", "MaxPool"})
_INNER = frozenset({"Grid", "Regrid", "SamePad"})  # operators of ours, which no file may name


@dataclass(frozen=True)
class Grid:
    """The levels of a quantized activation: (code - zero_point) * scale for codes from low to high."""

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Of a code."""
        return (self.high - self.low).bit_length()


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """What is quantized of a layer: its weight's codes (None: float), the grid of its input (None: float)."""

    weight: Codes | None
    activation: Grid | None


@dataclass(frozen=True, eq=False)
class Translation:
    """A graph of ours and its tensors; `quantized` by the name of a layer. `output_levels` is None for float logits."""

    spec: GraphSpec
    tensors: Mapping[str, Tensor]
    quantized: Mapping[str, QuantizedLayer]
    probabilities: bool


class UnsupportedOperators(Exception):
    """Operators that have no translation; `names` says each with its node."""

    def __init__(self, names: list[str]) -> None:
        super().__init__("; ".join(names))
        self.names = names


@dataclass
class _State:
    """What is known so far, by the names of the file: constants, our name of a value, and grids of codes."""

    file: OnnxFile
    constants: dict[str, Constant] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    codes: dict[str, Grid | tuple[Tensor, Tensor, int, int, int]] = field(default_factory=dict)
    levels: dict[str, Grid] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    layers: dict[str, LayerSpec] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    stored: dict[int, str] = field(default_factory=dict)
    quantized: dict[str, QuantizedLayer] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    free_batch: bool = False

    def new(self) -> str:
        """A name for a value."""
        return f"v{len(self.steps)}_{len(self.values)}"


def translate(file: OnnxFile, *, free_batch: bool = False) -> Translation:
    """The graph of `file`; with `free_batch`, shapes that repeat its fixed batch size take any batch.

    Raises `UnsupportedOperators`, and `ModelFileError` for a graph that contradicts itself.
    """
    state = _State(file, free_batch=free_batch and file.batch is not None)
    state.values[file.input] = "images"
    for proto in file.model.graph.initializer:
        state.constants[proto.name] = _stored(proto, file)
    nodes = read_nodes(file.model.graph)
    probabilities = _ends_in_softmax(nodes, file)
    for node in nodes:
        last = probabilities and file.output in node.outputs
        try:
            _take(state, Node("LogSoftmax", node.name, node.inputs, node.outputs, node.attributes) if last else node)
        except _Unsupported as error:
            state.unsupported.append(f"{node.op} (node {node.name}{error.why})")
            state.values.update((name, "?") for name in node.outputs)
        except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, OverflowError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelFileError(f"model file {file.path}: node {node.name} ({node.op}): {reason}") from error
    if state.unsupported:
        raise UnsupportedOperators(list(dict.fromkeys(state.unsupported)))
    if file.output not in state.values:
        raise ModelFileError(f"model file {file.path}: output {file.output} does not depend on the images")
    if file.output in state.codes:
        raise UnsupportedOperators([f"an output of integers ({file.output})"])
    return _finish(state, state.values[file.output], probabilities)


class _Unsupported(Exception):
    def __init__(self, why: str = "") -> None:
        super().__init__(why)
        self.why = f": {why}" if why else ""


def _stored(proto: Any, file: OnnxFile) -> Constant:
    try:
        return constant_of(proto)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"model file {file.path}: tensor {proto.name}: {error}") from None


def _ends_in_softmax(nodes: list[Node], file: OnnxFile) -> bool:
    return any(node.op == "Softmax" and file.output in node.outputs for node in nodes)


def _take(state: _State, node: Node) -> None:
    if any(state.values.get(name) == "?" for name in node.inputs):
        state.values.update((name, "?") for name in node.outputs)  # named already where it began
        return
    for name in node.inputs:
        if name and name not in state.values and name not in state.constants and name not in state.codes:
            raise ValueError(f"its input {name} is made by nothing before it")
    special = _SPECIAL.get(node.op)
    if special is not None:
        special(state, node)
        return
    if node.op not in OPERATORS or node.op in _INNER:
        raise _Unsupported
    _generic(state, node)


def _generic(state: _State, node: Node) -> None:
    """An operator with the same name and meaning here."""
    used = [name for name in node.outputs if name]
    if len(used) > 1 and node.op in _ONE_OUTPUT:
        raise _Unsupported("more than one output")
    attributes = _attributes(state, node)
    if all(not name or name in state.constants for name in node.inputs):
        _fold(state, node, attributes)
        return
    data = [name for name in node.inputs if name in state.codes]
    if data and node.op not in _MOVES:
        raise _Unsupported("on integers")
    if data and len({_key(state.codes[name]) for name in data}) > 1:
        raise _Unsupported("on integers of different scales")
    outputs = [state.new() + f"_{i}" if name else "" for i, name in enumerate(node.outputs)]
    inputs = [_value(state, name) for name in node.inputs]
    state.steps.append(Step(op=node.op, name=node.name, inputs=inputs, outputs=outputs, attributes=attributes))
    for name, output in zip(node.outputs, outputs, strict=True):
        if not name:
            continue
        state.values[name] = output
        if data:
            state.codes[name] = state.codes[data[0]]
        grids = [state.levels.get(value) for value in inputs if value and not value.startswith("c")]
        first = grids[0] if grids else None
        if node.op in (*_MOVES, "Pad", "SamePad") and first is not None and all(g == first for g in grids):
            state.levels[output] = first


def _key(grid: Grid | tuple[Tensor, Tensor, int, int, int]) -> object:
    return grid if isinstance(grid, Grid) else tuple(map(id, grid))


def _attributes(state: _State, node: Node) -> dict[str, Any]:
    """Attributes as JSON values, with what an operator's meaning takes from the opset and from its outputs."""
    attributes: dict[str, Any] = {}
    for key, value in node.attributes.items():
        if isinstance(value, (onnx.GraphProto, onnx.SparseTensorProto)):
            raise _Unsupported("a graph inside it")
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
        raise _Unsupported("in training mode")
    return attributes


def _constant(state: _State, name: str) -> Tensor:
    """The tensor of an input that must be known beforehand."""
    if name not in state.constants:
        raise _Unsupported("with a computed parameter")
    return working(state.constants[name])


def _fold(state: _State, node: Node, attributes: dict[str, Any]) -> None:
    inputs = [working(state.constants[name]) if name else None for name in node.inputs]
    made = OPERATORS[node.op](inputs, attributes)
    types = {torch.float32: onnx.TensorProto.FLOAT, torch.bool: onnx.TensorProto.BOOL}
    for name, tensor in zip(node.outputs, (made,) if isinstance(made, Tensor) else made, strict=False):
        state.constants[name] = Constant(tensor.contiguous(), types.get(tensor.dtype, onnx.TensorProto.INT64))


def _value(state: _State, name: str) -> str:
    """Our name of an input; a constant becomes a tensor of the graph."""
    if not name:
        return ""
    if name in state.constants:
        return _keep(state, state.constants[name])
    return state.values[name]


def _keep(state: _State, constant: Constant) -> str:
    known = state.stored.get(id(constant))
    if known is None:
        known = state.stored[id(constant)] = f"c{len(state.stored)}"
        state.tensors[f"constants.{known}"] = working(constant).contiguous()
    return known


def _step(state: _State, node: Node, op: str, inputs: list[str], attributes: dict[str, Any]) -> str:
    output = state.new()
    state.steps.append(Step(op=op, name=node.name, inputs=inputs, outputs=[output], attributes=attributes))
    state.values[f"{node.name}>{output}"] = output
    return output


def _constant_node(state: _State, node: Node) -> None:
    (key, value), *rest = node.attributes.items()
    if rest or key not in ("value", "value_int", "value_ints", "value_float", "value_floats"):
        raise _Unsupported(f"with {key}")
    if key == "value":
        state.constants[node.outputs[0]] = _stored(value, state.file)
        return
    kind = onnx.TensorProto.INT64 if "int" in key else onnx.TensorProto.FLOAT
    dtype = torch.int64 if "int" in key else torch.float32
    state.constants[node.outputs[0]] = Constant(torch.tensor(value, dtype=dtype), kind)


def _identity(state: _State, node: Node) -> None:
    source, target = node.input(0), node.outputs[0]
    if len([name for name in node.outputs if name]) > 1:
        raise _Unsupported("more than one output")
    if node.op == "Dropout" and node.input(2) and bool(_constant(state, node.input(2)).any()):
        raise _Unsupported("in training mode")
    if source in state.constants:
        state.constants[target] = state.constants[source]
        return
    state.values[target] = state.values[source]
    if source in state.codes:
        state.codes[target] = state.codes[source]


def _quantize(state: _State, node: Node) -> None:
    scale, zero_point, low, high = _grid_of(state, node)
    axis = int(node.attributes.get("axis", 1))
    source, target = node.input(0), node.outputs[0]
    if node.attributes.get("block_size"):
        raise _Unsupported("of an activation in blocks")
    if source in state.constants:
        x = working(state.constants[source])
        shape = [1] * x.ndim
        if scale.numel() > 1:
            shape[axis] = -1
        codes = (x / scale.reshape(shape)).round() + zero_point.reshape(shape if zero_point.numel() > 1 else [])
        kind = _code_type(state, node)
        state.constants[target] = Constant(codes.clamp(low, high).long(), kind)
        return
    if source in state.codes:
        raise _Unsupported("of integers")
    x_name = _value(state, source)
    if scale.numel() == 1:
        grid = Grid(float(scale), int(zero_point.reshape(-1)[0]), low, high)
        attributes = {"scale": grid.scale, "zero_point": grid.zero_point, "low": low, "high": high}
        output = _step(state, node, "Grid", [x_name], attributes)
        state.codes[target] = state.levels[output] = grid
    else:
        names = [_keep(state, Constant(t.float(), onnx.TensorProto.FLOAT)) for t in (scale, zero_point)]
        attributes = {"low": low, "high": high, "axis": axis}
        output = _step(state, node, "Grid", [x_name, *names], attributes)
        state.codes[target] = (scale, zero_point, axis, low, high)
    state.values[target] = output


def _code_type(state: _State, node: Node) -> int:
    if node.input(2):
        return state.constants[node.input(2)].elem_type
    return int(node.attributes.get("output_dtype") or onnx.TensorProto.UINT8)


def _grid_of(state: _State, node: Node) -> tuple[Tensor, Tensor, int, int]:
    """Scale, zero point, and the range of the codes."""
    scale = _constant(state, node.input(1))
    zero_point = _constant(state, node.input(2)) if node.input(2) else torch.zeros(1, dtype=torch.int64)
    limits = code_range(_code_type(state, node))
    if limits is None:
        raise _Unsupported("to codes that are no integers")
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(f"its scale is {scale.reshape(-1)[0].item():g}; allowed: a positive finite number")
    return scale, zero_point, *limits


def _dequantize(state: _State, node: Node) -> None:
    source, target = node.input(0), node.outputs[0]
    scale = _constant(state, node.input(1))
    zero_point = _constant(state, node.input(2)) if node.input(2) else torch.zeros((), dtype=torch.int64)
    axis, block = int(node.attributes.get("axis", 1)), int(node.attributes.get("block_size", 0))
    if source in state.constants:
        known = state.constants[source]
        axis = axis % max(known.tensor.ndim, 1)
        real = dequantize(known.tensor, scale, zero_point, axis, block)
        limits = code_range(known.elem_type)
        codes = None
        if limits is not None and not block and not zero_point.is_floating_point():
            bits = (limits[1] - limits[0]).bit_length()
            codes = Codes(working(known), scale.reshape(-1), zero_point.reshape(-1), axis, bits)
        state.constants[target] = Constant(real, onnx.TensorProto.FLOAT, codes)
        return
    grid = state.codes.get(source)
    if grid is None:
        raise _Unsupported("of integers that no quantizer made")
    if not isinstance(grid, Grid):
        if torch.equal(grid[0], scale) and torch.equal(grid[1].reshape(-1), zero_point.reshape(-1)):
            state.values[target] = state.values[source]
            return
        raise _Unsupported("by other scales than those of the quantizer")
    if scale.numel() > 1:
        raise _Unsupported("by other scales than those of the quantizer")
    new_scale, new_zero = float(scale), int(zero_point.reshape(-1)[0])
    if (new_scale, new_zero) == (grid.scale, grid.zero_point):
        state.values[target] = state.values[source]
        return
    attributes = {
        "scale": grid.scale, "zero_point": grid.zero_point, "new_scale": new_scale, "new_zero_point": new_zero,
    }  # fmt: skip
    output = _step(state, node, "Regrid", [state.values[source]], attributes)
    state.levels[output] = Grid(new_scale, new_zero, grid.low, grid.high)
    state.values[target] = output


def _convolution(state: _State, node: Node) -> None:
    weight, bias = state.constants.get(node.input(1)), state.constants.get(node.input(2))
    fits = weight is not None and weight.tensor.ndim == 4 and (bias is not None or not node.input(2))
    if not fits or node.input(0) in state.constants or node.input(0) in state.codes:
        _generic(state, node)
        return
    assert weight is not None
    a, x = node.attributes, state.values[node.input(0)]
    kernel = list(weight.tensor.shape[2:])
    if a.get("kernel_shape") and list(a["kernel_shape"]) != kernel:
        raise ValueError(f"kernel_shape is {a['kernel_shape']}, and its weight has {kernel}")
    pads, auto = list(a.get("pads") or [0] * 4), a.get("auto_pad", "NOTSET")
    inside = [0, 0]
    grid = state.levels.get(x)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        attributes = {"auto_pad": auto, "kernel_shape": kernel}
        attributes |= {key: list(a[key]) for key in ("strides", "dilations") if a.get(key)}
        x = _step(state, node, "SamePad", [x], attributes)
    elif auto == "NOTSET" and pads[:2] == pads[2:] and min(pads) >= 0:
        inside = pads[:2]
    elif auto == "NOTSET":
        x = _step(state, node, "Pad", [x], {"pads": [0, 0, *pads[:2], 0, 0, *pads[2:]]})
    if grid is not None:
        state.levels.setdefault(x, grid)
    spec = LayerSpec(
        kind="conv",
        shape=list(weight.tensor.shape),
        bias=bias is not None,
        stride=list(a.get("strides") or [1, 1]),
        padding=inside,
        dilation=list(a.get("dilations") or [1, 1]),
        groups=int(a.get("group", 1)),
    )
    _layer(state, node, spec, x, weight, bias, transposed=False)


def _gemm(state: _State, node: Node) -> None:
    weight, bias, a = state.constants.get(node.input(1)), state.constants.get(node.input(2)), node.attributes
    plain = float(a.get("alpha", 1.0)) == 1 and float(a.get("beta", 1.0)) == 1 and not a.get("transA")
    fits = weight is not None and weight.tensor.ndim == 2 and (bias is not None or not node.input(2)) and plain
    if not fits or node.input(0) in state.constants or node.input(0) in state.codes:
        _generic(state, node)
        return
    assert weight is not None
    transposed = not a.get("transB")
    outputs, inputs = weight.tensor.shape[::-1] if transposed else weight.tensor.shape
    if bias is not None and bias.tensor.numel() != outputs:
        _generic(state, node)
        return
    spec = LayerSpec(kind="linear", shape=[outputs, inputs], bias=bias is not None)
    _layer(state, node, spec, state.values[node.input(0)], weight, bias, transposed=transposed)


def _matmul(state: _State, node: Node) -> None:
    weight = state.constants.get(node.input(1))
    if weight is None or weight.tensor.ndim != 2 or node.input(0) in (*state.constants, *state.codes):
        _generic(state, node)
        return
    spec = LayerSpec(kind="linear", shape=list(weight.tensor.shape[::-1]), bias=False)
    _layer(state, node, spec, state.values[node.input(0)], weight, None, transposed=True)


def _layer(
    state: _State, node: Node, spec: LayerSpec, x: str, weight: Constant, bias: Constant | None, *, transposed: bool
) -> None:
    """A convolution or linear layer with known weights: a module of its own."""
    name = _ident(node.name, state.layers)
    state.layers[name] = spec
    tensor = weight.tensor.float()
    state.tensors[f"layers.{name}.weight"] = (tensor.T if transposed else tensor).contiguous()
    if bias is not None:
        state.tensors[f"layers.{name}.bias"] = bias.tensor.float().reshape(-1).contiguous()
    codes = weight.codes
    if codes is not None and transposed:
        codes = Codes(codes.codes.T, codes.scale, codes.zero_point, 1 - codes.axis, codes.bits)
    if codes is not None and max(codes.scale.numel(), codes.zero_point.numel()) > 1 and codes.axis != 0:
        codes = None  # scales along the inputs: no single scale per output
    state.quantized[name] = QuantizedLayer(codes, state.levels.get(x))
    state.values[node.outputs[0]] = _step(state, node, LAYER, [x], {"layer": name})


def _ident(name: str, taken: Mapping[str, object]) -> str:
    base = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:120] or "layer"
    base = base if base[0].isalpha() else f"n_{base}"
    found, number = base, 1
    while found in taken:
        number += 1
        found = f"{base}_{number}"
    return found


def _reshape(state: _State, node: Node) -> None:
    """A target that repeats a fixed batch size takes what comes, where batches are free."""
    target = state.constants.get(node.input(1))
    if state.free_batch and target is not None and not node.attributes.get("allowzero"):
        shape = working(target).reshape(-1).tolist()
        if shape and shape[0] == state.file.batch and node.input(0) not in state.constants:
            state.constants[f"{node.input(1)}#{node.name}"] = Constant(
                torch.tensor([0, *shape[1:]], dtype=torch.int64), onnx.TensorProto.INT64
            )
            node = Node(node.op, node.name, (node.input(0), f"{node.input(1)}#{node.name}"), node.outputs, {})
    _generic(state, node)


def _matmul_bits(state: _State, node: Node) -> None:
    """Weights of 4 (or 2, 8) bits in blocks along the inputs, as ONNX Runtime's weight-only quantizer packs them."""
    a = node.attributes
    inputs, outputs, bits, block = (int(a[key]) for key in ("K", "N", "bits", "block_size"))
    packed, scale = _constant(state, node.input(1)), _constant(state, node.input(2))
    if bits not in (2, 4, 8) or node.input(4) or packed.ndim != 3:
        raise _Unsupported(f"with {bits} bits")
    blocks = -(-inputs // block)
    codes = _unpack(packed.reshape(outputs, blocks, -1), bits)[..., :block].reshape(outputs, -1)
    zero_point = torch.full((outputs, blocks), float(1 << (bits - 1)))
    if node.input(3):
        zero_point = _unpack(_constant(state, node.input(3)).reshape(outputs, -1), bits)[:, :blocks].float()
    scale = scale.reshape(outputs, blocks)
    wide = [t.repeat_interleave(block, dim=1) for t in (zero_point, scale)]
    weight = ((codes.float() - wide[0]) * wide[1])[:, :inputs]
    bias = state.constants.get(node.input(5)) if node.input(5) else None
    spec = LayerSpec(kind="linear", shape=[outputs, inputs], bias=bias is not None)
    x = _value(state, node.input(0))
    _layer(state, node, spec, x, Constant(weight, onnx.TensorProto.FLOAT), bias, transposed=False)


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """Codes, the lowest bits of a byte first."""
    shifts = torch.arange(0, 8, bits)
    return ((packed.long().unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)


_SPECIAL = {
    "Constant": _constant_node,
    "Identity": _identity,
    "Dropout": _identity,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Conv": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "MatMulNBits": _matmul_bits,
}


def _finish(state: _State, output: str, probabilities: bool) -> Translation:
    """Only what the output needs."""
    needed, steps = {output}, []
    for step in reversed(state.steps):
        if needed.intersection(filter(None, step.outputs)):
            steps.append(step)
            needed.update(filter(None, step.inputs))
    layers = {str(step.attributes["layer"]) for step in steps if step.op == LAYER}
    constants = {
        name.removeprefix("constants."): tensor
        for name, tensor in state.tensors.items()
        if name.startswith("constants.") and name.removeprefix("constants.") in needed
    }
    spec = GraphSpec(
        input="images",
        output=output,
        steps=steps[::-1],
        layers={name: layer for name, layer in state.layers.items() if name in layers},
        constants={name: (str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in constants.items()},
    )
    tensors = {f"constants.{name}": tensor for name, tensor in constants.items()}
    tensors |= {
        name: tensor
        for name, tensor in state.tensors.items()
        if name.startswith("layers.") and name.split(".")[1] in layers
    }
    quantized = {name: layer for name, layer in state.quantized.items() if name in layers}
    return Translation(spec, tensors, quantized, probabilities)
