"""Cases for the exactness tests of the kernels: a convolution each, made from a number, with what it must give.

A case is the same whatever machine, backend or order it runs in, so a failure is repeated with its number alone.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab import kernels
from robustlab.kernels import ActivationSpec, ConvGeometry

CHANNELS = (1, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257)
OUTPUTS = (1, 5, 8, 16, 17, 31, 32, 33, 64)
TAPS = (1, 2, 3, 5, 7)
STRIDES = (1, 2, 3)
DILATIONS = (1, 2)
BATCHES = (0, 1, 2, 5)
_AXES = (CHANNELS, OUTPUTS, TAPS, STRIDES, DILATIONS, BATCHES)
GRID = math.prod(len(axis) for axis in _AXES)
_STRIDE_OF_GRID = 7919  # a prime that does not divide GRID: any stretch of the grid holds every value of every axis
_MACS = 4_000_000
_SPECIAL = (0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 3.4e38, -3.4e38)


@dataclass(frozen=True)
class Case:
    """A convolution and its operands. `spec` is None where activations are signs."""

    number: int
    x: Tensor
    codes: Tensor
    bits: int
    zero_point: float
    spec: ActivationSpec | None
    geometry: ConvGeometry
    scale: Tensor
    bias: Tensor | None

    def __repr__(self) -> str:
        """Everything but the values, which the number decides."""
        parts = f"x {tuple(self.x.shape)}, weights {tuple(self.codes.shape)} of {self.bits} bits less {self.zero_point}"
        return f"case {self.number}: {parts}, {self.spec}, {self.geometry}, bias {self.bias is not None}"

    def weight(self) -> kernels.PackedWeight:
        """The prepacked weights."""
        return kernels.pack_weight(
            self.codes,
            self.bits,
            self.geometry.groups,
            activation_bits=0 if self.spec is None else self.spec.bits,
            lines=self.geometry.dilation[1] == 1,
            zero_point=self.zero_point,
        )

    @property
    def unit(self) -> int:
        """What the accumulator counts in: halves for every half-integer zero point."""
        activation = 1 if self.spec is None or self.spec.zero_point % 1 == 0 else 2
        return activation * (1 if self.zero_point % 1 == 0 else 2)

    def levels(self) -> Tensor:
        """What the activations are worth, float64: signs, or code - zero point."""
        if self.spec is None:
            return torch.where(self.x < 0, -1.0, 1.0).double()
        steps = (self.x / torch.full_like(self.x, self.spec.scale)).double()
        steps = torch.where(self.x.isnan(), 0.0, steps)
        if self.spec.zero_point % 1:
            codes = steps.floor() + (self.spec.zero_point + 0.5)
        else:
            codes = steps.round() + self.spec.zero_point
        return codes.clamp(0, 2**self.spec.bits - 1) - self.spec.zero_point

    def expected(self) -> tuple[Tensor, Tensor]:
        """The accumulator in its units, int32, and y = fl(fl(acc * scale) + bias)."""
        (rows, columns), g = self.geometry.padding, self.geometry
        fill = {"zero": 0.0, "one": 1.0, "neg_one": -1.0}[g.padding_value]
        padded = F.pad(self.levels(), (columns, columns, rows, rows), value=fill)
        exact = F.conv2d(padded, self.codes.double() - self.zero_point, None, g.stride, 0, g.dilation, g.groups)
        y = exact.float() * self.scale[:, None, None]
        return (exact * self.unit).to(torch.int32), y if self.bias is None else y + self.bias[:, None, None]

    def run(self, weight: kernels.PackedWeight | None = None) -> tuple[Tensor, Tensor]:
        """The same from the kernels in use, with the case's own weights or others of their form."""
        weight = weight or self.weight()
        if self.spec is None:
            acc = kernels.binary_conv2d_acc(self.x, weight, self.geometry)
            return acc, kernels.binary_conv2d(self.x, weight, self.scale, self.bias, self.geometry)
        acc = kernels.quant_conv2d_acc(self.x, weight, self.spec, self.geometry)
        return acc, kernels.quant_conv2d(self.x, weight, self.spec, self.scale, self.bias, self.geometry)


