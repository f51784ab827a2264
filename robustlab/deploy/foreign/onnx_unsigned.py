"""A graph of integer operators with uint8 in place of int8 activations: the same integers on much faster kernels.

x86 multiplies unsigned by signed bytes, so ONNX Runtime has fast kernels for uint8 activations and slow ones for int8.
128 more in every code and in its zero point changes no real value, and no rounding of the operators listed here. Where
others take a code it is made int8 again by a de-quantizer and a quantizer, which is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_SHIFT = 128

Pairs = tuple[tuple[int, int], ...]

# Activations by (input, input of its zero point), and the input with the zero point of the output.
_LAYERS: dict[str, tuple[Pairs, int]] = {
    "QLinearConv": (((0, 2),), 7),
    "QLinearMatMul": (((0, 2), (3, 5)), 7),
    "QGemm": (((0, 2), (3, 5)), 8),
}
_POOLS: dict[str, tuple[Pairs, int]] = {
    "QLinearGlobalAveragePool": (((0, 2),), 4),
    "QLinearAveragePool": (((0, 2),), 4),
}
# They take codes at input 0 and give the same codes.
_MOVES = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity"})


def with_unsigned_activations(model: Any) -> Any | None:
    """A copy of a ``ModelProto`` whose integer layers take uint8 where they took int8.

    None where no layer takes int8, where some quantizers give uint8 already, or where operators have graphs in them. It
    is to be run with ``session.disable_quant_qdq``: ONNX Runtime makes what computes in float between a de-quantizer
    and a quantizer integer if the codes are uint8, and leaves it alone, on x86, if they are int8.
    """
    graph = model.graph
    state = _State({tensor.name: tensor for tensor in graph.initializer})
    for node in graph.node:
        inside = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
        foreign = node.op_type == "QuantizeLinear" and node.input[0] not in state.stored and not state.int8(node, 2)
        if inside or foreign:
            return None
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        _take(state, copied)
        state.nodes.append(copied)
    if not state.changed:
        return None
    altered = onnx.ModelProto()
    altered.CopyFrom(model)
    del altered.graph.node[:], altered.graph.value_info[:]  # the latter repeat the types, of which some are others now
    altered.graph.node.extend(state.nodes)
    altered.graph.initializer.extend(state.added.values())
    return altered


@dataclass
class _State:
    """codes: scale and zero point of the int8 activations so far; signed, unsigned: those that exist as int8, uint8.

    changed: whether a layer takes uint8 that took int8.
    """

    stored: dict[str, Any]
    nodes: list[Any] = field(default_factory=list)
    codes: dict[str, tuple[str, str]] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)
    unsigned: set[str] = field(default_factory=set)
    added: dict[str, Any] = field(default_factory=dict)
    changed: bool = False

    def int8(self, node: Any, index: int) -> bool:
        """Whether an input is a stored int8 tensor, as a zero point is."""
        name = node.input[index] if index < len(node.input) else ""
        return name in self.stored and self.stored[name].data_type == onnx.TensorProto.INT8

    def takes(self, node: Any, index: int, zero_point: int) -> bool:
        """Whether an input is an int8 activation with a stored zero point."""
        return index < len(node.input) and node.input[index] in self.codes and self.int8(node, zero_point)

    def shifted(self, zero_point: str) -> str:
        """The name of a zero point that is larger by 128."""
        name = _unsigned(zero_point)
        if name not in self.added:
            values = numpy_helper.to_array(self.stored[zero_point]).astype(np.int16) + _SHIFT
            self.added[name] = numpy_helper.from_array(values.astype(np.uint8), name)
        return name

    def convert(self, source: str, target: str, from_zero: str, to_zero: str, scale: str) -> None:
        """Codes of one type as those of the other."""
        real = f"{target}#real"
        self.nodes.append(helper.make_node("DequantizeLinear", [source, scale, from_zero], [real], f"{target}#from"))
        self.nodes.append(helper.make_node("QuantizeLinear", [real, scale, to_zero], [target], f"{target}#to"))

    def as_unsigned(self, name: str) -> str:
        """The name of an activation as uint8."""
        if name not in self.unsigned:
            scale, zero_point = self.codes[name]
            self.convert(name, _unsigned(name), zero_point, self.shifted(zero_point), scale)
            self.unsigned.add(name)
        return _unsigned(name)

    def as_signed(self, name: str) -> str:
        """The name of an activation as int8, which is its own."""
        if name in self.codes and name not in self.signed:
            scale, zero_point = self.codes[name]
            self.convert(_unsigned(name), name, self.shifted(zero_point), zero_point, scale)
            self.signed.add(name)
        return name


def _unsigned(name: str) -> str:
    return f"{name}#unsigned"


def _take(state: _State, node: Any) -> None:
    """Alter one node, and note which codes it makes."""
    op, x = node.op_type, node.input[0] if node.input else ""
    if op == "QuantizeLinear" and x not in state.stored:
        _make(state, node, 2)
    elif op == "DequantizeLinear" and x in state.unsigned and state.int8(node, 2):
        _hand(state, node, ((0, 2),))
    elif op in _LAYERS or op in _POOLS:
        pairs, result = (_LAYERS if op in _LAYERS else _POOLS)[op]
        known = [pair for pair in pairs if state.takes(node, *pair)]
        gives = state.int8(node, result)
        if op in _POOLS and not (known and gives):  # input and output are of one type
            _leave(state, node)
            return
        for index, _ in pairs:
            if index < len(node.input) and index not in dict(known):
                state.as_signed(node.input[index])
        _hand(state, node, tuple(known))
        state.changed |= bool(known) and op in _LAYERS
        if gives:
            _make(state, node, result)
    elif op == "QLinearConcat":
        pairs = tuple((i, i + 2) for i in range(2, len(node.input), 3))
        if state.int8(node, 1) and all(state.takes(node, *pair) for pair in pairs):
            _hand(state, node, pairs)
            _make(state, node, 1)
        else:
            _leave(state, node)
    elif op in _MOVES and x in state.codes and len(node.output) == 1:
        moved, made = state.codes[x], node.output[0]
        if x in state.unsigned:
            node.input[0], node.output[0] = _unsigned(x), _unsigned(made)
            state.unsigned.add(made)
        else:
            state.signed.add(made)
        state.codes[made] = moved
    else:
        _leave(state, node)


def _hand(state: _State, node: Any, pairs: Pairs) -> None:
    """Give a node its activations as uint8."""
    for index, zero_point in pairs:
        node.input[index] = state.as_unsigned(node.input[index])
        node.input[zero_point] = state.shifted(node.input[zero_point])


def _make(state: _State, node: Any, zero_point: int) -> None:
    """Let a node give uint8. The scale of its output stands in front of the zero point."""
    name = node.output[0]
    state.codes[name] = (node.input[zero_point - 1], node.input[zero_point])
    state.unsigned.add(name)
    node.input[zero_point] = state.shifted(node.input[zero_point])
    node.output[0] = _unsigned(name)


_RESULTS = {"QLinearAdd": 7, "QLinearMul": 7, "QLinearSigmoid": 4, "QLinearLeakyRelu": 4, "QLinearSoftmax": 4}


def _leave(state: _State, node: Any) -> None:
    """Leave a node as it is, on int8."""
    for name in node.input:
        state.as_signed(name)
    result = _RESULTS.get(node.op_type)
    if result is not None and state.int8(node, result):
        state.codes[node.output[0]] = (node.input[result - 1], node.input[result])
        state.signed.add(node.output[0])
