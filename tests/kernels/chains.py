"""Programs for the exactness grid: the convolution of a case, random steps, and a layer on what they stored."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab import kernels
from robustlab.kernels import ActivationSpec, ConvGeometry, Program, ProgramBuilder
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

Made = tuple[Step, Callable[[Tensor], Tensor]]
_SPECS = (
    ActivationSpec(0.5, 0, 8),
    ActivationSpec(2.0, 3, 3),
    ActivationSpec(1.5, 1.5, 2),
    ActivationSpec(0.7, 127.5, 8),
    ActivationSpec(3.0, 0, 1),
    ActivationSpec(0.25, 7, 4),
)


@dataclass(frozen=True)
class Chain:
    """A program, what it is given, and what it must give."""

    program: Program
    inputs: tuple[Tensor, ...]
    scalars: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]

    def wrong(self) -> str | None:
        """Run the program on the kernels in use; the first output that differs, in words. NaN equals NaN."""
        outputs = self.program.run(self.inputs, self.scalars)
        for index, (got, right) in enumerate(zip(outputs, self.expected, strict=True)):
            same = (got == right) | (got.isnan() & right.isnan())
            if got.dtype != right.dtype or got.shape != right.shape or not bool(same.all()):
                places = (~same).nonzero()
                first = tuple(places[0].tolist()) if len(places) else ()
                shown = f"{got[first]}, not {right[first]}" if first else f"{got.dtype} {tuple(got.shape)}"
                return f"output {index} at {first} is {shown}; wrong at {len(places)} places"
        return None

    def __repr__(self) -> str:
        """The nodes and their steps by name."""
        return "; ".join(
            f"{type(node).__name__}({', '.join(type(step).__name__ for step in getattr(node, 'steps', ()))})"
            for node in self.program.nodes
        )


def levels(v: Tensor, spec: ActivationSpec | None) -> Tensor:
    """What stored signs or codes of v are worth."""
    if spec is None:
        return torch.where(v < 0, -1.0, 1.0)
    steps = torch.where(v.isnan(), 0.0, v / torch.full_like(v, spec.scale)).double()
    codes = steps.floor() + (spec.zero_point + 0.5) if spec.zero_point % 1 else steps.round() + spec.zero_point
    return (codes.clamp(0, 2**spec.bits - 1) - spec.zero_point).float()


class _Maker:
    """Draws steps together with the torch operation each one stands for."""

    def __init__(self, case: Any, shape: tuple[int, ...], builder: ProgramBuilder) -> None:
        self.draw, self.generator = random.Random(case.number), torch.Generator().manual_seed(case.number + 1)
        self.shape, self.builder = shape, builder
        self.inputs: list[Tensor] = []
        self.scalars: list[Tensor] = []

    def vector(self, low: float, high: float) -> Tensor:
        return torch.rand(self.shape[1], generator=self.generator) * (high - low) + low

    def residual(self) -> Made:
        value = torch.randn(self.shape, generator=self.generator) * 4
        if self.draw.random() < 0.3 and value.numel():
            value.view(-1)[:: self.draw.randint(2, 9)] = self.draw.choice([float("nan"), float("inf"), -0.0])
        self.inputs.append(value)
        return AddValue(self.builder.input(*self.shape[1:])), lambda v: v + value

    def image_factor(self) -> Made:
        factor = torch.rand(self.shape[0], generator=self.generator) + 0.2
        self.scalars.append(factor)
        return MulImage(self.builder.scalar_input()), lambda v: v * factor.reshape(-1, 1, 1, 1)

    def pixel_factor(self) -> Made:
        table = torch.rand(self.shape[2:], generator=self.generator) - 0.3
        return MulPixel(table), lambda v: v * table

    def channel(self) -> Made:
        a = self.vector(-1.5, 1.5)
        wide = a.reshape(1, -1, 1, 1)
        return self.draw.choice(
            [
                (Add(a), lambda v: v + wide),
                (Sub(a), lambda v: v - wide),
                (Mul(a), lambda v: v * wide),
                (Div(a.abs() + 0.1), lambda v: v / (a.abs() + 0.1).reshape(1, -1, 1, 1)),
                (Prelu(a), lambda v: torch.where(v > 0, v, wide * v)),
            ]
        )

    def number(self) -> Made:
        n = torch.tensor(self.draw.uniform(0.2, 3.0))
        value = float(n)
        return self.draw.choice(
            [
                (MulAll(value), lambda v: v * n),
                (AddAll(-value), lambda v: v - n),
                (DivAll(value), lambda v: v / n),
                (Relu(), torch.relu),
                (Clamp(-value, 2 * value), lambda v: v.clamp(-value, 2 * value)),
            ]
        )

    def step(self) -> Made:
        kinds = [self.channel, self.channel, self.number, self.residual, self.image_factor, self.pixel_factor]
        return self.draw.choice(kinds)()


def make_chain(case: Any) -> Chain:
    """The program of a case of the grid: chains of steps, stores between them, and a second convolution."""
    acc, _ = case.expected()
    builder = ProgramBuilder()
    image = builder.input(*case.x.shape[1:])
    packed = builder.pack(image) if case.spec is None else builder.quantize(image, case.spec)
    maker = _Maker(case, tuple(acc.shape), builder)
    draw = maker.draw
    steps: list[Step] = []
    stored: list[tuple[Tensor, ActivationSpec | str | None]] = []
    if draw.random() < 0.3:
        steps.append(StoreInt())
        stored.append((acc, "int"))
    if draw.random() < 0.4:
        threshold = torch.randint(-9, 10, acc.shape[1:2], generator=maker.generator).to(torch.int32)
        flip = torch.rand(acc.shape[1], generator=maker.generator) < 0.5
        steps.append(StoreBelow(threshold, flip))
        below = (acc < threshold.reshape(1, -1, 1, 1)) ^ flip.reshape(1, -1, 1, 1)
        stored.append((torch.where(below, -1.0, 1.0), None))
    if not stored or draw.random() < 0.8:
        scale = maker.vector(-0.5, 0.5)
        steps.append(Scale(scale))
        v = acc.float() * scale.reshape(1, -1, 1, 1)
        for _ in range(draw.randint(0, 5)):
            if draw.random() < 0.25:
                steps.append(Store())
                stored.append((v, "float"))
            step, operation = maker.step()
            steps.append(step)
            v = operation(v)
        form = draw.choice(["float", None, None, *_SPECS])
        steps.append(Store() if form == "float" else StoreSigns() if form is None else StoreCodes(form))
        stored.append((v if form == "float" else levels(v, form), form))
    results = builder.conv(packed, case.weight(), case.geometry, steps)
    expected: list[Tensor] = []
    for handle, (value, form) in zip(results, stored, strict=True):
        if isinstance(form, str):
            builder.output(handle)
            expected.append(value)
            continue
        builder.output(builder.map(handle, (Store(),))[0])
        expected.append(value)
        output, sums = _second_layer(builder, maker, handle, value, form)
        builder.output(output)
        expected.append(sums)
    inputs = (case.x, *maker.inputs)
    return Chain(builder.build(), inputs, tuple(maker.scalars), tuple(expected))


def _second_layer(
    builder: ProgramBuilder, maker: _Maker, handle: int, value: Tensor, form: ActivationSpec | None
) -> tuple[int, Tensor]:
    """A padded convolution of what was stored, as integers."""
    draw, generator = maker.draw, maker.generator
    bits = 1 if form is None else draw.choice([1, 2, 4, 8])
    side, outputs = draw.choice([1, 3]), draw.choice([3, 16, 18])
    top = max(1, 2 ** (bits - 1) - 1)
    shape = (outputs, value.shape[1], side, side)
    codes = torch.randint(-top, top + 1, shape, generator=generator)
    codes = torch.where(codes < 0, -1, 1) if bits == 1 else codes
    filling = draw.choice(["zero", "one", "neg_one"]) if form is None else "zero"
    geometry = ConvGeometry(padding=(side // 2, side // 2), padding_value=filling)
    weight = kernels.pack_weight(codes.to(torch.int8), bits, activation_bits=0 if form is None else form.bits)
    pad = side // 2
    padded = F.pad(value.double(), (pad, pad, pad, pad), value={"zero": 0.0, "one": 1.0, "neg_one": -1.0}[filling])
    sums = F.conv2d(padded, codes.double()) * (1 if form is None else form.unit)
    return builder.conv(handle, weight, geometry, (StoreInt(),))[0], sums.to(torch.int32)