def _zero_points(draw: random.Random, bits: int, weight_bits: int, groups: int) -> tuple[float, float]:
    """Of activations and weights, whole or half-integer."""
    top, half = 2**bits - 1, 2 ** (weight_bits - 1)
    activation = draw.choice([0, top, top // 2, top / 2, draw.randint(0, 2 * top) / 2])
    weight: float = 0
    if weight_bits > 1 and draw.random() < 0.4:
        weight = draw.choice([-0.5, -0.5, draw.randint(-2 * half, 2 * half - 2) / 2])
        unit = 2 if weight % 1 else 1
        if groups > 1 and (unit * (-half - weight) < -128 or unit * (half - 1 - weight) > 127):
            weight = 0  # weights that leave a byte are for one group only
    return activation, weight


def make_case(number: int) -> Case:
    """Case `number`: below GRID a point of the grid, its other properties random; from there on all is random."""
    draw = random.Random(number)
    if number < GRID:
        place, values = number * _STRIDE_OF_GRID % GRID, []
        for axis in _AXES:
            place, index = divmod(place, len(axis))
            values.append(axis[index])
        channels, outputs, taps, stride, dilation, batch = values
        kernel, strides, dilations = (taps, taps), (stride, stride), (dilation, dilation)
    else:
        channels, outputs, batch = draw.randint(1, 300), draw.randint(1, 70), draw.choice([1, 1, 2, 3])
        kernel = (draw.choice(TAPS), draw.choice(TAPS))
        strides = (draw.choice(STRIDES), draw.choice(STRIDES))
        dilations = (draw.choice(DILATIONS), draw.choice(DILATIONS))
    groups = draw.choice([1, 1, 1, 1, 2, 3, 0, 0])
    if groups == 0:  # depthwise, or two outputs of every channel
        groups, channels, outputs = channels, 1, draw.choice([1, 1, 2])
    padding = tuple(draw.choice([0, 1, (k - 1) * d // 2, k * d]) for k, d in zip(kernel, dilations, strict=True))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilations, padding, strict=True)]
    image = [size + draw.choice([0, 0, 1, 2, 5, 13]) for size in smallest]
    binary = draw.random() < 0.35
    padding_value = draw.choice(["zero", "zero", "one", "neg_one"]) if binary else "zero"
    geometry = ConvGeometry(strides, (padding[0], padding[1]), dilations, groups, padding_value)
    for reduced in ((batch, *image), (min(batch, 1), *image), (min(batch, 1), *smallest)):
        height, width = geometry.output_size((reduced[1], reduced[2]), kernel)
        if reduced[0] * height * width * outputs * groups * channels * math.prod(kernel) <= _MACS:
            break
    return _with_operands(number, draw, reduced, (channels, outputs), kernel, geometry, binary)


def _with_operands(
    number: int,
    draw: random.Random,
    images: tuple[int, ...],
    sizes: tuple[int, int],
    kernel: tuple[int, int],
    geometry: ConvGeometry,
    binary: bool,
) -> Case:
    generator = torch.Generator().manual_seed(number)
    (batch, height, width), (channels, outputs), groups = images, sizes, geometry.groups
    shape = (outputs * groups, channels, *kernel)
    spec, bits, zero_point = None, 1, 0.0
    if not binary:
        bits, activation_bits = draw.choice([(draw.randint(1, 8), draw.randint(1, 8)), (1, draw.randint(1, 4)), (2, 2)])
        activation_zero, zero_point = _zero_points(draw, activation_bits, bits, groups)
        spec = ActivationSpec(draw.choice([0.02, 0.1, 1.0, 3e-5, 7.5]), activation_zero, activation_bits)
    half = 2 ** (bits - 1)
    low, high = (-half, half - 1) if zero_point else (-max(1, half - 1), max(1, half - 1))
    codes = torch.randint(low, high + 1, shape, generator=generator)
    if bits == 1 or draw.random() < 0.25:  # the ends of the range only
        codes = torch.where(codes * 2 < low + high, low, high) if bits > 1 else torch.where(codes < 0, -1, 1)
    spread = 1.0 if spec is None else spec.scale * 2 ** (spec.bits - 1) * draw.choice([0.5, 1, 100])
    x = torch.randn(batch, channels * groups, height, width, generator=generator) * spread
    if draw.random() < 0.5:
        chosen = torch.tensor(_SPECIAL)[torch.randint(0, len(_SPECIAL), x.shape, generator=generator)]
        x = torch.where(torch.rand(x.shape, generator=generator) < 0.1, chosen, x)
    memory = draw.randrange(5)
    if memory == 0:  # channels last
        x = x.contiguous(memory_format=torch.channels_last)
    elif memory == 1:  # not aligned
        x = torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape)
    scale = torch.rand(shape[0], generator=generator) + 0.01
    bias = torch.randn(shape[0], generator=generator) if draw.random() < 0.7 else None
    return Case(number, x, codes.to(torch.int8), bits, zero_point, spec, geometry, scale, bias)
