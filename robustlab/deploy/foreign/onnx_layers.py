"""Convolutions and linear layers of an ONNX graph, whose weights are known, as layers of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx
import torch
from torch import Tensor

from robustlab.deploy.foreign.onnx_constants import Codes, Constant
from robustlab.deploy.foreign.onnx_generic import generic
from robustlab.deploy.foreign.onnx_nodes import Node
from robustlab.deploy.foreign.onnx_state import QuantizedLayer, State, Unsupported
from robustlab.models.graph import LayerSpec
from robustlab.models.graph.spec import LAYER


def convolution(state: State, node: Node) -> None:
    """A 2-d convolution of an activation by a constant; padding that differs at the two ends is a step of its own."""
    weight, bias = state.constants.get(node.input(1)), state.constants.get(node.input(2))
    fits = weight is not None and weight.tensor.ndim == 4 and (bias is not None or not node.input(2))
    if not fits or node.input(0) in state.constants or node.input(0) in state.codes:
        generic(state, node)
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
        x = state.step(node, "SamePad", [x], attributes)
    elif auto == "NOTSET" and pads[:2] == pads[2:] and min(pads) >= 0:
        inside = pads[:2]
    elif auto == "NOTSET":
        x = state.step(node, "Pad", [x], {"pads": [0, 0, *pads[:2], 0, 0, *pads[2:]]})
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


def gemm(state: State, node: Node) -> None:
    """A linear layer, where the factors are 1 and the weight is a constant."""
    weight, bias, a = state.constants.get(node.input(1)), state.constants.get(node.input(2)), node.attributes
    plain = float(a.get("alpha", 1.0)) == 1 and float(a.get("beta", 1.0)) == 1 and not a.get("transA")
    fits = weight is not None and weight.tensor.ndim == 2 and (bias is not None or not node.input(2)) and plain
    if not fits or node.input(0) in state.constants or node.input(0) in state.codes:
        generic(state, node)
        return
    assert weight is not None
    transposed = not a.get("transB")
    outputs, inputs = weight.tensor.shape[::-1] if transposed else weight.tensor.shape
    if bias is not None and bias.tensor.numel() != outputs:
        generic(state, node)
        return
    spec = LayerSpec(kind="linear", shape=[outputs, inputs], bias=bias is not None)
    _layer(state, node, spec, state.values[node.input(0)], weight, bias, transposed=transposed)


def matmul(state: State, node: Node) -> None:
    """A linear layer without a bias, where the second matrix is a constant."""
    weight = state.constants.get(node.input(1))
    if weight is None or weight.tensor.ndim != 2 or node.input(0) in (*state.constants, *state.codes):
        generic(state, node)
        return
    spec = LayerSpec(kind="linear", shape=list(weight.tensor.shape[::-1]), bias=False)
    _layer(state, node, spec, state.values[node.input(0)], weight, None, transposed=True)


def _layer(
    state: State, node: Node, spec: LayerSpec, x: str, weight: Constant, bias: Constant | None, *, transposed: bool
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
    state.quantized[name] = QuantizedLayer(codes, state.levels.get(x), weight.bits)
    state.values[node.outputs[0]] = state.step(node, LAYER, [x], {"layer": name})


def _ident(name: str, taken: Mapping[str, object]) -> str:
    base = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:120] or "layer"
    base = base if base[0].isalpha() else f"n_{base}"
    found, number = base, 1
    while found in taken:
        number += 1
        found = f"{base}_{number}"
    return found


def matmul_bits(state: State, node: Node) -> None:
    """Weights of 4 (or 2, 8) bits in blocks along the inputs, as ONNX Runtime's weight-only quantizer packs them."""
    a = node.attributes
    inputs, outputs, bits, block = (int(a[key]) for key in ("K", "N", "bits", "block_size"))
    packed, scale = state.constant(node.input(1)), state.constant(node.input(2))
    if bits not in (2, 4, 8) or node.input(4) or packed.ndim != 3:
        raise Unsupported(f"with {bits} bits")
    blocks = -(-inputs // block)
    codes = _unpack(packed.reshape(outputs, blocks, -1), bits)[..., :block].reshape(outputs, -1)
    zero_point = torch.full((outputs, blocks), float(1 << (bits - 1)))
    if node.input(3):
        zero_point = _unpack(state.constant(node.input(3)).reshape(outputs, -1), bits)[:, :blocks].float()
    scale = scale.reshape(outputs, blocks)
    wide = [t.repeat_interleave(block, dim=1) for t in (zero_point, scale)]
    weight = ((codes.float() - wide[0]) * wide[1])[:, :inputs]
    bias = state.constants.get(node.input(5)) if node.input(5) else None
    spec = LayerSpec(kind="linear", shape=[outputs, inputs], bias=bias is not None)
    x = state.value(node.input(0))
    _layer(state, node, spec, x, Constant(weight, onnx.TensorProto.FLOAT, bits=bits), bias, transposed=False)


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """Codes, the lowest bits of a byte first."""
    shifts = torch.arange(0, 8, bits)
    return ((packed.long().unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)
