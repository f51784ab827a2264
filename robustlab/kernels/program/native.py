"""Programs handed to the extension: built once, with every operand checked there again."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor

from robustlab.kernels.ops import flat_form, flat_geometry
from robustlab.kernels.program.nodes import KINDS, Concat, Conv, Map, Node, Pack, Pool, Quantize, Value
from robustlab.kernels.program.steps import (
    STORES,
    Add,
    AddAll,
    AddValue,
    Clamp,
    Div,
    DivAll,
    Mul,
    MulAll,
    MulImage,
    MulPixel,
    OneNumber,
    PerChannel,
    Prelu,
    Relu,
    Scale,
    Step,
    Store,
    StoreBelow,
    StoreCodes,
    StoreInt,
    StoreSigns,
    Sub,
)

if TYPE_CHECKING:
    from robustlab.kernels import _native

Span = tuple[int, int]
StepTuple = tuple[str, Span, Span, float, float, int]

_NULL: Span = (0, 0)
_NAMES: dict[type[Step], str] = {
    Scale: "scale",
    Mul: "mul",
    Add: "add",
    Sub: "sub",
    Div: "div",
    Prelu: "prelu",
    MulAll: "mul_all",
    AddAll: "add_all",
    DivAll: "div_all",
    MulImage: "mul_image",
    MulPixel: "mul_pixel",
    AddValue: "add_value",
    Relu: "relu",
    Clamp: "clamp",
    StoreInt: "store_int",
    StoreBelow: "store_below",
    Store: "store",
    StoreSigns: "store_signs",
    StoreCodes: "store_codes",
}


def span(tensor: Tensor | None) -> Span:
    """Address and number of elements of a contiguous tensor."""
    return _NULL if tensor is None else (tensor.data_ptr(), tensor.numel())


def spans(tensors: Iterable[Tensor]) -> list[Span]:
    """`span` of every tensor."""
    return [(tensor.data_ptr(), tensor.numel()) for tensor in tensors]


def build(
    extension: ModuleType,
    values: tuple[Value, ...],
    nodes: tuple[Node, ...],
    inputs: tuple[int, ...],
    scalars: int,
    outputs: tuple[int, ...],
) -> _native.Program:
    """The native form of a program. It copies all vectors, but only points to the packed weights of convolutions."""
    program: _native.Program = extension.Program()
    for value in values:
        spec = value.spec
        codes = (1.0, 0, 8) if spec is None else (spec.scale, spec.doubled_zero, spec.bits)
        program.value(KINDS.index(value.kind), value.shape, *codes)
    for handle in inputs:
        program.input(handle)
    program.scalars(scalars)
    for node in nodes:
        _add(program, node)
    for handle in outputs:
        program.output(handle)
    program.finish()
    return program


def _add(program: _native.Program, node: Node) -> None:
    if isinstance(node, Pack):
        program.pack(node.value, span(node.thresholds), _NULL, _NULL, node.results[0])
    elif isinstance(node, Quantize):
        program.pack(node.value, _NULL, span(node.sub), span(node.div), node.results[0])
    elif isinstance(node, Conv):
        weight = node.weight
        form, place = flat_form(weight.form), flat_geometry(node.geometry)
        program.conv(node.value, form, place, span(weight.data), _steps(node.steps, node.results))
    elif isinstance(node, Map):
        program.map(node.value, _steps(node.steps, node.results))
    elif isinstance(node, Pool):
        windows = (*node.kernel, *node.stride, *node.padding)
        program.pool(node.value, node.kind == "sum", windows, _steps(node.steps, node.results))
    elif isinstance(node, Concat):
        program.concat(list(node.values), node.results[0])
    else:
        program.subsample(node.value, *node.stride, node.front, node.results[0])


def _steps(steps: tuple[Step, ...], results: tuple[int, ...]) -> list[StepTuple]:
    made = iter(results)
    return [_step(step, next(made) if isinstance(step, STORES) else -1) for step in steps]


def _step(step: Step, result: int) -> StepTuple:
    vector, flip, low, high, value = _NULL, _NULL, 0.0, 0.0, result
    if isinstance(step, PerChannel):
        vector = span(step.a)
    elif isinstance(step, OneNumber):
        low = step.number
    elif isinstance(step, MulPixel):
        vector = span(step.table)
    elif isinstance(step, MulImage):
        value = step.scalar
    elif isinstance(step, AddValue):
        value = step.value
    elif isinstance(step, Clamp):
        low, high = step.low, step.high
    elif isinstance(step, StoreBelow):
        vector, flip = span(step.threshold), span(step.flip)
    return _NAMES[type(step)], vector, flip, low, high, value
