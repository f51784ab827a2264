"""The kernels of this package as tasks: every kind of layer, checked before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from robustlab.bench.shapes import Case, ConvCase, LinearCase, Operands, operands
from robustlab.bench.tasks import Failure, Sample, Task, wall
from robustlab.kernels import (
    ActivationSpec,
    ConvGeometry,
    PackedWeight,
    available,
    backend,
    binary_conv2d,
    binary_linear,
    pack_weight,
    quant_conv2d,
    use_backend,
)
from robustlab.kernels.program import AddAll, Program, ProgramBuilder, Store, StoreBelow

SAME = ConvGeometry(padding=(1, 1))
SCHEMES = ((1, 2), (2, 2), (1, 8), (4, 8), (8, 8))
CHAIN = 8
Found = Task | Failure


def _bits_peak() -> str:
    return f"{backend()}_bits"


def _codes_peak() -> str:
    return f"{backend()}_codes"


def _forced(run: Callable[[], object], name: str) -> Sample:
    """Samples on one backend, whose choice is not part of the time."""
    timed = wall(run)

    def sample() -> float:
        with use_backend(name):
            return timed()

    return sample


def _checked(task: Task, right: bool) -> Found:
    return task if right else Failure(task.group, task.case, task.name, "the output is wrong")


def _signs(case: Case) -> tuple[Operands, PackedWeight]:
    values = operands(case, (-1, 0), (-1, 0), odd=True)
    codes = values.weight.to(torch.int8)
    return values, pack_weight(codes if codes.ndim == 4 else codes[..., None, None], 1)


def binary(case: Case) -> Iterator[Found]:
    """A binary layer, float to float: packing, product, scale, bias."""
    values, weight = _signs(case)
    width = values.weight.shape[0]
    # powers of two and small integers: exact, so that the output can be compared with ==
    scale, bias = torch.full((width,), 0.5), torch.arange(width).float()
    affine = bias[:, None, None] if isinstance(case, ConvCase) else bias
    expected = values.exact.float() * 0.5 + affine

    def run() -> Tensor:
        if isinstance(case, ConvCase):
            return binary_conv2d(values.x, weight, scale, bias, SAME)
        return binary_linear(values.x, weight, scale, bias)

    name = "robustlab binary, float to float"
    yield _checked(
        Task("binary", case.label, name, wall(run), case.operations, _bits_peak()), torch.equal(run(), expected)
    )
    if "avx2" in available() and backend() != "avx2" and isinstance(case, ConvCase):
        sample = _forced(run, "avx2")
        with use_backend("avx2"):
            right = torch.equal(run(), expected)
        yield _checked(Task("binary", case.label, f"{name}, AVX2", sample, case.operations, "avx2_bits"), right)


def _chain(case: ConvCase, weight: PackedWeight, threshold: Tensor, layers: int) -> Program:
    builder = ProgramBuilder()
    value = builder.pack(builder.input(case.channels, case.size, case.size))
    flips = torch.zeros(case.channels, dtype=torch.bool)
    for _ in range(layers):
        (value,) = builder.conv(value, weight, SAME, [StoreBelow(threshold, flips)])
    (value,) = builder.map(value, [AddAll(0.0), Store()])
    builder.output(value)
    return builder.build()


def bits_to_bits(case: ConvCase) -> Iterator[Found]:
    """A binary layer inside a network: packed signs in, packed signs of a threshold out."""
    values, weight = _signs(case)
    threshold = torch.arange(case.channels, dtype=torch.int32) % 9 - 4
    once, chain = (_chain(case, weight, threshold, layers) for layers in (1, 1 + CHAIN))
    expected = torch.where(values.exact < threshold[:, None, None], -1.0, 1.0).float()
    task = Task(
        "binary",
        case.label,
        "robustlab binary, bits to bits",
        wall(lambda: chain.run([values.x])),
        case.operations,
        _bits_peak(),
        wall(lambda: once.run([values.x])),
        CHAIN,
    )
    yield _checked(task, torch.equal(once.run([values.x])[0], expected))


def quantized(case: ConvCase, weight_bits: int, activation_bits: int) -> Iterator[Found]:
    """A layer of w-bit weights and a-bit activations, float to float."""
    half = 1 << (weight_bits - 1)
    top = 2**activation_bits - 1
    if weight_bits == 1:
        values = operands(case, (0, top), (0, 1))
        signs = 2 * values.weight - 1
        values = Operands(values.x, signs, torch.nn.functional.conv2d(values.x.double(), signs.double(), padding=1))
    else:
        values = operands(case, (0, top), (1 - half, half - 1))
    weight = pack_weight(values.weight.to(torch.int8), weight_bits, activation_bits=activation_bits)
    spec = ActivationSpec(1.0, 0, activation_bits)
    scale, bias = torch.full((case.channels,), 0.5), torch.zeros(case.channels)

    def run() -> Tensor:
        return quant_conv2d(values.x, weight, spec, scale, bias, SAME)

    serial = weight.form.kind == "planes"
    products = weight_bits * activation_bits if serial else 1
    task = Task(
        f"w{weight_bits}a{activation_bits}",
        case.label,
        f"robustlab w{weight_bits}a{activation_bits}" + (", bit-serial" if serial else ""),
        wall(run),
        case.operations * products,
        _bits_peak() if serial else _codes_peak(),
    )
    yield _checked(task, torch.equal(run(), values.exact.float() * 0.5))


def packing(case: ConvCase) -> Iterator[Found]:
    """Float images to sign bits, by a program that packs twice as much as another."""
    values, _ = _signs(case)

    def program(times: int) -> Program:
        builder = ProgramBuilder()
        x = builder.input(case.channels, case.size, case.size)
        for _ in range(times):
            packed = builder.pack(x)
        (value,) = builder.map(packed, [AddAll(0.0), Store()])
        builder.output(value)
        return builder.build()

    once, more = program(1), program(1 + CHAIN)
    task = Task(
        "packing",
        case.label,
        "robustlab packing, float to bits (bytes)",
        wall(lambda: more.run([values.x])),
        4.0 * values.x.numel(),
        "load",
        wall(lambda: once.run([values.x])),
        CHAIN,
    )
    yield _checked(task, torch.equal(once.run([values.x])[0], values.x))


def tasks(case: Case) -> Iterator[Found]:
    """All of a case."""
    yield from binary(case)
    if isinstance(case, LinearCase):
        return
    yield from bits_to_bits(case)
    for weight_bits, activation_bits in SCHEMES:
        yield from quantized(case, weight_bits, activation_bits)
    yield from packing(case)
