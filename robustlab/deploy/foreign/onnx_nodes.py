"""Nodes of an ONNX graph as plain values, quantized operators spelled out as de-quantize, compute, quantize."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import onnx

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Node:
    """One operator. Inputs and outputs are names of values, "" where left out."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def input(self, index: int) -> str:
        """The name of an input, "" where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""


def read_nodes(graph: Any) -> list[Node]:
    """All nodes in order; what is quantized inside is spelled out."""
    nodes: list[Node] = []
    numbers = count()
    for index, proto in enumerate(graph.node):
        attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in proto.attribute}
        name = proto.name or f"{proto.op_type}_{index}"
        op = proto.op_type
        if proto.domain not in ("", "ai.onnx", MICROSOFT):
            op = f"{proto.domain}.{op}"
        node = Node(op, name, tuple(proto.input), tuple(proto.output), attributes)
        spell = _SPELLED.get(op)
        nodes.extend([node] if spell is None else spell(node, _Fresh(f"{name}#{next(numbers)}")))
    return nodes


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return list(value) if isinstance(value, (list, tuple)) else value


class _Fresh:
    """Writes the nodes that one operator becomes, with names of their own for what lies between them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = count()
        self.nodes: list[Node] = []

    def add(self, op: str, inputs: tuple[str, ...], output: str = "", **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        name = output or f"{self._prefix}:{next(self._numbers)}"
        self.nodes.append(Node(op, self._prefix.rpartition("#")[0], inputs, (name,), attributes))
        return name

    def real(self, node: Node, index: int, axis: int = 1) -> str:
        """De-quantize the input `index`, which its scale and zero point follow."""
        x, scale, zero_point = (node.input(index + i) for i in range(3))
        return self.add("DequantizeLinear", (x, scale, zero_point), axis=axis)

    def quantized(self, node: Node, value: str, index: int) -> list[Node]:
        """Quantize `value` by the scale and zero point at input `index`, as the node's output."""
        self.add("QuantizeLinear", (value, node.input(index), node.input(index + 1)), node.outputs[0])
        return self.nodes

    def bias(self, node: Node, bias: int, scales: tuple[int, int]) -> tuple[str, ...]:
        """The de-quantized bias of a node: its scale is the product of two others. Nothing where it has none."""
        if not node.input(bias):
            return ()
        scale = self.add("Mul", (node.input(scales[0]), node.input(scales[1])))
        return (self.add("DequantizeLinear", (node.input(bias), scale, ""), axis=0),)


def _conv(node: Node, fresh: _Fresh) -> list[Node]:
    inputs = (fresh.real(node, 0), fresh.real(node, 3, axis=0), *fresh.bias(node, 8, (1, 4)))
    return fresh.quantized(node, fresh.add("Conv", inputs, **node.attributes), 6)


def _matmul(node: Node, fresh: _Fresh) -> list[Node]:
    return fresh.quantized(node, fresh.add("MatMul", (fresh.real(node, 0, axis=-2), fresh.real(node, 3, axis=-1))), 6)


def _gemm(node: Node, fresh: _Fresh) -> list[Node]:
    right = fresh.real(node, 3, axis=0 if node.attributes.get("transB") else 1)
    inputs = (fresh.real(node, 0), right, *fresh.bias(node, 6, (1, 4)))
    if node.input(7):
        return fresh.quantized(node, fresh.add("Gemm", inputs, **node.attributes), 7)
    fresh.add("Gemm", inputs, node.outputs[0], **node.attributes)
    return fresh.nodes


def _pair(op: str) -> Callable[[Node, _Fresh], list[Node]]:
    return lambda node, fresh: fresh.quantized(node, fresh.add(op, (fresh.real(node, 0), fresh.real(node, 3))), 6)


def _single(op: str) -> Callable[[Node, _Fresh], list[Node]]:
    def spell(node: Node, fresh: _Fresh) -> list[Node]:
        kept = {k: v for k, v in node.attributes.items() if k not in ("channels_last", "opset")}
        x = fresh.real(node, 0)
        if node.attributes.get("channels_last"):
            x = fresh.add("Transpose", (x,), perm=[0, 3, 1, 2])
        y = fresh.add(op, (x,), **kept)
        if node.attributes.get("channels_last"):
            y = fresh.add("Transpose", (y,), perm=[0, 2, 3, 1])
        return fresh.quantized(node, y, 3)

    return spell


def _concat(node: Node, fresh: _Fresh) -> list[Node]:
    parts = tuple(fresh.real(node, index) for index in range(2, len(node.inputs), 3))
    return fresh.quantized(node, fresh.add("Concat", parts, **node.attributes), 0)


_SPELLED: dict[str, Callable[[Node, _Fresh], list[Node]]] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _pair("Add"),
    "QLinearMul": _pair("Mul"),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _single("GlobalAveragePool"),
    "QLinearAveragePool": _single("AveragePool"),
    "QLinearReduceMean": _single("ReduceMean"),
    "QLinearSigmoid": _single("Sigmoid"),
    "QLinearLeakyRelu": _single("LeakyRelu"),
    "QLinearSoftmax": _single("Softmax"),
}
