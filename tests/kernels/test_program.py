"""Programs: what the builder refuses, and that the reference interpreter means what torch means."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.core.errors import ArgumentError
from robustlab.kernels import (
    ActivationSpec,
    ConvGeometry,
    binary_conv2d_acc,
    pack_weight,
    use_backend,
)
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
from robustlab.kernels.reference import quantize


def codes(*shape: int) -> Tensor:
    """Weights in {-1, +1}."""
    return (torch.randint(0, 2, shape) * 2 - 1).to(torch.int8)


def special(*shape: int) -> Tensor:
    x = torch.randn(shape)
    values = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf])
    return torch.where(torch.rand(shape) < 0.1, values[torch.randint(0, 5, shape)], x)


def equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def run_map(steps: list[Step], x: Tensor) -> tuple[Tensor, ...]:
    builder = ProgramBuilder()
    for value in builder.map(builder.input(*x.shape[1:]), steps):
        builder.output(value)
    with use_backend("reference"):
        return builder.build().run([x])


def test_float_steps_are_those_of_torch() -> None:
    a, b = torch.randn(5), torch.rand(5) + 0.1
    table = torch.randn(4, 3)
    x = special(2, 5, 4, 3)
    per = a.view(5, 1, 1)
    cases: list[tuple[Step, Callable[[Tensor], Tensor]]] = [
        (Mul(a), lambda v: v * per),
        (Add(a), lambda v: v + per),
        (Sub(a), lambda v: v - per),
        (Div(b), lambda v: v / b.view(5, 1, 1)),
        (MulAll(0.1), lambda v: v * 0.1),
        (AddAll(0.1), lambda v: v + 0.1),
        (DivAll(49), lambda v: v / torch.full_like(v, 49)),
        (MulPixel(table), lambda v: v * table),
        (Prelu(a), lambda v: F.prelu(v, a)),
        (Relu(), F.relu),
        (Clamp(-0.5, 1.5), lambda v: F.hardtanh(v, -0.5, 1.5)),
    ]
    for step, expected in cases:
        assert equal(run_map([step, Store()], x)[0], expected(x)), step


def test_stores_leave_the_value_as_it_is() -> None:
    x = special(2, 3, 4, 4)
    spec = ActivationSpec(0.5, 1, 2)
    builder = ProgramBuilder()
    first, signs, stored = builder.map(builder.input(3, 4, 4), [Store(), StoreSigns(), AddAll(1), StoreCodes(spec)])
    (as_float,) = builder.map(signs, [Store()])
    (added,) = builder.map(stored, [AddValue(signs), Store()])
    for value in (first, as_float, added):
        builder.output(value)
    with use_backend("reference"):
        a, b, c = builder.build().run([x])
    level = torch.where(x.isnan(), 0.0, torch.round((x + 1) / 0.5)).clamp(-1, 2)
    sign = torch.where(x < 0, -1.0, 1.0)
    assert equal(a, x)
    assert equal(b, sign)
    assert equal(c, level + sign)


def test_a_convolution_starts_from_its_accumulator() -> None:
    x, weight, geometry = special(2, 7, 6, 5), pack_weight(codes(4, 7, 3, 3), 1), ConvGeometry(padding=(1, 1))
    scale, limit = torch.rand(4), torch.randint(-9, 9, (4,), dtype=torch.int32)
    flip = torch.tensor([False, True, False, True])
    builder = ProgramBuilder()
    packed = builder.pack(builder.input(7, 6, 5))
    acc, below, y = builder.conv(packed, weight, geometry, [StoreInt(), StoreBelow(limit, flip), Scale(scale), Store()])
    (shown,) = builder.map(below, [Store()])
    for value in (acc, shown, y):
        builder.output(value)
    with use_backend("reference"):
        results = builder.build().run([x])
        expected = binary_conv2d_acc(x, weight, geometry)
    assert equal(results[0], expected)
    bit = (expected < limit.view(4, 1, 1)) ^ flip.view(4, 1, 1)
    assert equal(results[1], 1 - 2 * bit.float())
    assert equal(results[2], expected.float() * scale.view(4, 1, 1))


@pytest.mark.parametrize("zero_point", [0, 1.5, 3])
def test_codes_are_convolved_less_their_zero_point(zero_point: float) -> None:
    x, spec = special(2, 6, 5, 5), ActivationSpec(0.3, zero_point, 2)
    integers = torch.randint(-7, 8, (6, 3, 2, 2)).to(torch.int8)
    weight = pack_weight(integers, 4, 2, activation_bits=2)
    geometry = ConvGeometry(groups=2, stride=(2, 1))
    sub, div = torch.randn(6), torch.rand(6) + 0.5
    builder = ProgramBuilder()
    quantized = builder.quantize(builder.input(6, 5, 5), spec, sub, div)
    builder.output(builder.conv(quantized, weight, geometry, [StoreInt()])[0])
    with use_backend("reference"):
        (acc,) = builder.build().run([x])
    level = quantize((x - sub.view(6, 1, 1)) / div.view(6, 1, 1), spec).double() * spec.unit
    assert equal(acc, F.conv2d(level, integers.double(), stride=(2, 1), groups=2).int())


def test_thresholds_of_packing_and_factors_of_images() -> None:
    x, limits, factors = special(3, 4, 2, 2), torch.randn(4), torch.randn(3)
    builder = ProgramBuilder()
    signs = builder.pack(builder.input(4, 2, 2), limits)
    builder.output(builder.map(signs, [MulImage(builder.scalar_input()), Store()])[0])
    with use_backend("reference"):
        (y,) = builder.build().run([x], [factors])
    assert equal(y, torch.where(x < limits.view(4, 1, 1), -1.0, 1.0) * factors.view(3, 1, 1, 1))


def test_pools_are_those_of_torch() -> None:
    x = special(2, 3, 9, 8)
    builder = ProgramBuilder()
    value = builder.input(3, 9, 8)
    builder.output(builder.pool(value, "max", 3, 2, 1, [Store()])[0])
    builder.output(builder.pool(value, "sum", (3, 2), (2, 1), 0, [DivAll(6), Store()])[0])
    builder.output(builder.pool(value, "sum", (9, 8), 1, 0, [DivAll(72), Store()])[0])
    with use_backend("reference"):
        largest, average, overall = builder.build().run([x])
    assert equal(largest, F.max_pool2d(x, 3, 2, 1))
    assert equal(average, F.avg_pool2d(x, (3, 2), (2, 1)))
    assert equal(overall, F.avg_pool2d(x, (9, 8)))


def test_concat_and_subsample() -> None:
    x, other = special(2, 3, 5, 4), special(2, 2, 5, 4)
    builder = ProgramBuilder()
    value, second = builder.input(3, 5, 4), builder.input(2, 5, 4)
    builder.output(builder.concat([value, second, value]))
    builder.output(builder.subsample(value, 2, 1, 2))
    with use_backend("reference"):
        joined, taken = builder.build().run([x, other])
    assert equal(joined, torch.cat([x, other, x], 1))
    assert equal(taken, F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)))


def test_vectors_are_copied() -> None:
    a = torch.ones(2)
    step = Add(a)
    a.zero_()
    assert step.a.tolist() == [1, 1]


BINARY = pack_weight(codes(4, 3, 3, 3), 1)
QUANT = pack_weight(codes(4, 3, 3, 3), 2, activation_bits=4)
THREE_BITS = pack_weight(codes(4, 3, 1, 1), 2, activation_bits=3)
SPEC = ActivationSpec(1.0, 0, 4)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [Scale(torch.ones(4))],
        [Store()],
        [Relu(), Store()],
        [Scale(torch.ones(3)), Store()],
        [Scale(torch.ones(4)), Scale(torch.ones(4)), Store()],
        [Scale(torch.ones(4)), StoreInt()],
        [StoreBelow(torch.zeros(3, dtype=torch.int32), torch.zeros(3, dtype=torch.bool))],
        [Scale(torch.ones(4)), Add(torch.ones(3)), Store()],
        [Scale(torch.ones(4)), MulPixel(torch.ones(5)), Store()],
        [Scale(torch.ones(4)), MulImage(0), Store()],
        [Scale(torch.ones(4)), AddValue(0), Store()],
        [Scale(torch.ones(4)), AddValue(7), Store()],
        [Scale(torch.ones(4)), Store(), Relu()],
        ["store"],
    ],
)
def test_steps_that_do_not_fit_are_refused(steps: list[Step]) -> None:
    builder = ProgramBuilder()
    signs = builder.pack(builder.input(3, 6, 6))
    with pytest.raises(ArgumentError):
        builder.conv(signs, BINARY, ConvGeometry(), steps)


@pytest.mark.parametrize(
    "make",
    [
        lambda b, x, s, q: b.value(9),
        lambda b, x, s, q: b.value(-1),
        lambda b, x, s, q: b.input(0, 1, 1),
        lambda b, x, s, q: b.input(2**20, 2**10, 2**10),
        lambda b, x, s, q: b.output(s),
        lambda b, x, s, q: b.output(x),
        lambda b, x, s, q: b.pack(s),
        lambda b, x, s, q: b.pack(x, torch.zeros(4)),
        lambda b, x, s, q: b.quantize(s, SPEC),
        lambda b, x, s, q: b.quantize(x, SPEC, torch.zeros(2)),
        lambda b, x, s, q: b.conv(x, BINARY, ConvGeometry(), [StoreInt()]),
        lambda b, x, s, q: b.conv(s, BINARY, ConvGeometry(groups=2), [StoreInt()]),
        lambda b, x, s, q: b.conv(s, pack_weight(codes(4, 2, 1, 1), 1), ConvGeometry(), [StoreInt()]),
        lambda b, x, s, q: b.conv(s, QUANT, ConvGeometry(), [StoreInt()]),
        lambda b, x, s, q: b.conv(
            q, pack_weight(codes(4, 3, 1, 1), 2, activation_bits=3), ConvGeometry(), [StoreInt()]
        ),
        lambda b, x, s, q: b.conv(q, BINARY, ConvGeometry(), [StoreInt()]),
        lambda b, x, s, q: b.conv(s, BINARY, ConvGeometry(dilation=(1, 2)), [StoreInt()]),
        lambda b, x, s, q: b.conv(s, pack_weight(codes(4, 3, 7, 7), 1), ConvGeometry(), [StoreInt()]),
        lambda b, x, s, q: b.conv(q, QUANT, ConvGeometry(padding_value="one"), [StoreInt()]),
        lambda b, x, s, q: b.map(s, [StoreInt()]),
        lambda b, x, s, q: b.map(s, [Scale(torch.ones(3)), Store()]),
        lambda b, x, s, q: b.map(b.conv(s, BINARY, ConvGeometry(), [StoreInt()])[0], [Store()]),
        lambda b, x, s, q: b.pool(x, "mean", 2, 2, 0, [Store()]),
        lambda b, x, s, q: b.pool(x, "max", 2, 2, 2, [Store()]),
        lambda b, x, s, q: b.pool(x, "sum", 3, 2, 1, [Store()]),
        lambda b, x, s, q: b.pool(x, "max", 7, 1, 0, [Store()]),
        lambda b, x, s, q: b.pool(x, "max", 0, 1, 0, [Store()]),
        lambda b, x, s, q: b.concat([]),
        lambda b, x, s, q: b.concat([s, q]),
        lambda b, x, s, q: b.concat([x, b.input(3, 6, 5)]),
        lambda b, x, s, q: b.concat([q, b.quantize(x, ActivationSpec(1.0, 1, 4))]),
        lambda b, x, s, q: b.subsample(s, 2, 0, 0),
        lambda b, x, s, q: b.subsample(x, 0, 0, 0),
        lambda b, x, s, q: b.subsample(x, 2, -1, 0),
    ],
)
def test_operands_that_do_not_fit_are_refused(make: Callable[[ProgramBuilder, int, int, int], object]) -> None:
    builder = ProgramBuilder()
    x = builder.input(3, 6, 6)
    signs, quantized = builder.pack(x), builder.quantize(x, SPEC)
    with pytest.raises(ArgumentError):
        make(builder, x, signs, quantized)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mul(torch.ones(2, 2)),
        lambda: Mul(torch.ones(2, dtype=torch.float64)),
        lambda: Mul(torch.ones(0)),
        lambda: MulAll(math.nan),
        lambda: MulAll("1"),  # type: ignore[arg-type]
        lambda: Clamp(1, 0),
        lambda: MulImage(-1),
        lambda: StoreCodes(3),  # type: ignore[arg-type]
        lambda: StoreBelow(torch.zeros(2), torch.zeros(2, dtype=torch.bool)),
        lambda: StoreBelow(torch.zeros(2, dtype=torch.int32), torch.zeros(3, dtype=torch.bool)),
    ],
)
def test_bad_steps_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ArgumentError):
        make()


def test_a_program_needs_inputs_and_outputs_and_checks_what_it_is_given() -> None:
    builder = ProgramBuilder()
    x = builder.input(3, 4, 4)
    with pytest.raises(ArgumentError):
        builder.build()
    builder.output(builder.map(x, [MulImage(builder.scalar_input()), Store()])[0])
    program = builder.build()
    image, factor = torch.randn(2, 3, 4, 4), torch.ones(2)
    assert program.run([image], [factor])[0].shape == image.shape
    for inputs, scalars in (
        ([], [factor]),
        ([image], []),
        ([image[0]], [factor]),
        ([image[:, :2]], [factor]),
        ([image.double()], [factor]),
        ([image], [factor[:1]]),
        ([image], [factor.double()]),
        ([None], [factor]),
    ):
        with pytest.raises(ArgumentError):
            program.run(inputs, scalars)  # type: ignore[arg-type]
