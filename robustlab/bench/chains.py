"""Layers inside a network: programs that run a layer once, and several times in a row, on packed values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustlab.bench.layers import SAME, QuantizedLayer
from robustlab.bench.shapes import ConvCase, Operands
from robustlab.bench.tasks import Sample, wall
from robustlab.kernels import ConvGeometry, PackedWeight, pack_weight
from robustlab.kernels.program import ProgramBuilder, Scale, Store, StoreBelow, StoreCodes

BITS_LENGTH, CODES_LENGTH = 6, 2
"""How many layers more the longer program has: short enough that other programs leave some runs alone."""


@dataclass(frozen=True)
class Chain:
    """`many` runs `length` layers more than `once`, whose output is `output` and should be `expected`."""

    once: Sample
    many: Sample
    length: int
    output: Tensor
    expected: Tensor


Repeat = Callable[[ProgramBuilder, int, int], int]
"""Adds a number of layers behind an input and returns the last value."""


def _chain(case: ConvCase, x: Tensor, expected: Tensor, layers: Repeat, more: int) -> Chain:
    def program(length: int) -> Callable[[], Tensor]:
        builder = ProgramBuilder()
        start = builder.input(case.channels, case.size, case.size)
        (end,) = builder.map(layers(builder, start, length), [Store()])
        builder.output(end)
        built = builder.build()
        return lambda: built.run([x])[0]

    once, many = program(1), program(1 + more)
    return Chain(wall(once), wall(many), more, once(), expected)


def bits_chain(case: ConvCase, values: Operands, weight: PackedWeight) -> Chain:
    """Signs in, signs out: the accumulator against a threshold."""
    threshold = torch.arange(case.channels, dtype=torch.int32) % 9 - 4
    store = StoreBelow(threshold, torch.zeros(case.channels, dtype=torch.bool))

    def layers(builder: ProgramBuilder, start: int, length: int) -> int:
        value = builder.pack(start)
        for _ in range(length):
            (value,) = builder.conv(value, weight, SAME, [store])
        return value

    expected = torch.where(values.exact < threshold[:, None, None], -1.0, 1.0).float()
    return _chain(case, values.x, expected, layers, BITS_LENGTH)


def codes_chain(case: ConvCase, layer: QuantizedLayer) -> Chain:
    """Codes in, codes out. The scale is a power of two, so the expected codes are exact."""
    top = layer.spec.largest
    scale = 2.0 ** -torch.ceil(torch.log2(layer.values.exact.abs().max() / top)).item()
    steps = [Scale(torch.full((case.channels,), scale)), StoreCodes(layer.spec)]

    def layers(builder: ProgramBuilder, start: int, length: int) -> int:
        value = builder.quantize(start, layer.spec)
        for _ in range(length):
            (value,) = builder.conv(value, layer.weight, SAME, steps)
        return value

    expected = torch.round(layer.values.exact * scale).clamp(0, top).float()
    return _chain(case, layer.values.x, expected, layers, CODES_LENGTH)


def packing_chain(case: ConvCase, values: Operands) -> Chain:
    """Float images to sign bits, again and again from the same image; something small reads each of them."""
    weight = pack_weight(torch.ones((1, case.channels, 1, 1), dtype=torch.int8), 1)
    one_pixel = ConvGeometry(stride=(case.size, case.size))
    store = StoreBelow(torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.bool))

    def layers(builder: ProgramBuilder, start: int, length: int) -> int:
        return builder.concat([builder.conv(builder.pack(start), weight, one_pixel, [store])[0] for _ in range(length)])

    corner = values.x[:, :, :1, :1].sum(1, keepdim=True)
    return _chain(case, values.x, torch.where(corner < 0, -1.0, 1.0), layers, BITS_LENGTH)
