"""Every backend equals an independent convolution of integers, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab import kernels
from robustlab.kernels import ActivationSpec, ConvGeometry

BACKENDS = kernels.available()
CHANNELS = [1, 3, 4, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 127, 128, 129]
OUTPUTS = [1, 5, 8, 15, 16, 17, 31, 32, 33, 48, 50]


@dataclass(frozen=True)
class Case:
    """A convolution with its operands; `integers` holds what its codes are worth, as float64."""

    geometry: ConvGeometry
    codes: Tensor
    bits: int
    x: Tensor
    scale: Tensor
    bias: Tensor | None

    def weight(self, activation_bits: int = 0) -> kernels.PackedWeight:
        g = self.geometry
        return kernels.pack_weight(
            self.codes, self.bits, g.groups, activation_bits=activation_bits, lines=g.dilation[1] == 1
        )

    def expected(self, integers: Tensor, fill: float = 0.0) -> tuple[Tensor, Tensor]:
        (rows, columns), g = self.geometry.padding, self.geometry
        padded = F.pad(integers, (columns, columns, rows, rows), value=fill)
        acc = F.conv2d(padded, self.codes.double(), None, g.stride, 0, g.dilation, g.groups).to(torch.int32)
        y = acc.float() * self.scale[:, None, None]
        return acc, y if self.bias is None else y + self.bias[:, None, None]


def signs(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0).double()


def steps(x: Tensor, spec: ActivationSpec) -> Tensor:
    """code - zero_point by the definition, one rounded float32 division."""
    v = torch.round(x / torch.full_like(x, spec.scale)).double()
    v = (v + spec.zero_point).clamp(0, 2**spec.bits - 1) - spec.zero_point
    return torch.where(torch.isnan(x), torch.zeros_like(v), v)


def plant(x: Tensor, values: list[float], generator: torch.Generator) -> Tensor:
    """Overwrite a tenth of x with special values."""
    chosen = torch.tensor(values)[torch.randint(0, len(values), x.shape, generator=generator)]
    return torch.where(torch.rand(x.shape, generator=generator) < 0.1, chosen, x)


SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 3.4e38, -3.4e38]


@st.composite
def cases(draw: st.DrawFn, *, bits: int | None = None) -> Case:
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    channels, outputs = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(OUTPUTS))
    if groups > 1:
        channels, outputs = min(channels, 40), draw(st.sampled_from([1, 2, 5, 16, 17]))
    taps = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation, padding, image = [], [], []
    for axis in range(2):
        dilation.append(draw(st.integers(1, 3)))
        padding.append(draw(st.integers(0, 3)))
        smallest = max(1, dilation[axis] * (taps[axis] - 1) + 1 - 2 * padding[axis])
        image.append(smallest + draw(st.sampled_from([0, 0, 1, 2, 5, 12])))
    return make_case(
        batch=draw(st.sampled_from([0, 1, 1, 2, 3, 5])),
        image=(image[0], image[1]),
        channels=channels,
        outputs=outputs,
        taps=taps,
        bits=bits or draw(st.integers(1, 8)),
        geometry=ConvGeometry(
            (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            (padding[0], padding[1]),
            (dilation[0], dilation[1]),
            groups,
        ),
        seed=draw(st.integers(0, 2**31)),
    )


def make_case(
    *,
    batch: int,
    image: tuple[int, int],
    channels: int,
    outputs: int,
    taps: tuple[int, int],
    bits: int,
    geometry: ConvGeometry,
    seed: int = 0,
) -> Case:
    """Channels and outputs are those of one group."""
    generator = torch.Generator().manual_seed(seed)
    shape = (outputs * geometry.groups, channels, *taps)
    limit = max(1, 2 ** (bits - 1) - 1)
    codes = torch.randint(-limit, limit + 1, shape, generator=generator)
    if seed % 3 == 0:  # extreme codes only
        codes = torch.where(codes < 0, -limit, limit)
    codes = torch.where(codes == 0, 1, codes) if bits == 1 else codes
    x = torch.randn(batch, channels * geometry.groups, *image, generator=generator)
    if seed % 2:
        x = plant(x, SPECIAL, generator)
    if seed % 5 == 1:  # not contiguous
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    if seed % 5 == 2:  # not aligned
        x = torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape)
    scale = torch.rand(shape[0], generator=generator) + 0.01
    bias = torch.randn(shape[0], generator=generator) if seed % 4 else None
    return Case(geometry, codes.to(torch.int8), bits, x, scale, bias)


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases(bits=1), padding_value=st.sampled_from(["zero", "zero", "one", "neg_one"]))
@settings(max_examples=80, deadline=None)
def test_binary_conv2d(backend: str, case: Case, padding_value: str) -> None:
    g = case.geometry
    geometry = ConvGeometry(g.stride, g.padding, g.dilation, g.groups, padding_value)
    fill = {"zero": 0.0, "one": 1.0, "neg_one": -1.0}[padding_value]
    acc, y = case.expected(signs(case.x), fill)
    with kernels.use_backend(backend):
        assert torch.equal(kernels.binary_conv2d_acc(case.x, case.weight(), geometry), acc)
        assert torch.equal(kernels.binary_conv2d(case.x, case.weight(), case.scale, case.bias, geometry), y)


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases(), bits=st.integers(1, 8), data=st.data())
@settings(max_examples=80, deadline=None)
def test_quant_conv2d(backend: str, case: Case, bits: int, data: st.DataObject) -> None:
    scale = data.draw(st.sampled_from([0.02, 0.1, 1.0, 3e-5, 7.5]))
    spec = ActivationSpec(scale, data.draw(st.sampled_from([0, 2**bits - 1, 2 ** (bits - 1)])), bits)
    acc, y = case.expected(steps(case.x, spec))
    with kernels.use_backend(backend):
        assert torch.equal(kernels.quant_conv2d_acc(case.x, case.weight(spec.bits), spec, case.geometry), acc)
        assert torch.equal(
            kernels.quant_conv2d(case.x, case.weight(spec.bits), spec, case.scale, case.bias, case.geometry), y
        )


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    shape=st.sampled_from([(5,), (0,), (1,), (17,), (2, 3), (1, 1, 4), ()]),
    channels=st.sampled_from([1, 7, 32, 33, 100, 256, 515]),
    outputs=st.sampled_from([1, 10, 16, 43, 100]),
    bits=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_linear(backend: str, shape: tuple[int, ...], channels: int, outputs: int, bits: int, seed: int) -> None:
    rows = math.prod(shape)
    case = make_case(
        batch=rows,
        image=(1, 1),
        channels=channels,
        outputs=outputs,
        taps=(1, 1),
        bits=bits,
        geometry=ConvGeometry(),
        seed=seed,
    )
    x, spec = case.x.reshape(*shape, channels), ActivationSpec(0.03, 77, 8)
    with kernels.use_backend(backend):
        _, y = case.expected(steps(case.x, spec))
        got = kernels.quant_linear(x, case.weight(spec.bits), spec, case.scale, case.bias)
        assert torch.equal(got, y.reshape(*shape, outputs))
        if bits == 1:
            _, y = case.expected(signs(case.x))
            got = kernels.binary_linear(x, case.weight(), case.scale, case.bias)
            assert torch.equal(got, y.reshape(*shape, outputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_codes_round_half_to_even_and_clamp(backend: str) -> None:
    values = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 126.5, 1e30, -1e30, math.nan, math.inf, -math.inf, -0.0])
    identity = kernels.pack_weight(torch.ones(1, 1, 1, 1, dtype=torch.int8), 2, activation_bits=8)
    with kernels.use_backend(backend):
        acc = kernels.quant_conv2d_acc(
            values.view(-1, 1, 1, 1), identity, ActivationSpec(1.0, 128, 8), ConvGeometry()
        ).flatten()
    assert acc.tolist() == [0, 2, 2, 0, -2, 127, 126, 127, -128, 0, 127, -128, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_division_is_a_division(backend: str) -> None:
    """x * (1 / s) rounds differently from x / s; ties of the quotient show it."""
    generator = torch.Generator().manual_seed(3)
    scale = float(torch.rand(1, generator=generator)) + 0.3
    spec = ActivationSpec(scale, 128, 8)
    x = (torch.arange(-127, 127) + 0.5) * torch.tensor(spec.scale)
    x = torch.cat([x, torch.nextafter(x, torch.tensor(math.inf)), torch.nextafter(x, torch.tensor(-math.inf))])
    identity = kernels.pack_weight(torch.ones(1, 1, 1, 1, dtype=torch.int8), 2, activation_bits=8)
    with kernels.use_backend(backend):
        acc = kernels.quant_conv2d_acc(x.view(-1, 1, 1, 1), identity, spec, ConvGeometry()).flatten()
    assert torch.equal(acc.double(), steps(x, spec))


@pytest.mark.parametrize("backend", BACKENDS)
def test_raw_sums_may_pass_the_accumulator_if_the_result_does_not(backend: str) -> None:
    """Unsigned codes times weights reach 2^31 here, the zero point takes half of it away again."""
    taps = 2**17 - 64
    codes = torch.full((17, taps, 1, 1), 127, dtype=torch.int8)
    spec = ActivationSpec(1.0, 128, 8)
    x = torch.full((2, taps, 1, 1), 1e9)
    x[1] = -1e9
    with kernels.use_backend(backend):
        weight = kernels.pack_weight(codes, 8, activation_bits=8)
        acc = kernels.quant_conv2d_acc(x, weight, spec, ConvGeometry())
    assert (acc[0] == 127 * 127 * taps).all()
    assert (acc[1] == -128 * 127 * taps).all()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("batch", [1, 7])
def test_threads_change_nothing(backend: str, batch: int) -> None:
    case = make_case(
        batch=batch,
        image=(41, 39),
        channels=64,
        outputs=48,
        taps=(3, 3),
        bits=1,
        geometry=ConvGeometry((1, 1), (1, 1)),
        seed=1,
    )
    spec = ActivationSpec(0.02, 120, 8)
    results = []
    for count in (1, 2, 3):
        with torch_threads(count), kernels.use_backend(backend):
            y = kernels.binary_conv2d(case.x, case.weight(), case.scale, case.bias, case.geometry)
            z = kernels.quant_conv2d(case.x, case.weight(spec.bits), spec, case.scale, case.bias, case.geometry)
            results.append((y, z))
    for y, z in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(z, results[0][1])
    assert torch.equal(results[0][0], case.expected(signs(case.x))[1])
    assert torch.equal(results[0][1], case.expected(steps(case.x, spec))[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_and_lower_precision_change_nothing(backend: str) -> None:
    case = make_case(
        batch=2, image=(9, 9), channels=300, outputs=8, taps=(3, 3), bits=8, geometry=ConvGeometry(), seed=1
    )
    spec = ActivationSpec(0.02, 120, 8)
    _, y = case.expected(steps(case.x, spec))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with kernels.use_backend(backend), torch.autocast("cpu", dtype=torch.bfloat16):
            got = kernels.quant_conv2d(case.x, case.weight(spec.bits), spec, case.scale, case.bias, case.geometry)
    finally:
        torch.set_float32_matmul_precision(before)
    assert got.dtype == torch.float32
    assert torch.equal(got, y)
