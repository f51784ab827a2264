"""The coders of every algorithm against their own formulas: values, gradients, lattices, schedules, first values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab.compress.algorithms import TRAINED
from robustlab.compress.algorithms.dab import AdaptiveSign
from robustlab.compress.algorithms.dorefa import LayerSign, TanhWeight, UnitInput, tanh_weight
from robustlab.compress.algorithms.fda import FourierInput, FourierWeight
from robustlab.compress.algorithms.irnet import BalancedSign, SharpeningSign
from robustlab.compress.algorithms.lpb import TwoPlaneSign
from robustlab.compress.algorithms.lsq import StepInput, StepWeight
from robustlab.compress.algorithms.lsq_plus import OffsetInput
from robustlab.compress.algorithms.pact import ClippedInput
from robustlab.compress.algorithms.react import ShiftedSign
from robustlab.compress.algorithms.recu import NormalizedSign, RectifiedClamp
from robustlab.compress.algorithms.xnor import SampleScaledSign
from robustlab.compress.coders import Coder, Moment
from robustlab.compress.contract import DEPLOYABILITY, Algorithm, Site
from robustlab.compress.learned import fitted_step, learned, open_clip, stepped
from robustlab.compress.quantizers import LearnedScaleSign, WeightBinarizer, affine_codes, standardized
from robustlab.core.errors import ArgumentError
from robustlab.kernels import ConvGeometry

BINARY = [name for name, algorithm in TRAINED.items() if algorithm.binary]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor | None = None) -> Tensor:
    leaf = x.clone().requires_grad_(True)
    y = function(leaf)
    y.backward(torch.ones_like(y) if upstream is None else upstream)
    assert leaf.grad is not None
    return leaf.grad


def site(bits: int, *, linear: bool = False) -> Site:
    weight = randn(4, 6) if linear else randn(4, 3, 3, 3)
    return Site(weight, bits, bits, 6, None if linear else ConvGeometry(groups=2), "mse")


def made(algorithm: Algorithm, bits: int, *, linear: bool = False) -> tuple[Coder, Coder]:
    where = site(bits, linear=linear)
    return algorithm.input(where), algorithm.weight(where)


def test_the_registry_names_source_class_and_bits_of_every_algorithm() -> None:
    wanted = "lsq lsq+ lsq+free pact dorefa bnn xnor bireal xnor++ react recu fda irnet lpb dab"
    assert list(TRAINED) == wanted.split()
    for name, algorithm in TRAINED.items():
        assert algorithm.name == name
        assert algorithm.deployability in DEPLOYABILITY
        assert algorithm.summary and algorithm.backward and algorithm.source
        assert "\n" not in algorithm.summary
        assert algorithm.binary or algorithm.multibit
        with pytest.raises(ArgumentError, match=name.replace("+", r"\+")):
            algorithm.check_bits("weights, activations", 9, 9)
        with pytest.raises(ArgumentError, match="allowed: "):
            algorithm.check_bits("weights, activations", 4.0, 4)
    assert not TRAINED["lsq"].allows(1, 1) and not TRAINED["react"].allows(4, 4) and not TRAINED["dorefa"].allows(1, 4)
    assert TRAINED["dorefa"].allows(1, 1) and TRAINED["dorefa"].allows(2, 8)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("linear", [False, True])
def test_the_sign_of_zero_is_plus_one_everywhere(name: str, linear: bool) -> None:
    coder, weights = made(TRAINED[name], 1, linear=linear)
    for part in (coder, weights):
        part.make_factorable()
    shape = (2, 6) if linear else (2, 6, 4, 4)
    for zero in (torch.zeros(shape), -torch.zeros(shape)):
        assert (coder(zero) >= 0).all()
        assert not (torch.signbit(coder(zero)) & (coder(zero) != 0)).any()
    mixed = torch.zeros(shape)
    mixed[0].flatten()[:3] = torch.tensor([1.0, -1.0, 2.0])
    values = coder(mixed)
    assert len(values[0].unique()) <= 4  # no level for zero besides the planes'
    assert (values[0].flatten()[3:] > 0).all()
    where = site(1, linear=linear)
    codes, scale = weights.codes(torch.zeros_like(where.weight))  # type: ignore[operator]
    assert torch.equal(codes, torch.ones_like(codes))
    assert scale.shape == (4,)


def test_plain_signs_have_the_stated_gradients() -> None:
    x = torch.tensor([-1.5, -1.0, -0.25, 0.0, 0.5, 1.0, 1.5])
    clip = (x.abs() <= 1).float()
    triangle = (2 - 2 * x.abs()).clamp(min=0)
    assert torch.equal(gradient(TRAINED["bnn"].input(site(1)), x), clip)
    assert torch.equal(gradient(TRAINED["bireal"].input(site(1)), x), triangle)
    weight = torch.stack([x, 2 * x])
    found = gradient(TRAINED["bnn"].weight(site(1)), weight)
    assert torch.equal(found, (weight.abs() <= 1).float())
    found = gradient(TRAINED["bireal"].weight(site(1)), weight)
    assert torch.equal(found, (weight.abs() <= 1).float() * weight.abs().mean(1, keepdim=True))
    found = gradient(LayerSign(), weight)
    assert torch.allclose(found, (weight.abs() <= 1).float() * weight.abs().mean())


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_xnor_scales_are_the_least_squares_ones(seed: int) -> None:
    weight = randn(5, 3, 3, 3, seed=seed)
    codes, scale = WeightBinarizer().codes(weight)
    error = (weight - codes * scale.reshape(-1, 1, 1, 1)).square().flatten(1).sum(1)
    for factor in (0.99, 1.01):
        worse = (weight - codes * (scale * factor).reshape(-1, 1, 1, 1)).square().flatten(1).sum(1)
        assert (worse > error).all()
    x = randn(3, 4, 5, 5, seed=seed)
    y = SampleScaledSign(rows=False)(x)
    best = x.abs().flatten(1).mean(1)  # argmin over s of |x - s sign(x)|^2
    assert torch.allclose(y.abs().flatten(1).amax(1), best) and torch.allclose(y.abs().flatten(1).amin(1), best)
    rows = SampleScaledSign(rows=True)(x[:, :, :, 0])
    assert torch.allclose(rows.abs()[..., 0], x[:, :, :, 0].abs().mean(-1))


def test_learned_scales_start_at_the_mean_and_have_their_gradient() -> None:
    weight = randn(4, 3, 3, 3)
    coder = LearnedScaleSign(weight)
    upstream = randn(4, 3, 3, 3, seed=1)
    assert torch.allclose(coder.codes(weight)[1], weight.abs().mean((1, 2, 3)))
    coder(weight).backward(upstream)
    wanted = (upstream * weight.sign()).sum((1, 2, 3)) / coder.unit  # of the scale, by the unit of the parameter
    assert coder.gain.grad is not None
    assert torch.allclose(coder.gain.grad, wanted, rtol=1e-5)


def test_gradient_descent_on_a_gain_is_gradient_descent_on_the_number() -> None:
    unit, gain = torch.tensor([0.01, 3.0]), torch.ones(2, requires_grad=True)
    learned(gain, unit).backward(torch.tensor([2.0, -1.0]))
    assert gain.grad is not None
    moved = learned(gain.detach() - 0.001 * gain.grad, unit)
    assert torch.allclose(moved, unit - 0.001 * torch.tensor([2.0, -1.0]))
    below = torch.tensor([-1.0], requires_grad=True)
    learned(below, torch.ones(1)).sum().backward()
    assert float(learned(below, torch.ones(1)).detach()) > 0 and float(below.grad) == 1  # type: ignore[arg-type]


def lsq(v: Tensor, s: Tensor, low: float, high: float) -> Tensor:
    """Esser et al., eq. 1 and 2, whose rounding error is held: what straight-through differentiates."""
    u = (v / s).clamp(low, high)
    error = (u.round() - u).detach()
    return (u + error) * s


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_step_gradient_of_lsq_is_the_finite_difference_of_its_definition(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    weight = randn(3, 4, 3, 3) * torch.tensor([1.0, 2.0, 0.1]).reshape(-1, 1, 1, 1)
    coder = StepWeight(weight, bits, weight.abs().flatten(1).amax(1) / top * 0.6)
    step = coder.step(weight).detach()
    upstream = randn(3, 4, 3, 3, seed=1)
    coder(weight).backward(upstream)
    assert coder.gain.grad is not None
    found = coder.gain.grad * coder.unit * math.sqrt(36 * top)
    v, g, h = weight.double(), upstream.double(), 1e-6
    u = (v / step.double().reshape(-1, 1, 1, 1)).clamp(-top, top)
    error = u.round() - u
    sums = []
    for sign in (1, -1):
        s = step.double().reshape(-1, 1, 1, 1) * (1 + sign * h)
        sums.append((((v / s).clamp(-top, top) + error) * s * g).flatten(1).sum(1))
    wanted = (sums[0] - sums[1]) / (2 * h * step.double())
    assert torch.allclose(found.double(), wanted, rtol=1e-3, atol=1e-3)
    rounded = lsq(weight, step.reshape(-1, 1, 1, 1), -top, top)
    assert torch.allclose(coder(weight), rounded, atol=1e-6)
    inside = (weight.abs() < top * step.reshape(-1, 1, 1, 1)).float()
    assert torch.equal(gradient(lambda w: coder(w) / step.reshape(-1, 1, 1, 1), weight) != 0, inside.bool())


@pytest.mark.parametrize("zero", [0, 5])
def test_the_step_gradient_of_activations_follows_eq_3(zero: int) -> None:
    coder = StepInput(4)
    coder.set_grid(0.2, zero)
    x, upstream = 3 * randn(6, 2, 3, 3), randn(6, 2, 3, 3, seed=1)
    x[0, 0, 0] = torch.tensor([100.0, -100.0, 0.0])
    coder(x).backward(upstream)
    u = x / torch.tensor(0.2)
    low, high = -zero, 15 - zero
    slope = torch.where(u >= high, float(high), torch.where(u <= low, float(low), u.round() - u))
    wanted = (slope * upstream).sum() / math.sqrt(18 * high) / 0.2
    assert coder.gain.grad is not None
    assert torch.allclose(coder.gain.grad, wanted, rtol=1e-4)
    found = gradient(coder, x)
    assert torch.allclose(found, ((u > low) & (u < high)).float())
    assert torch.isfinite(coder(torch.tensor([float("nan"), float("inf")]))).all()


def test_two_bits_of_lsq_are_four_levels_around_zero() -> None:
    weight = randn(2, 50)
    coder = StepWeight(weight, 2, torch.full((2,), 0.5))
    assert coder.levels == 4 and coder.zero_point == -0.5
    assert (coder(weight) / 0.5).unique().tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert coder.codes(weight)[0].unique().tolist() == [-2, -1, 0, 1]
    nearest = (weight[..., None] - torch.tensor([-0.75, -0.25, 0.25, 0.75])).abs().argmin(-1)
    assert torch.equal(coder.codes(weight)[0], nearest.float() - 2)


def test_the_first_step_is_no_worse_than_its_neighbours() -> None:
    weight = randn(3, 400)
    for low, high, half in ((-7.0, 7.0, False), (-1.5, 1.5, True)):
        step = fitted_step(weight, low, high, half=half)

        def error(s: Tensor, low: float = low, high: float = high, half: bool = half) -> Tensor:
            u = weight / s[:, None]
            levels = (u.floor() + 0.5).clamp(low, high) if half else u.round().clamp(low, high)
            return (levels * s[:, None] - weight).square().sum(1)

        span = weight.abs().amax(1) / high / 80
        assert (error(step) <= error(step + span)).all() and (error(step) <= error(step - span)).all()
    assert torch.equal(fitted_step(torch.zeros(2, 3), -7, 7, half=False), torch.ones(2))
    bounds = gradient(lambda x: open_clip(x, -1, 1), torch.tensor([-1.0, -0.9, 0.9, 1.0, 2.0]))
    assert bounds.tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize("snapped", [True, False])
def test_lsq_plus_learns_steps_and_offset_as_defined(snapped: bool) -> None:
    coder = OffsetInput(3, snapped)
    coder.set_grid(0.5, 3)
    with torch.no_grad():
        coder.slide.add_(0.05)  # the offset is 3.35 steps below zero, 3 when it is snapped
    x, upstream = 3 * randn(4, 30), randn(4, 30, seed=1)
    zero = 3.35 if not snapped else 3.0
    y = coder(x)
    y.backward(upstream)
    u = x / 0.5 + zero
    codes = u.round().clamp(0, 7) if not snapped else ((x / 0.5).round() + 3).clamp(0, 7)
    assert torch.allclose(y, (codes - zero) * 0.5, atol=1e-5)
    outside = (u <= 0) | (u >= 7)
    slope = torch.where(u >= 7, 7.0, torch.where(u <= 0, 0.0, codes - u))
    factor = 1 / math.sqrt(30 * 7)
    assert coder.gain.grad is not None and coder.slide.grad is not None
    assert torch.allclose(coder.gain.grad, (slope * upstream).sum() * factor / 0.5, rtol=1e-3, atol=1e-4)
    assert torch.allclose(coder.slide.grad, -(outside * upstream).sum() * factor / 3.5, rtol=1e-3, atol=1e-4)
    assert (coder.obstacle() is None) == snapped
    if not snapped:
        assert "-3.35000014 steps" in str(coder.obstacle())
        coder.make_factorable()
        assert coder.obstacle() is None and coder.spec().zero_point == 3


@pytest.mark.parametrize("snapped", [True, False])
def test_a_whole_offset_of_lsq_plus_rounds_ties_as_the_kernels_do(snapped: bool) -> None:
    coder = OffsetInput(4, snapped)
    coder.set_grid(1.0, 5)
    assert coder.obstacle() is None  # so its values have to be those that are deployed
    spec = coder.spec()
    edges = torch.arange(-6, 12) + 0.5
    codes = affine_codes(edges, torch.tensor(spec.scale), spec.zero_point, spec.bits)
    assert torch.equal(coder(edges), codes - spec.zero_point)


def test_eight_bits_of_grouped_dorefa_are_even() -> None:
    weight = randn(4, 5, 3, 3)
    coder = TanhWeight(8, odd=False)
    largest = weight.tanh().abs().max()
    assert coder.zero_point == 0 and coder.levels == 255
    assert torch.allclose(coder(weight), (weight.tanh() / largest * 127).round() / 127 * largest, atol=1e-6)
    grouped = Site(weight, 8, 8, 20, ConvGeometry(groups=4), "mse")
    sites = (grouped, replace(grouped, weight_bits=7), site(8, linear=True))
    assert [tanh_weight(where).zero_point for where in sites] == [0, -0.5, -0.5]


@pytest.mark.parametrize("bits", range(2, 9))
def test_dorefa_weights_lie_on_the_odd_lattice(bits: int) -> None:
    weight = randn(4, 5, 3, 3)
    coder = TanhWeight(bits)
    count = 2**bits - 1
    largest = weight.tanh().abs().max()
    paper = 2 * torch.round(count * (weight.tanh() / (2 * largest) + 0.5)) / count - 1  # eq. 9
    assert torch.allclose(coder(weight), paper * largest, atol=1e-6)
    levels = (coder(weight) / largest * count).round()
    assert torch.equal(levels.remainder(2), torch.ones_like(levels))  # odd multiples of 1 / n
    codes, _ = coder.codes(weight)
    assert codes.min() >= -(2 ** (bits - 1)) and codes.max() <= 2 ** (bits - 1) - 1
    assert float(codes.max()) == 2 ** (bits - 1) - 1 or float(codes.min()) == -(2 ** (bits - 1))
    assert torch.allclose(gradient(coder, weight), 1 - weight.tanh().square(), atol=1e-6)


def test_dorefa_activations_are_clipped_to_one() -> None:
    coder = UnitInput(2)
    coder.set_grid(7.0, 1)
    x = torch.tensor([-1.0, 0.0, 0.1, 0.2, 0.6, 1.0, 1.1])
    assert torch.allclose(coder(x), torch.tensor([0, 0, 0, 1, 2, 3, 3]) / 3)
    assert gradient(coder, x).tolist() == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("zero", [0, 4])
def test_pact_learns_its_level_from_what_it_clips(zero: int) -> None:
    coder = ClippedInput(4)
    coder.set_grid(0.25, zero)
    alpha = 0.25 * (15 - zero)
    beta = 0.25 * zero
    x, upstream = 4 * randn(40), randn(40, seed=1)
    coder(x).backward(upstream)
    above, below = x >= alpha, x < -beta
    wanted = (upstream * above).sum() - zero / (15 - zero) * (upstream * below).sum()
    assert coder.gain.grad is not None
    assert torch.allclose(coder.gain.grad, wanted / alpha, rtol=1e-5)
    assert torch.equal(gradient(coder, x), (~above & ~below).float())
    assert torch.allclose(coder(x), ((x / 0.25).round() + zero).clamp(0, 15) * 0.25 - beta)
    assert coder.decayed == ("gain",)
    coder.set_grid(0.25, 15)  # a range without positive numbers
    assert coder.spec().zero_point == 14


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 8), st.integers(0, 255), st.integers(0, 1000))
def test_the_steps_of_activations_are_the_formula_and_its_gradients(bits: int, zero: int, seed: int) -> None:
    low = -(zero % (1 << bits))
    high = low + (1 << bits) - 1
    x, upstream = randn(4, 9, seed=seed) * (high - low) * 0.4, randn(4, 9, seed=seed + 1)
    x[0, 0] = low * 0.75
    leaves = [x.clone().requires_grad_(), torch.tensor(0.75, requires_grad=True), torch.zeros((), requires_grad=True)]
    y = stepped(leaves[0], leaves[1], low, high, leaves[2])
    units = x / 0.75
    assert torch.equal(y, units.clamp(low, high).round() * 0.75)
    towards_x, towards_step, towards_ends = torch.autograd.grad(y, leaves, upstream)
    inside = (units > low) & (units < high)
    assert torch.equal(towards_x, torch.where(inside, upstream, 0.0))
    errors = torch.where(inside, units.round() - units, units.clamp(low, high))
    torch.testing.assert_close(towards_step, (errors * upstream).sum(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(towards_ends, upstream[~inside].sum(), rtol=1e-4, atol=1e-4)


def test_the_shift_of_react_moves_the_sign_and_shares_its_gradient() -> None:
    coder = ShiftedSign(3, rows=False)
    with torch.no_grad():
        coder.shift.copy_(torch.tensor([0.5, 0.0, -0.5]))
    x, upstream = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    moved = x + torch.tensor([0.5, 0.0, -0.5]).reshape(1, 3, 1, 1)
    assert torch.equal(coder(x), torch.where(moved < 0, -1.0, 1.0))
    triangle = (2 - 2 * moved.abs()).clamp(min=0)
    assert torch.allclose(gradient(coder, x, upstream), triangle * upstream)
    coder.zero_grad()
    coder(x).backward(upstream)
    assert coder.shift.grad is not None
    assert torch.allclose(coder.shift.grad, (triangle * upstream).sum((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_learned_thresholds_start_among_what_they_see() -> None:
    both, ramp = randn(3, 4, 5, 5), randn(3, 4, 5, 5).relu() * torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    mean = ramp.mean(dim=(0, 2, 3))
    react, planes, adaptive = ShiftedSign(4, False), TwoPlaneSign(4, False), AdaptiveSign(4)
    for x, shift, gain in ((ramp, -mean, 1.0), (both, torch.zeros(4), 0.0)):
        for coder in (react, planes, adaptive):
            coder.start(x)
        assert torch.equal(react.shift.detach(), shift) and torch.equal(planes.shift.detach(), shift)
        assert float(planes.first.detach()) == pytest.approx(
            float((x + shift.reshape(1, 4, 1, 1)).abs().mean()), rel=1e-6
        )
        assert adaptive.gain.tolist() == [gain] * 4
    react.start(ramp)
    assert {-1.0, 1.0} == set(react(ramp)[:, 0].flatten().tolist())  # not +1 alone, behind a ReLU
    rows = ShiftedSign(6, True)
    rows.start(randn(5, 6).abs())
    assert torch.allclose(rows.shift.detach(), -randn(5, 6).abs().mean(0))


def test_recu_clamps_at_its_quantile_and_tau_grows() -> None:
    weight = randn(6, 5, 3, 3) + 0.3
    coder = RectifiedClamp(weight)
    taus = []
    for epoch in range(5):
        coder.schedule(Moment(epoch, 4, 0, 1))  # epoch 4 of 4 is the end
        taus.append(float(coder.tau))
    assert taus[0] == pytest.approx(0.85) and taus[-1] == pytest.approx(0.99)
    assert taus[2] == pytest.approx(0.14 / (math.e - 1) * math.exp(0.5) + 0.85 - 0.14 / (math.e - 1))
    coder.schedule(Moment(0, 4, 0, 1))
    flat = weight.flatten(1)
    normal = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, keepdim=True) + 1e-5).sqrt() * 2 * math.sqrt(2)
    bound = -normal.abs().mean() * math.log(2 - 2 * 0.85)
    codes, scale = coder.codes(weight)
    assert torch.equal(codes.flatten(1), torch.where(normal < 0, -1.0, 1.0))
    leaf = weight.clone().requires_grad_(True)
    own = standardized(leaf, 1e-5) * 2 * math.sqrt(2)
    passed = (own * (own.detach().abs() <= bound)).sum((1, 2, 3)) @ scale.detach()
    (wanted,) = torch.autograd.grad(passed, leaf)
    assert torch.allclose(gradient(coder, weight), wanted, atol=1e-5)
    assert 0.02 < float((normal.abs() > bound).float().mean()) < 0.4


def test_recu_normalizes_activations_only_to_train() -> None:
    coder, x = NormalizedSign(), 3 * randn(2, 3, 4, 4)
    assert torch.equal(coder(x), torch.where(x < 0, -1.0, 1.0))
    coder.eval()
    assert torch.allclose(gradient(coder, x), (2 - 2 * x.abs()).clamp(min=0))
    assert not torch.allclose(gradient(coder.train(), x), (2 - 2 * x.abs()).clamp(min=0))


def test_irnet_balances_weights_and_sharpens_its_gradient() -> None:
    weight = 0.01 * randn(4, 3, 3, 3) + 5
    coder = BalancedSign()
    codes, scale = coder.codes(weight)
    normal = standardized(weight)
    assert torch.allclose(normal.mean((1, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(normal.std((1, 2, 3)), torch.ones(4), atol=1e-4)
    assert (codes.mean((1, 2, 3)).abs() < 0.5).all()
    assert torch.equal(scale, 2 ** normal.abs().mean((1, 2, 3)).log2().round())
    assert torch.equal(standardized(torch.full((2, 1), 3.0)), torch.zeros(2, 1))
    x, sign = torch.linspace(-2, 2, 9), SharpeningSign()
    for epoch, slope in ((0, 1e-3), (2, 1e-1), (3, 1.0), (4, 10.0)):
        sign.schedule(Moment(epoch, 4, 0, 1))
        assert float(sign.slope) == pytest.approx(1e-3 * 1e4 ** (epoch / 4))
        t = float(sign.slope)
        wanted = max(1 / t, 1) * t * (1 - torch.tanh(t * x) ** 2)
        assert torch.allclose(gradient(sign, x), wanted, atol=1e-6)
        assert slope == pytest.approx(t) or epoch == 2 or epoch == 3


def test_fda_differentiates_a_fourier_series_and_its_noise_ends() -> None:
    coder, x = FourierInput(130, 1), randn(2, 130, 3, 3)
    assert coder.inward.shape == (2, 130) and coder.outward.shape == (130, 2)
    assert FourierInput(8, 1).inward.shape == (1, 8)
    for epoch, terms, alpha in ((0, 9, 0.05 * (1 + math.cos(math.pi / 4))), (2, 13, None), (3, 15, 0.0)):
        coder.schedule(Moment(epoch, 4, 0, 1))
        assert int(coder.terms) == terms
        if alpha is not None:
            assert float(coder.alpha) == pytest.approx(alpha, rel=1e-6)
    assert float(coder.alpha) == 0 and coder.obstacle() is None
    assert torch.equal(coder(x), torch.where(x < 0, -1.0, 1.0))
    at = torch.tensor([-1.5, -1.0, -0.3, 0.0, 0.7, 1.01])
    series = sum(torch.cos((2 * i + 1) * 0.1 * at) for i in range(16)) * 0.4 / math.pi
    wanted = torch.where(at.abs() <= 1, series, 0.0)
    assert torch.allclose(gradient(coder.sign, at), wanted, atol=1e-6)
    coder.schedule(Moment(0, 4, 0, 1))
    assert "noise" in str(coder.obstacle())
    hidden = torch.relu(torch.einsum("ncij,hc->nhij", x, coder.inward))
    eta = torch.einsum("nhij,ch->ncij", hidden, coder.outward) + 0.1 * torch.sin(x)
    assert torch.allclose(coder(x), torch.where(x < 0, -1.0, 1.0) + coder.alpha * eta, atol=1e-5)
    weights = FourierWeight(27, 1)
    coder.make_factorable()
    weights.make_factorable()
    weight = randn(4, 3, 3, 3)
    assert torch.equal(weights(weight), WeightBinarizer()(weight))


def test_two_planes_err_less_than_one_and_zero_adaptive_thresholds_are_plain_signs() -> None:
    x = randn(4, 8, 16, 16)
    planes = TwoPlaneSign(8, rows=False)
    planes.start(x)
    one = x.abs().mean() * x.sign()
    relative = [float((y - x).square().mean() / x.square().mean()) for y in (planes(x).detach(), one)]
    assert relative[0] == pytest.approx(0.131, abs=0.02)  # residual binarization of order two on a Gaussian
    assert relative[1] == pytest.approx(0.363, abs=0.02)
    with torch.no_grad():
        planes.shift.fill_(0.3)
        planes.second_shift.fill_(-0.1)
    u = x + 0.3
    rest = u - planes.first * torch.where(u < 0, -1.0, 1.0) - 0.1
    wanted = planes.first * u.sign() + rest.abs().mean((1, 2, 3), keepdim=True) * rest.sign()
    assert torch.allclose(planes(x), wanted, atol=1e-6)
    coder = AdaptiveSign(8)
    assert torch.equal(coder(x), torch.where(x < 0, -1.0, 1.0))
    with torch.no_grad():
        coder.gain.fill_(1.0)
    offset = 5 * randn(4, 1, 1, 1, seed=2)  # a brightness of its own for every sample changes nothing
    assert (torch.sign(coder(x)) != torch.sign(coder(x + offset))).float().mean() < 1e-3


def test_an_attack_sees_the_mean_in_the_thresholds() -> None:
    coder, x = AdaptiveSign(2), 0.3 * randn(1, 2, 4, 4)
    with torch.no_grad():
        coder.gain.fill_(1.0)
    shifted = gradient(coder, x).sum((2, 3))  # of a shift of a channel: thresholds follow, so it has no effect
    with torch.no_grad():
        coder.gain.fill_(0.0)
    assert torch.allclose(shifted, torch.zeros(1, 2), atol=1e-5)
    assert (gradient(coder, x).sum((2, 3)) > 1).all()
