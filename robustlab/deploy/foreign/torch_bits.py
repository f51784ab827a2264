"""Bits and bytes of networks that torch's own tools quantized: programs of PT2E, and tensors of torchao."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

FLOAT_BITS = 32


def packed_type(tensor: object) -> bool:
    """Whether a tensor is of a type that holds quantized ones."""
    own = isinstance(tensor, Tensor) and type(tensor) not in (Tensor, nn.Parameter, nn.Buffer)
    return own and hasattr(tensor, "__tensor_flatten__")


def tensor_bits(weight: Tensor) -> tuple[int, int]:
    """Bits of a weight, and of the activations that its type quantizes; 32 for what stays float."""
    if not packed_type(weight):
        return FLOAT_BITS, FLOAT_BITS
    fields = vars(weight)
    held = fields.get("target_dtype") or getattr(fields.get("qdata"), "dtype", None)
    activation = fields.get("act_quant_kwargs") or fields.get("activation_quantization")
    return _digits(held), _digits(activation if isinstance(activation, str) else type(activation).__name__)


def _digits(text: object) -> int:
    """8 of ``int8``, ``torch.float8_e4m3fn`` or ``QuantizeTensorToInt8Kwargs``; 32 without a number."""
    found = re.search(r"(?:int|float)(\d+)", str(text).lower())
    return int(found[1]) if found else FLOAT_BITS


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor, of all that it holds where it holds others."""
    if not packed_type(tensor):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    return sum(tensor_bytes(getattr(tensor, name)) for name in names)


def module_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, of a program those that it reads."""
    if isinstance(module, GraphModule):
        paths = {str(node.target) for node in module.graph.nodes if node.op == "get_attr" and node.users}
        return sum(tensor_bytes(_attribute(module, path)) for path in paths)
    return sum(tensor_bytes(tensor) for tensor in (*module.parameters(), *module.buffers()))


def module_scheme(module: nn.Module) -> str:
    """The bits most weights have, such as ``w8a8``; ``float32`` where no quantized one is found."""
    counts: Counter[tuple[int, int]] = Counter()
    for part in module.modules():
        if isinstance(part, GraphModule):
            activations = Counter(bits for _, bits in _quantizers(part, weights=False)).most_common(1)
            activation = activations[0][0] if activations else FLOAT_BITS
            for size, bits in _quantizers(part, weights=True):
                counts[bits, activation] += size
        elif isinstance(part, (nn.Conv2d, nn.Linear)):
            counts[tensor_bits(part.weight)] += part.weight.numel()
    if not counts:
        return "float32"
    weight, activation = counts.most_common(1)[0][0]
    return "float32" if weight == activation == FLOAT_BITS else f"w{weight}a{activation}"


def _quantizers(program: GraphModule, *, weights: bool) -> Iterator[tuple[int, int]]:
    """(numbers, bits) of the quantized tensors of a program: of those it holds, or of those it makes."""
    for node in program.graph.nodes:
        name = str(node.target).partition(".")[2].partition(".")[0]
        wanted = "dequantize_per_" if weights else "quantize_per_"
        if node.op != "call_function" or not name.startswith(wanted):
            continue
        bits = _bits(node.args[4:6] if "channel" in name else node.args[3:5])
        source: Any = node.args[0]
        if not weights:
            yield 1, bits
        elif source.op == "get_attr":
            yield _attribute(program, source.target).numel(), bits


class ProgramLayers(Interpreter):
    """Runs a program and lists its convolutions and linear layers.

    Attributes:
        rows: (name, multiply-accumulates for one image, numbers of the weight, bits of the weight, of the input).
    """

    def __init__(self, program: GraphModule) -> None:
        super().__init__(program)
        self.rows: list[tuple[str, int, int, int, int]] = []

    def run_node(self, n: Node) -> Any:
        """See `Interpreter.run_node`."""
        result = super().run_node(n)
        name = str(n.target).partition(".")[2].partition(".")[0]
        if n.op == "call_function" and name in ("conv2d", "linear", "convolution"):
            x, weight = n.args[0], n.args[1]
            assert isinstance(weight, Node)
            shape = self.env[weight].shape
            outputs = result.numel() // max(1, len(result))
            self.rows.append((n.name, outputs * shape[1:].numel(), shape.numel(), _bits_of(weight), _bits_of(x)))
        return result


def _bits_of(value: object) -> int:
    """Of what a node gives, if it is dequantized."""
    if not isinstance(value, Node) or not str(value.target).partition(".")[2].startswith("dequantize_per_"):
        return FLOAT_BITS
    return _bits(value.args[4:6] if "channel" in str(value.target) else value.args[3:5])


def _bits(limits: tuple[Any, ...]) -> int:
    """Of the lowest and the highest code."""
    if len(limits) != 2 or not all(isinstance(v, int) for v in limits):
        return 8
    return max(1, int(limits[1] - limits[0]).bit_length())


def _attribute(program: GraphModule, path: str) -> Tensor:
    value: Any = program
    for name in path.split("."):
        value = getattr(value, name)
    assert isinstance(value, Tensor)
    return value
