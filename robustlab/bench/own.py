"""The kernels of this package as tasks: every kind of layer, checked before it is timed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustlab.bench.chains import bits_chain, codes_chain, packing_chain
from robustlab.bench.layers import SAME, binary_layer, quantized_layer
from robustlab.bench.shapes import Case, ConvCase, LinearCase
from robustlab.bench.tasks import Failure, Sample, Task, wall
from robustlab.kernels import ConvGeometry, available, backend, binary_conv2d, binary_linear, quant_conv2d, use_backend
from robustlab.kernels.program import Add, ProgramBuilder, Scale, Store

SCHEMES = ((1, 2), (2, 2), (1, 8), (4, 8), (8, 8))
Found = Task | Failure


def _bits_peak() -> str:
    return f"{backend()}_bits"


def _codes_peak() -> str:
    return f"{backend()}_codes"


def _forced(timed: Sample, name: str) -> Sample:
    """Samples on one backend, whose choice is not part of the time."""

    def sample() -> float:
        with use_backend(name):
            return timed()

    return sample


def _checked(task: Task, right: bool) -> Found:
    return task if right else Failure(task.group, task.case, task.name, "the output is wrong")


def binary(case: Case) -> Iterator[Found]:
    """A binary layer, float to float: packing, product, scale, bias; as a program of one layer, and as an operator."""
    values, weight = binary_layer(case)
    width = values.weight.shape[0]
    # powers of two and small integers: exact, so that the output can be compared with ==
    scale, bias = torch.full((width,), 0.5), torch.arange(width).float()
    affine = bias[:, None, None] if isinstance(case, ConvCase) else bias
    expected = values.exact.float() * 0.5 + affine

    def operator() -> Tensor:
        if isinstance(case, ConvCase):
            return binary_conv2d(values.x, weight, scale, bias, SAME)
        return binary_linear(values.x, weight, scale, bias)

    image = values.x if isinstance(case, ConvCase) else values.x[:, :, None, None]
    builder = ProgramBuilder()
    geometry = SAME if isinstance(case, ConvCase) else ConvGeometry()
    signs = builder.pack(builder.input(*image.shape[1:]))
    (end,) = builder.conv(signs, weight, geometry, [Scale(scale), Add(bias), Store()])
    builder.output(end)
    program = builder.build()

    def run() -> Tensor:
        return program.run([image])[0]

    name = "robustlab binary, float to float"
    for label, call in ((name, run), (f"{name}, torch operator", operator)):
        task = Task("binary", case.label, label, wall(call), case.operations, _bits_peak())
        yield _checked(task, torch.equal(call().view(expected.shape), expected))
    if "avx2" in available() and backend() != "avx2" and isinstance(case, ConvCase):
        sample = _forced(wall(run), "avx2")
        with use_backend("avx2"):
            right = torch.equal(run(), expected)
        yield _checked(Task("binary", case.label, f"{name}, AVX2", sample, case.operations, "avx2_bits"), right)


def quantized(case: ConvCase, weight_bits: int, activation_bits: int) -> Iterator[Found]:
    """A layer of w-bit weights and a-bit activations: float to float, then codes to codes."""
    layer = quantized_layer(case, weight_bits, activation_bits)
    scale, bias = torch.full((case.channels,), 0.5), torch.zeros(case.channels)

    def run() -> Tensor:
        return quant_conv2d(layer.values.x, layer.weight, layer.spec, scale, bias, SAME)

    serial = layer.weight.form.kind == "planes"
    operations = case.operations * (weight_bits * activation_bits if serial else 1)
    peak = _bits_peak() if serial else _codes_peak()
    group, name = f"w{weight_bits}a{activation_bits}", f"robustlab w{weight_bits}a{activation_bits}"
    task = Task(group, case.label, f"{name}, float to float", wall(run), operations, peak)
    yield _checked(task, torch.equal(run(), layer.values.exact.float() * 0.5))
    chain = codes_chain(case, layer)
    task = Task(group, case.label, f"{name}, codes to codes", chain.many, operations, peak, chain.once, chain.length)
    yield _checked(task, torch.equal(chain.output, chain.expected))


def bits_to_bits(case: ConvCase) -> Iterator[Found]:
    """A binary layer inside a network: packed signs in, packed signs of a threshold out."""
    values, weight = binary_layer(case)
    chain = bits_chain(case, values, weight)
    name = "robustlab binary, bits to bits"
    task = Task("binary", case.label, name, chain.many, case.operations, _bits_peak(), chain.once, chain.length)
    yield _checked(task, torch.equal(chain.output, chain.expected))
    if "avx2" in available() and backend() != "avx2":
        with use_backend("avx2"):
            chain = bits_chain(case, values, weight)
        many, once = (_forced(sample, "avx2") for sample in (chain.many, chain.once))
        task = Task("binary", case.label, f"{name}, AVX2", many, case.operations, "avx2_bits", once, chain.length)
        yield _checked(task, torch.equal(chain.output, chain.expected))


def packing(case: ConvCase) -> Iterator[Found]:
    """Float images to sign bits; the operations are the bytes that are read."""
    values, _ = binary_layer(case)
    chain = packing_chain(case, values)
    name = "robustlab packing, float to bits (bytes read)"
    read = 4.0 * values.x.numel()
    yield _checked(
        Task("packing", case.label, name, chain.many, read, "load", chain.once, chain.length),
        torch.equal(chain.output, chain.expected),
    )


def tasks(case: Case) -> Iterator[Found]:
    """All of a case."""
    yield from binary(case)
    if isinstance(case, LinearCase):
        return
    yield from bits_to_bits(case)
    for weight_bits, activation_bits in SCHEMES:
        yield from quantized(case, weight_bits, activation_bits)
    yield from packing(case)
