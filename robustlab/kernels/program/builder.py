"""Builds programs: every argument is checked here, and again before native code runs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from robustlab.core.errors import check_choice, check_int, invalid
from robustlab.kernels.prepack import PackedWeight
from robustlab.kernels.program.nodes import (
    MOST_TAPS,
    POOLS,
    Concat,
    Conv,
    Map,
    Node,
    Pack,
    Pool,
    Quantize,
    Subsample,
    Value,
)
from robustlab.kernels.program.program import Program
from robustlab.kernels.program.steps import (
    INTEGER_STEPS,
    STORES,
    AddValue,
    MulImage,
    MulPixel,
    PerChannel,
    Scale,
    Step,
    StoreBelow,
    StoreCodes,
    StoreInt,
    StoreSigns,
    vector,
)
from robustlab.kernels.spec import ActivationSpec, ConvGeometry, check_accumulator, largest_weight, output_length, shown

_Pair = int | tuple[int, int]


class ProgramBuilder:
    """Adds nodes one after the other; every method returns the handles (ints) of the values it makes.

    All methods raise `ArgumentError` for operands that do not fit.
    """

    def __init__(self) -> None:
        self._values: list[Value] = []
        self._nodes: list[Node] = []
        self._inputs: list[int] = []
        self._outputs: list[int] = []
        self._scalars = 0

    def value(self, handle: int) -> Value:
        """The value of a handle."""
        check_int("value", handle, 0, len(self._values) - 1)
        return self._values[handle]

    def input(self, channels: int, height: int, width: int) -> int:
        """A float32 (N, channels, height, width) tensor that the caller gives."""
        handle = self._new(Value("float", channels, height, width))
        self._inputs.append(handle)
        return handle

    def scalar_input(self) -> int:
        """A float32 (N,) tensor that the caller gives, for `MulImage`. Scalars are counted apart from values."""
        self._scalars += 1
        return self._scalars - 1

    def output(self, value: int) -> None:
        """Give a float or int value back to the caller, as (N, C, H, W) of float32 or int32."""
        check_choice("kind of an output", self.value(value).kind, ("float", "int"))
        if value in self._outputs or value in self._inputs:
            raise invalid("value", value, "a value that is neither an input nor an output yet")
        self._outputs.append(value)

    def pack(self, value: int, thresholds: Tensor | None = None) -> int:
        """Signs of an input: -1 where x < thresholds[c], float32 (C,), or x < 0."""
        of = self._input(value)
        results = (self._new(Value("signs", *of.shape)),)
        self._nodes.append(Pack(value, _optional("thresholds", thresholds, of.channels), results))
        return results[0]

    def quantize(self, value: int, spec: ActivationSpec, sub: Tensor | None = None, div: Tensor | None = None) -> int:
        """Codes of an input, of (x - sub[c]) / div[c] where these float32 (C,) vectors are given."""
        of = self._input(value)
        first, second = _optional("sub", sub, of.channels), _optional("div", div, of.channels)
        results = (self._new(Value("codes", *of.shape, spec)),)
        self._nodes.append(Quantize(value, spec, first, second, results))
        return results[0]

    def conv(self, value: int, weight: PackedWeight, geometry: ConvGeometry, steps: Sequence[Step]) -> tuple[int, ...]:
        """Convolve signs (with one-bit weights) or codes. The steps start from the int32 accumulator."""
        of = self.value(value)
        _check_layer(of, weight, geometry)
        height, width = geometry.output_size((of.height, of.width), (weight.shape[2], weight.shape[3]))
        shape = (weight.shape[0], height, width)
        results = self._run(tuple(steps), shape, integer=True)
        self._nodes.append(Conv(value, weight, geometry, tuple(steps), results))
        return results

    def map(self, value: int, steps: Sequence[Step]) -> tuple[int, ...]:
        """Run steps on the float form of a value."""
        of = self._readable(value)
        results = self._run(tuple(steps), of.shape, integer=False)
        self._nodes.append(Map(value, tuple(steps), results))
        return results

    def pool(
        self, value: int, kind: str, kernel: _Pair, stride: _Pair, padding: _Pair, steps: Sequence[Step]
    ) -> tuple[int, ...]:
        """Run steps on the largest (``max``) or the summed (``sum``) float form of every window.

        Padding is at most half the kernel, and 0 for sums; output sizes are rounded down.
        """
        of = self._readable(value)
        check_choice("kind", kind, POOLS)
        window, step = _pair("kernel", kernel, 1), _pair("stride", stride, 1)
        margin = _pair("padding", padding, 0)
        if window[0] * window[1] > MOST_TAPS:
            raise invalid("kernel", window, f"at most {MOST_TAPS} pixels")
        for axis in range(2):
            if margin[axis] > (0 if kind == "sum" else window[axis] // 2):
                raise invalid("padding", margin, "0 for sums, at most half the kernel else")
        height, width = (
            output_length((of.height, of.width)[axis], window[axis], step[axis], margin[axis], 1) for axis in range(2)
        )
        results = self._run(tuple(steps), (of.channels, height, width), integer=False)
        self._nodes.append(Pool(value, kind, window, step, margin, tuple(steps), results))
        return results

    def concat(self, values: Sequence[int]) -> int:
        """Join values of one kind (codes: of equal bits and zero point) and image size along the channels."""
        parts = [self._readable(value) for value in values]
        if not parts:
            raise invalid("values", values, "at least one value")
        first = parts[0]
        for part in parts[1:]:
            if part.shape[1:] != first.shape[1:] or _form(part) != _form(first):
                raise invalid("values", part, f"values of the kind and image size of {first}")
        channels = sum(part.channels for part in parts)
        results = (self._new(Value(first.kind, channels, first.height, first.width, first.spec)),)
        self._nodes.append(Concat(tuple(values), results))
        return results[0]

    def subsample(self, value: int, stride: _Pair, front: int, back: int) -> int:
        """x[:, :, ::stride, ::stride] of a float value with `front` and `back` channels of zeros around it."""
        of = self.value(value)
        check_choice("kind", of.kind, ("float",))
        step = _pair("stride", stride, 1)
        check_int("front", front, 0)
        check_int("back", back, 0)
        height, width = -(-of.height // step[0]), -(-of.width // step[1])
        results = (self._new(Value("float", front + of.channels + back, height, width)),)
        self._nodes.append(Subsample(value, step, front, back, results))
        return results[0]

    def build(self) -> Program:
        """The program so far; at least one input and one output are needed."""
        if not self._inputs or not self._outputs:
            raise invalid("program", f"{len(self._inputs)} inputs and {len(self._outputs)} outputs", "1 or more each")
        return Program(
            tuple(self._values), tuple(self._nodes), tuple(self._inputs), self._scalars, tuple(self._outputs)
        )

    def _new(self, value: Value) -> int:
        self._values.append(value)
        return len(self._values) - 1

    def _input(self, handle: int) -> Value:
        value = self.value(handle)
        if handle not in self._inputs:
            raise invalid("value", handle, "an input")
        return value

    def _readable(self, handle: int) -> Value:
        value = self.value(handle)
        check_choice("kind", value.kind, ("float", "signs", "codes"))
        return value

    def _run(self, steps: tuple[Step, ...], shape: tuple[int, int, int], *, integer: bool) -> tuple[int, ...]:
        """Check the steps and make their values."""
        if not steps or not isinstance(steps[-1], STORES):
            raise invalid("steps", steps, "at least one, the last of them a store")
        made: list[Value] = []
        for step in steps:
            if not isinstance(step, Step):
                raise invalid("steps", step, "steps")
            if isinstance(step, (*INTEGER_STEPS, Scale)):
                if not integer:
                    raise invalid("steps", step, "integer steps only behind a convolution, before Scale")
                integer = not isinstance(step, Scale)
            elif integer:
                raise invalid("steps", step, "Scale before any other float step")
            self._check_step(step, shape)
            if isinstance(step, STORES):
                made.append(_stored(step, shape))
        return tuple(self._new(value) for value in made)

    def _check_step(self, step: Step, shape: tuple[int, int, int]) -> None:
        if isinstance(step, PerChannel):
            _check_length(type(step).__name__, len(step.a), shape[0])
        elif isinstance(step, StoreBelow):
            _check_length("StoreBelow", len(step.threshold), shape[0])
        elif isinstance(step, MulPixel):
            _check_length("MulPixel", len(step.table), shape[1] * shape[2])
        elif isinstance(step, MulImage):
            check_int("scalar", step.scalar, 0, self._scalars - 1)
        elif isinstance(step, AddValue) and self._readable(step.value).shape != shape:
            raise invalid("value", self.value(step.value), f"a value of shape {shape}")


def _stored(step: Step, shape: tuple[int, int, int]) -> Value:
    if isinstance(step, StoreCodes):
        return Value("codes", *shape, step.spec)
    if isinstance(step, StoreInt):
        return Value("int", *shape)
    return Value("signs" if isinstance(step, (StoreBelow, StoreSigns)) else "float", *shape)


def _form(value: Value) -> tuple[object, ...]:
    spec = value.spec
    return (value.kind,) if spec is None else (value.kind, spec.bits, spec.zero_point)


def _check_length(name: str, length: int, expected: int) -> None:
    if length != expected:
        raise invalid(name, f"{length} numbers", f"{expected} numbers")


def _optional(name: str, value: Tensor | None, channels: int) -> Tensor | None:
    if value is None:
        return None
    copied = vector(name, value)
    _check_length(name, len(copied), channels)
    return copied


def _pair(name: str, value: _Pair, low: int) -> tuple[int, int]:
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2:
        raise invalid(name, value, "a number or a pair")
    return check_int(name, pair[0], low, 2**31 - 1), check_int(name, pair[1], low, 2**31 - 1)


def _check_layer(of: Value, weight: PackedWeight, geometry: ConvGeometry) -> None:
    check_choice("kind", of.kind, ("signs", "codes"))
    form, data = weight.form, weight.data
    if not data.is_cpu or not data.is_contiguous():
        raise invalid("weight", shown(data), "contiguous weights on the cpu")
    if form.groups != geometry.groups:
        raise invalid("geometry", geometry, f"the {form.groups} groups the weights were packed for")
    if form.groups == 1 and form.shape[3] > 1 and form.lines != (geometry.dilation[1] == 1):
        packed = "1" if form.lines else "above 1"
        raise invalid("geometry", geometry, f"a horizontal dilation {packed}, for which the weights were packed")
    if of.channels != form.shape[1] * form.groups:
        raise invalid("value", of, f"{form.shape[1] * form.groups} channels")
    if form.activation_bits != (0 if of.spec is None else of.spec.bits):
        packed = f"codes of {form.activation_bits} bits" if form.activation_bits else "signs"
        raise invalid("value", of, f"{packed}, for which the weights were packed")
    if of.spec is None:
        return
    if geometry.padding_value != "zero":
        raise invalid("padding_value", geometry.padding_value, "zero for codes")
    check_accumulator(weight.taps, of.spec.largest, largest_weight(form.bits, form.zero_point))
