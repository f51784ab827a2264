"""The native executor equals the reference interpreter bit for bit, on random programs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab.kernels import ActivationSpec, ConvGeometry, available, pack_weight, use_backend
from robustlab.kernels.program import (
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
    Prelu,
    Program,
    ProgramBuilder,
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

STORES = (Store, StoreSigns, StoreCodes)
NATIVE = [name for name in available() if name != "reference"]
SPECIAL = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, 3e38])


needs_native = pytest.mark.skipif(not NATIVE, reason="no compiled kernels")


def equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


@dataclass
class Maker:
    """Draws a random program; numbers come from a seeded generator, the structure from hypothesis."""

    draw: st.DrawFn
    generator: torch.Generator
    builder: ProgramBuilder = field(default_factory=ProgramBuilder)
    handles: list[int] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    scalars: int = 0

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def pick(self, *kinds: str, shape: tuple[int, int, int] | None = None, image: tuple[int, int] | None = None) -> int:
        """A handle of one of the kinds, or -1."""
        fitting = [
            handle
            for handle in self.handles
            if (value := self.builder.value(handle)).kind in kinds
            and shape in (None, value.shape)
            and image in (None, value.shape[1:])
        ]
        if not fitting:
            return -1
        handle = fitting[-1] if self.number(0, 1) else self.draw(st.sampled_from(fitting))
        self.used.add(handle)
        return handle

    def spec(self) -> ActivationSpec:
        bits = self.number(1, 8)
        zero = self.number(0, 2 ** (bits + 1) - 2) / 2
        return ActivationSpec(self.draw(st.sampled_from([1.0, 0.37, 5.0])), zero, bits)

    def keep(self, *made: int) -> None:
        self.handles.extend(made)

    def steps(self, shape: tuple[int, int, int], *, integer: bool) -> list[Step]:
        channels = shape[0]
        steps: list[Step] = []
        if integer:
            if self.number(0, 3) == 0:
                steps.append(StoreInt())
            if self.number(0, 2) == 0:
                limits = torch.randint(-40, 40, (channels,), generator=self.generator, dtype=torch.int32)
                steps.append(StoreBelow(limits, self.randn(channels) < 0))
            if steps and self.number(0, 2) == 0:
                return steps
            steps.append(Scale(self.randn(channels) * 0.1))
        steps += [self.float_step(shape) for _ in range(self.number(0, 4))]
        last = self.number(0, 2)
        return [*steps, Store() if last == 0 else StoreSigns() if last == 1 else StoreCodes(self.spec())]

    def float_step(self, shape: tuple[int, int, int]) -> Step:
        channels, height, width = shape
        other = self.pick("float", "signs", "codes", shape=shape)
        if other >= 0 and self.number(0, 1):
            return AddValue(other)
        vectors = (Mul, Add, Sub, Prelu, Div)
        kind = self.draw(st.sampled_from([*vectors, MulAll, AddAll, DivAll, Relu, Clamp, MulPixel, MulImage, *STORES]))
        if kind in vectors:
            a = self.randn(channels)
            return kind(a.abs() + 0.1 if kind is Div else a)
        if kind is StoreCodes:
            return StoreCodes(self.spec())
        if kind is MulPixel:
            return MulPixel(self.randn(height, width))
        if kind in (MulAll, AddAll, DivAll):
            return kind(self.one_of(0.3, -3, 49))
        return Clamp(-1.5, 2.5) if kind is Clamp else MulImage(0) if kind is MulImage else kind()

    def conv(self) -> None:
        handle = self.pick("signs", "codes")
        if handle < 0:
            return
        value = self.builder.value(handle)
        channels, height, width = value.shape
        groups = self.draw(st.sampled_from([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
        outputs = groups * self.draw(st.sampled_from([1, 2, 5, 8, 16, 17, 33] if groups < 4 else [1, 2]))
        taps = self.one_of((1, 1), (3, 3), (2, 3), (5, 1))
        dilation = self.one_of((1, 1), (1, 1), (2, 1), (1, 2))
        padding = tuple(self.number(0, 2) for _ in range(2))
        stride = self.one_of((1, 1), (2, 2), (1, 3))
        for axis in range(2):
            if (height, width)[axis] + 2 * padding[axis] < dilation[axis] * (taps[axis] - 1) + 1:
                return
        if value.spec is None:
            bits, activation, zero = 1, 0, 0.0
        else:
            bits, activation = self.number(1, 8), value.spec.bits
            zero = 0.0
            if bits > 1 and self.number(0, 2) == 0:
                zero = self.number(-(2**bits), 2**bits - 2) / 2 if groups == 1 else -0.5 if bits < 7 else 0.0
        limit = max(1, 2 ** (bits - 1) - 1)
        codes = torch.randint(-limit, limit + 1, (outputs, channels // groups, *taps), generator=self.generator)
        codes = torch.where(codes == 0, 1, codes) if bits == 1 else codes
        lines = dilation[1] == 1
        weight = pack_weight(
            codes.to(torch.int8), bits, groups, activation_bits=activation, lines=lines, zero_point=zero
        )
        padding_value = self.one_of("zero", "one", "neg_one") if value.spec is None else "zero"
        geometry = ConvGeometry(stride, padding, dilation, groups, padding_value)
        out = geometry.output_size((height, width), taps)
        self.keep(*self.builder.conv(handle, weight, geometry, self.steps((outputs, *out), integer=True)))

    def pool(self) -> None:
        handle = self.pick("float", "signs", "codes")
        value = self.builder.value(handle)
        kind = self.one_of("max", "max", "sum")
        kernel, stride = self.one_of((2, 2), (3, 3), (3, 2), value.shape[1:]), self.one_of((1, 1), (2, 2), (2, 1))
        padding = (0, 0) if kind == "sum" else self.one_of((0, 0), (1, 1), (1, 0))
        size = []
        for axis in range(2):
            if padding[axis] > kernel[axis] // 2 or value.shape[1 + axis] + 2 * padding[axis] < kernel[axis]:
                return
            size.append((value.shape[1 + axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1)
        shape = (value.channels, size[0], size[1])
        steps = self.steps(shape, integer=False)
        if kind == "max" and value.kind == "signs" and self.number(0, 1):
            steps = [StoreSigns()]
        if kind == "max" and value.spec is not None and self.number(0, 1):
            steps = [StoreCodes(ActivationSpec(1.0, value.spec.zero_point, value.spec.bits))]
        self.keep(*self.builder.pool(handle, kind, kernel, stride, padding, steps))

    def node(self) -> None:
        kind = self.one_of("conv", "conv", "conv", "map", "pool", "concat", "subsample", "pack", "quantize")
        if kind in ("pack", "quantize"):
            handle = self.handles[0]
            channels = self.builder.value(handle).channels
            vectors = [self.randn(channels).abs() + 0.1 if self.number(0, 1) else None for _ in range(2)]
            if kind == "pack":
                self.keep(self.builder.pack(handle, vectors[0]))
            else:
                self.keep(self.builder.quantize(handle, self.spec(), *vectors))
        elif kind == "conv":
            self.conv()
        elif kind == "pool":
            self.pool()
        elif kind == "map":
            handle = self.pick("float", "signs", "codes")
            self.keep(*self.builder.map(handle, self.steps(self.builder.value(handle).shape, integer=False)))
        elif kind == "concat":
            first = self.builder.value(handle := self.pick("float", "signs", "codes"))
            parts = [handle]
            for _ in range(self.number(0, 2)):
                other = self.pick(first.kind, image=first.shape[1:])
                same = self.builder.value(other).spec, first.spec
                if same[0] is None or same[1] is None or same[0] == same[1]:
                    parts.insert(self.number(0, 1), other)
            self.keep(self.builder.concat(parts))
        else:
            handle = self.pick("float")
            stride = self.one_of((1, 1), (2, 2), (2, 3))
            self.keep(self.builder.subsample(handle, stride, self.number(0, 9), self.number(0, 9)))

    def program(self, nodes: int) -> Program:
        self.builder.scalar_input()
        shape = (
            self.draw(st.sampled_from([1, 3, 8, 12, 16, 17, 30, 33])),
            self.draw(st.sampled_from([1, 2, 5, 7, 12])),
            self.draw(st.sampled_from([1, 3, 4, 9, 17])),
        )
        for _ in range(self.number(1, 2)):
            self.handles.append(self.builder.input(*shape))
        inputs = set(self.handles)
        for _ in range(nodes):
            self.node()
        outputs = 0
        for handle in list(self.handles):
            kind = self.builder.value(handle).kind
            if handle in inputs or (handle in self.used and self.number(0, 2)):
                continue
            if kind in ("signs", "codes"):
                (handle,) = self.builder.map(handle, [Store()])
            self.builder.output(handle)
            outputs += 1
        if outputs == 0:
            self.builder.output(self.builder.map(self.handles[-1], [AddAll(1), Store()])[0])
        return self.builder.build()


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, list[Tensor], list[Tensor]]:
    """A program with inputs and scalars for it."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    program = Maker(draw, generator).program(draw(st.integers(1, 7)))
    batch = draw(st.sampled_from([0, 1, 1, 2, 5]))
    inputs = []
    for handle in program.inputs:
        x = torch.randn(batch, *program.values[handle].shape, generator=generator)
        if draw(st.booleans()):
            chosen = SPECIAL[torch.randint(0, len(SPECIAL), x.shape, generator=generator)]
            x = torch.where(torch.rand(x.shape, generator=generator) < 0.1, chosen, x)
        inputs.append(x)
    return program, inputs, [torch.randn(batch, generator=generator)]


def expected(program: Program, inputs: list[Tensor], scalars: list[Tensor]) -> tuple[Tensor, ...]:
    with use_backend("reference"):
        return program.run(inputs, scalars)


@needs_native
@given(case=programs(), threads=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_every_backend_equals_the_reference(case: tuple[Program, list[Tensor], list[Tensor]], threads: int) -> None:
    program, inputs, scalars = case
    wanted = expected(program, inputs, scalars)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for backend in NATIVE:
            with use_backend(backend):
                for a, b in zip(program.run(inputs, scalars), wanted, strict=True):
                    assert equal(a, b), backend
    finally:
        torch.set_num_threads(before)
