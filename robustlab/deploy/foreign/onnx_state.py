"""What is known of an ONNX graph while it is translated, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from robustlab.core.errors import ModelFileError
from robustlab.deploy.foreign.onnx_constants import Codes, Constant, constant_of, working
from robustlab.deploy.foreign.onnx_file import OnnxFile
from robustlab.deploy.foreign.onnx_nodes import Node
from robustlab.models.graph import GraphSpec, LayerSpec, Step


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
    """What is quantized of a layer.

    weight: codes with one scale, or one for each output, None where there is no such; activation: the grid of its
    input (None: float); weight_bits: of a stored weight, however it is scaled.
    """

    weight: Codes | None
    activation: Grid | None
    weight_bits: int = 32


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


class Unsupported(Exception):
    """An operator, or a way to use it, that has no translation; `why` follows its name."""

    def __init__(self, why: str = "") -> None:
        super().__init__(why)
        self.why = f": {why}" if why else ""


@dataclass
class State:
    """What is known so far, by the names of the file: constants, our name of a value, and grids of codes."""

    file: OnnxFile
    constants: dict[str, Constant] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    codes: dict[str, Grid | tuple[Tensor, Tensor, int, int, int]] = field(default_factory=dict)
    levels: dict[str, Grid] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    layers: dict[str, LayerSpec] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    stored: dict[int, tuple[str, Constant]] = field(default_factory=dict)
    quantized: dict[str, QuantizedLayer] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    free_batch: bool = False

    def new(self) -> str:
        """A name for a value."""
        return f"v{len(self.steps)}_{len(self.values)}"

    def constant(self, name: str) -> Tensor:
        """The tensor of an input that must be known beforehand."""
        if name not in self.constants:
            raise Unsupported("with a computed parameter")
        return working(self.constants[name])

    def value(self, name: str) -> str:
        """Our name of an input; a constant becomes a tensor of the graph."""
        if not name:
            return ""
        if name in self.constants:
            return self.keep(self.constants[name])
        return self.values[name]

    def keep(self, constant: Constant) -> str:
        """Make a constant a tensor of the graph, once, and return its name."""
        if id(constant) not in self.stored:
            name = f"c{len(self.stored)}"
            # The constant is held too: another one must not get its id.
            self.stored[id(constant)] = name, constant
            self.tensors[f"constants.{name}"] = working(constant).contiguous()
        return self.stored[id(constant)][0]

    def step(self, node: Node, op: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        """Append a step of one output and return its name."""
        output = self.new()
        self.steps.append(Step(op=op, name=node.name, inputs=inputs, outputs=[output], attributes=attributes))
        self.values[f"{node.name}>{output}"] = output
        return output


def stored_constant(proto: Any, file: OnnxFile) -> Constant:
    """A tensor of the file. Raises `ModelFileError`."""
    try:
        return constant_of(proto)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"model file {file.path}: tensor {proto.name}: {error}") from None
