"""From an ONNX graph to one of ours: constants folded, weights de-quantized, quantizers as straight-through grids."""

from __future__ import annotations

import onnx
import torch

from robustlab.core.errors import ModelFileError
from robustlab.deploy.foreign.onnx_constants import Constant, working
from robustlab.deploy.foreign.onnx_file import OnnxFile
from robustlab.deploy.foreign.onnx_generic import generic
from robustlab.deploy.foreign.onnx_layers import convolution, gemm, matmul, matmul_bits
from robustlab.deploy.foreign.onnx_nodes import Node, read_nodes
from robustlab.deploy.foreign.onnx_quantizers import dequantize_linear, quantize_linear
from robustlab.deploy.foreign.onnx_state import State, Translation, Unsupported, UnsupportedOperators, stored_constant
from robustlab.models.graph import OPERATORS, GraphSpec
from robustlab.models.graph.spec import LAYER

_INNER = frozenset({"Grid", "Regrid", "SamePad"})  # operators of ours, which no file may name


def translate(file: OnnxFile, *, free_batch: bool = False) -> Translation:
    """The graph of `file`; with `free_batch`, shapes that repeat its fixed batch size take any batch.

    Raises `UnsupportedOperators`, and `ModelFileError` for a graph that contradicts itself.
    """
    state = State(file, free_batch=free_batch and file.batch is not None)
    state.values[file.input] = "images"
    for proto in file.model.graph.initializer:
        state.constants[proto.name] = stored_constant(proto, file)
    nodes = read_nodes(file.model.graph)
    probabilities = _ends_in_softmax(nodes, file)
    for node in nodes:
        last = probabilities and file.output in node.outputs
        try:
            _take(state, Node("LogSoftmax", node.name, node.inputs, node.outputs, node.attributes) if last else node)
        except Unsupported as error:
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


def _ends_in_softmax(nodes: list[Node], file: OnnxFile) -> bool:
    return any(node.op == "Softmax" and file.output in node.outputs for node in nodes)


def _take(state: State, node: Node) -> None:
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
        raise Unsupported
    generic(state, node)


def _constant_node(state: State, node: Node) -> None:
    (key, value), *rest = node.attributes.items()
    if rest or key not in ("value", "value_int", "value_ints", "value_float", "value_floats"):
        raise Unsupported(f"with {key}")
    if key == "value":
        state.constants[node.outputs[0]] = stored_constant(value, state.file)
        return
    kind = onnx.TensorProto.INT64 if "int" in key else onnx.TensorProto.FLOAT
    dtype = torch.int64 if "int" in key else torch.float32
    state.constants[node.outputs[0]] = Constant(torch.tensor(value, dtype=dtype), kind)


def _identity(state: State, node: Node) -> None:
    source, target = node.input(0), node.outputs[0]
    if len([name for name in node.outputs if name]) > 1:
        raise Unsupported("more than one output")
    if node.op == "Dropout" and node.input(2) and bool(state.constant(node.input(2)).any()):
        raise Unsupported("in training mode")
    if source in state.constants:
        state.constants[target] = state.constants[source]
        return
    state.values[target] = state.values[source]
    if source in state.codes:
        state.codes[target] = state.codes[source]


def _reshape(state: State, node: Node) -> None:
    """A target that repeats a fixed batch size takes what comes, where batches are free."""
    target = state.constants.get(node.input(1))
    if state.free_batch and target is not None and not node.attributes.get("allowzero"):
        shape = working(target).reshape(-1).tolist()
        if shape and shape[0] == state.file.batch and node.input(0) not in state.constants:
            state.constants[f"{node.input(1)}#{node.name}"] = Constant(
                torch.tensor([0, *shape[1:]], dtype=torch.int64), onnx.TensorProto.INT64
            )
            node = Node(node.op, node.name, (node.input(0), f"{node.input(1)}#{node.name}"), node.outputs, {})
    generic(state, node)


_SPECIAL = {
    "Constant": _constant_node,
    "Identity": _identity,
    "Dropout": _identity,
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "Conv": convolution,
    "Gemm": gemm,
    "MatMul": matmul,
    "Reshape": _reshape,
    "MatMulNBits": matmul_bits,
}


def _finish(state: State, output: str, probabilities: bool) -> Translation:
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
