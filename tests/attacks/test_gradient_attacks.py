"""FGSM and PGD: closed forms, properties that hold for every input, and a trajectory against torchattacks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.attacks import FGSM, PGD, Attack
from robustlab.core import L2, Ball, Linf, Tiled
from robustlab.core.keys import sample_keys


class LinearModel(nn.Module):
    """logits = images @ weight.T + bias."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)


def random_images(count: int, seed: int = 0, size: int = 8) -> Tensor:
    x = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return (x * 256).floor() / 256  # Whole 256ths: sums with other powers of two are exact.


def conv_net(seed: int = 0, scale: float = 6.0) -> nn.Module:
    """A small smooth network whose decisions are neither constant nor robust. In-features are a multiple of four."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.Tanh(), nn.Conv2d(8, 12, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(192, 5)
        )
    with torch.no_grad():
        net[5].weight *= scale  # type: ignore[operator]
        net[5].bias -= net(random_images(64, 99)).mean(dim=0)  # type: ignore[operator]
    return net.eval()


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)  # type: ignore[no-any-return]


ALL_ATTACKS: list[Attack] = [
    FGSM(Linf(8 / 255)),
    FGSM(L2(0.4)),
    PGD(Linf(4 / 255), steps=5),
    PGD(L2(0.3), steps=5),
    PGD(Linf(4 / 255), steps=4, random_start=False),
    PGD(L2(0.3), steps=4, step_size=0.2, random_start=False),
]
ids = pytest.mark.parametrize("attack", ALL_ATTACKS, ids=lambda a: a.slug)


# --- closed form -----------------------------------------------------------------------------------------------------


def two_class_problem(box: bool) -> tuple[LinearModel, Tensor, Tensor, Tensor]:
    """A linear model with a margin too wide to cross, images, labels, and the direction that lowers the margin."""
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(48, generator=generator)
    direction[::7] = 0
    images = torch.rand(6, 3, 4, 4, generator=generator) * 0.4 + 0.3
    if box:
        images = torch.where(torch.rand(images.shape, generator=generator) < 0.5, images.round(), images)
        images = torch.where(torch.rand(images.shape, generator=generator) < 0.5, images, images * 0.98 + 0.01)
    offset = 8 - images.flatten(1) @ direction
    model = LinearModel(torch.stack([direction, torch.zeros(48)]), torch.tensor([float(offset.max()), 0.0]))
    return model, images, torch.zeros(6, dtype=torch.int64), -direction


def best_linear(ball: Ball, origin: Tensor, uphill: Tensor) -> Tensor:
    """The exact maximizer of <uphill, x> over ball and box, from its optimality conditions."""
    flat = origin.flatten(1).double()
    direction = uphill.double()
    if isinstance(ball, Linf):
        return (flat + ball.eps * direction.sign()).clamp(0, 1)

    def at(step: Tensor) -> Tensor:
        return (flat + step[:, None] * direction).clamp(0, 1)

    low, high = torch.zeros(len(flat)).double(), torch.full((len(flat),), 1e4).double()
    for _ in range(100):  # The norm of the clipped step grows with the step: bisection.
        middle = (low + high) / 2
        outside = (at(middle) - flat).norm(dim=1) > ball.eps
        low, high = torch.where(outside, low, middle), torch.where(outside, middle, high)
    return at(low)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(
    ("attack", "fraction"),
    [
        (FGSM(Linf(0.1)), 1.0),
        (PGD(Linf(0.1), steps=10), 1.0),
        (PGD(Linf(0.1), steps=10, random_start=False), 1.0),
        (PGD(L2(0.7), steps=60, step_size=0.1), 0.999),
        (PGD(L2(0.7), steps=60, step_size=0.1, random_start=False), 0.999),
    ],
)
def test_linear_optimum(attack: Attack, fraction: float, box: bool) -> None:
    model, images, labels, uphill = two_class_problem(box)
    result = attack.run(model, images, labels)
    assert (predictions(model, result.images) == 0).all()  # Nobody left early: the optimum is what is compared.
    best = best_linear(attack.ball, images, uphill)
    gain = ((result.images - images).flatten(1).double() @ uphill.double()) / (
        (best - images.flatten(1)) @ uphill.double()
    )
    if box and isinstance(attack.ball, L2):
        fraction = 0.99  # Scaling and then clipping is not the nearest point of ball and box, only one inside both.
    assert (gain >= fraction - 1e-5).all() and (gain <= 1 + 1e-4).all(), gain
    if isinstance(attack.ball, Linf):
        moved = uphill != 0
        torch.testing.assert_close(result.images.flatten(1)[:, moved].double(), best[:, moved], rtol=0, atol=1e-6)


def test_fgsm_l2_without_box_is_the_optimum() -> None:
    model, images, labels, uphill = two_class_problem(box=False)
    adversarial = FGSM(L2(0.2))(model, images, labels).flatten(1)
    torch.testing.assert_close(adversarial, images.flatten(1) + 0.2 * uphill / uphill.norm(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("margin", [25.0, 30.0])
def test_a_confident_model_is_attacked_all_the_same(margin: float) -> None:
    """In float32 the cross-entropy's gradient with respect to the label's logit is exactly 0 here."""
    direction = torch.randn(12, generator=torch.Generator().manual_seed(1))
    images = torch.full((1, 3, 2, 2), 0.5)
    bias = torch.tensor([margin - float(images.flatten() @ direction), 0.0])
    model = LinearModel(torch.stack([direction, torch.zeros(12)]), bias)
    adversarial = FGSM(Linf(0.1))(model, images, torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(adversarial.flatten(), 0.5 - 0.1 * direction.sign())


@settings(deadline=None, max_examples=40)
@given(distance=st.floats(0.2, 3.0), seed=st.integers(0, 1000))
def test_breaks_a_linear_model_exactly_when_the_ball_reaches_the_boundary(distance: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(12, generator=generator)
    images = torch.full((1, 3, 2, 2), 0.5)
    bias = distance * 0.1 * float(direction.abs().sum()) - float(images.flatten() @ direction)  # in units of eps = 0.1
    model = LinearModel(torch.stack([direction, torch.zeros(12)]), torch.tensor([bias, 0.0]))
    broken = predictions(model, PGD(Linf(0.1), steps=10)(model, images, torch.zeros(1, dtype=torch.int64))) != 0
    if abs(distance - 1) > 1e-4:
        assert bool(broken) == (distance < 1)


# --- properties ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    attack=st.sampled_from(ALL_ATTACKS),
    eps=st.one_of(st.just(0.0), st.floats(1e-5, 2.0)),
    seed=st.integers(0, 50),
    tiled=st.booleans(),
)
def test_in_ball_and_box(attack: Attack, eps: float, seed: int, tiled: bool) -> None:
    ball = type(attack.ball)(eps)
    attack = FGSM(ball) if isinstance(attack, FGSM) else PGD(ball, steps=3)
    model = conv_net(seed)
    images = random_images(5, seed)
    images[0], images[1] = images[0].round(), 0.0
    result = attack.run(Tiled(model, 4) if tiled else model, images, predictions(model, images))
    assert result.images.dtype == torch.float32 and result.images.shape == images.shape
    assert ball.contains(result.images, images).all()
    assert result.attacked.all()
    if eps == 0:
        assert torch.equal(result.images, images)


@ids
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_a_sample_does_not_depend_on_its_companions(attack: Attack, data: st.DataObject) -> None:
    model, images = Tiled(conv_net(), 8), random_images(21)
    labels, keys = predictions(model, images), sample_keys(3, "test", range(21))
    labels[::5] = (labels[::5] + 1) % 5  # Some are wrong already.
    whole = attack.run(model, images, labels, keys=keys)
    chosen = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=21, unique=True))
    part = attack.run(model, images[chosen], labels[chosen], keys=keys[chosen])
    assert torch.equal(part.images, whole.images[chosen])
    assert torch.equal(part.attacked, whole.attacked[chosen])
    singles = sum(attack.run(model, images[[i]], labels[[i]], keys=keys[[i]]).gradient_calls for i in chosen)
    assert part.gradient_calls == singles


class Sizes(nn.Module):
    """Records the batch sizes that reach the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.sizes: list[int] = []
        self.graphs: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        self.graphs.append(x.requires_grad)
        out: Tensor = self.network(x)
        return out


@ids
def test_a_tiled_model_sees_only_full_tiles(attack: Attack) -> None:
    model = Sizes(conv_net())
    images = random_images(11)
    attack(Tiled(model, 4), images, predictions(conv_net(), images))
    assert set(model.sizes) == {4}


def test_early_exit_saves_whole_tiles_and_forward_passes() -> None:
    """Samples that are wrong cost one forward pass; broken ones stop; nothing is computed twice."""
    network = Sizes(conv_net())
    images = random_images(16)
    labels = predictions(conv_net(), images)
    attack = PGD(Linf(0.5), steps=10)
    result = attack.run(Tiled(network, 4), images, labels)
    assert (predictions(conv_net(), result.images) != labels).all()
    assert result.gradient_calls < 16 * 5
    assert network.graphs.count(False) == 4
    network.sizes.clear()
    wrong = attack.run(Tiled(network, 4), images, (labels + 1) % 5)
    assert wrong.gradient_calls == 0 and torch.equal(wrong.images, images) and wrong.attacked.all()
    assert len(network.sizes) == 4


@ids
def test_wrong_samples_are_unchanged_and_the_input_is_not_written_to(attack: Attack) -> None:
    model, images = conv_net(), random_images(9)
    before, labels = images.clone(), predictions(model, images)
    labels[:4] = (labels[:4] + 1) % 5
    adversarial = attack(model, images, labels)
    assert torch.equal(images, before)
    assert torch.equal(adversarial[:4], images[:4])
    assert not torch.equal(adversarial[4:], images[4:])
    adversarial.zero_()
    assert torch.equal(images, before)


def test_a_sample_leaves_with_the_first_iterate_that_breaks_it() -> None:
    model, images = conv_net(), random_images(32)
    labels = predictions(model, images)
    final = PGD(Linf(0.03), steps=12, step_size=0.0025, random_start=False)(model, images, labels)
    done = torch.zeros(32, dtype=torch.bool)
    for steps in range(1, 12):
        partial = PGD(Linf(0.03), steps=steps, step_size=0.0025, random_start=False)(model, images, labels)
        now = (predictions(model, partial) != labels) & ~done
        torch.testing.assert_close(final[now], partial[now], rtol=0, atol=1e-6)
        done |= now
    assert 5 < int(done.sum()) < 32


def test_the_default_keys_are_documented_ones_and_keys_matter() -> None:
    model, images, attack = conv_net(), random_images(6), PGD(Linf(4 / 255), steps=2)
    labels = predictions(model, images)
    default = attack(model, images, labels)
    assert torch.equal(default, attack(model, images, labels, keys=sample_keys(0, attack.slug, range(6))))
    assert not torch.equal(default, attack(model, images, labels, keys=sample_keys(1, attack.slug, range(6))))


@pytest.mark.parametrize("kind", [Linf, L2])
def test_robust_accuracy_falls_with_eps_and_steps_to_nothing(kind: type[Ball]) -> None:
    model, images = conv_net(), random_images(100)
    labels = predictions(model, images)
    unit = 1 / 255 if kind is Linf else 0.04

    def robust(eps: float, steps: int) -> float:
        adversarial = PGD(kind(eps * unit), steps=steps)(model, images, labels)
        return float((predictions(model, adversarial) == labels).float().mean())

    curve = [robust(eps, 10) for eps in (0, 0.5, 1, 2, 4, 8, 16, 32)]
    assert curve[0] == 1 and curve[-1] == 0
    assert all(later <= earlier + 0.02 for earlier, later in itertools.pairwise(curve)), curve
    assert any(0.1 < value < 0.9 for value in curve), curve
    assert robust(2, 20) <= robust(2, 1) + 0.02


# --- differential ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_same_trajectory_as_torchattacks(steps: int, norm: str) -> None:
    """Without random start and without early exits the two must walk the same path."""
    torchattacks = pytest.importorskip("torchattacks", reason="differential test; pip install 'robustlab[reference]'")
    images = random_images(16)
    net = conv_net(scale=1.0)
    labels = predictions(net, images)
    if norm == "linf":  # eps, step and images are multiples of 2^-9, so that every sum is exact.
        ours: Attack = PGD(Linf(1 / 64), steps, 1 / 256, random_start=False)
        other = torchattacks.PGD(net, eps=1 / 64, alpha=1 / 256, steps=steps, random_start=False)
    else:
        ours = PGD(L2(0.12), steps, 0.04, random_start=False)
        other = torchattacks.PGDL2(net, eps=0.12, alpha=0.04, steps=steps, random_start=False)
    theirs = other(images, labels)
    mine = ours.run(net, images, labels)
    stayed = torch.ones(16, dtype=torch.bool)
    for earlier in range(1, steps):
        other.steps = earlier
        stayed &= predictions(net, other(images, labels)) == labels
    assert int(stayed.sum()) >= 4
    torch.testing.assert_close(mine.images[stayed], theirs[stayed], rtol=0, atol=2e-6)
    assert not torch.equal(mine.images, images)


# --- traces left behind ----------------------------------------------------------------------------------------------


class Failing(nn.Module):
    """A network with state that raises at its third call."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.limit = 3

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(1)
        if int(self.calls) > self.limit:
            raise RuntimeError("the model failed")
        out: Tensor = self.network(x)
        return out


@ids
@pytest.mark.parametrize("limit", [0, 10**6])
def test_nothing_is_left_behind(attack: Attack, limit: int) -> None:
    model, images = Failing(), random_images(6)
    model.limit = 10**6
    labels = predictions(model.eval(), images)
    model.limit = limit
    model.train()
    model.network[3].eval()
    model.network[0].weight.requires_grad_(False)  # type: ignore[union-attr,operator]
    model.network[3].weight.grad = torch.ones(5, 144)  # type: ignore[union-attr]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes, wants = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    rng, numpy_rng = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    if limit:
        attack(model, images, labels)
    else:
        with pytest.raises(RuntimeError, match="the model failed"):
            attack(model, images, labels)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wants
    assert torch.equal(model.network[3].weight.grad, torch.ones(5, 144))  # type: ignore[union-attr,arg-type]
    assert model.network[3].bias.grad is None  # type: ignore[union-attr]
    assert torch.equal(rng, torch.random.get_rng_state())
    assert np.array_equal(numpy_rng, np.random.get_state()[1])  # noqa: NPY002
    assert torch.is_grad_enabled()


@ids
def test_the_callers_grad_mode_does_not_matter(attack: Attack) -> None:
    model, images = conv_net(), random_images(5)
    labels = predictions(model, images)
    expected = attack(model, images, labels)
    assert not expected.requires_grad
    with torch.no_grad():
        assert torch.equal(attack(model, images, labels), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        adversarial = attack(model, images.clone(), labels.clone())
    assert torch.equal(adversarial, expected)
    assert torch.equal(attack(model, images.clone().requires_grad_(), labels), expected)


# --- not a number ----------------------------------------------------------------------------------------------------


class Poisoned(nn.Module):
    """A network whose logits, or only gradients, are not finite for samples whose mean is above `above`."""

    def __init__(self, where: str, above: float = 0.0) -> None:
        super().__init__()
        self.network, self.where, self.above = conv_net(), where, above

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        bad = (x.detach()[:, 0, 0, 0] > self.above)[:, None]
        if self.where == "gradient":
            pixel = x[:, :1, 0, 0]
            return logits + torch.where(bad, pixel * 0, torch.ones_like(pixel)).sqrt() * 0  # 0, gradient inf * 0.
        value = math.nan if self.where == "nan" else math.inf
        return torch.where(bad, torch.full_like(logits, value), logits)


@ids
@pytest.mark.parametrize("where", ["nan", "inf", "gradient"])
@pytest.mark.parametrize("tiled", [False, True])
def test_not_finite_is_never_a_success(attack: Attack, where: str, tiled: bool) -> None:
    images = random_images(8)
    images[:, 0, 0, 0] = 0.25
    images[:4, 0, 0, 0] = 0.75
    model = Poisoned(where, above=0.5)
    labels = predictions(model.network, images)
    result = attack.run(Tiled(model, 3) if tiled else model, images, labels)
    clean = attack.run(Tiled(model.network, 3) if tiled else model.network, images, labels)
    assert result.attacked.tolist() == [False] * 4 + [True] * 4
    assert attack.ball.contains(result.images, images).all()
    if where != "gradient":
        assert torch.equal(result.images[:4], images[:4])
    if where == "gradient" and not attack.schedule.random_start:
        assert torch.equal(result.images[:4], images[:4])
    if where != "gradient":
        torch.testing.assert_close(result.images[4:], clean.images[4:])


def test_a_sample_that_becomes_nan_keeps_the_last_iterate_with_finite_logits() -> None:
    weight = torch.zeros(2, 12)
    weight[0, 0] = -1.0  # Uphill for label 0 is towards a larger first value.
    model = LinearModel(weight, torch.tensor([4.0, 0.0]))

    class Edge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.model(x)
            return torch.where(x[:, :1, 0, 0] > 0.535, torch.full_like(logits, math.nan), logits)

    images = torch.full((1, 3, 2, 2), 0.5)
    attack = PGD(Linf(0.1), steps=10, step_size=0.01, random_start=False)
    result = attack.run(Edge(), images, torch.zeros(1, dtype=torch.int64))
    assert not result.attacked.any() and result.gradient_calls == 5
    assert float(result.images[0, 0, 0, 0]) == pytest.approx(0.53)


def test_a_zero_gradient_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.network((x * 255).round() / 255)
            return out

    model, images = Rounded(), random_images(4)
    result = FGSM(Linf(0.1)).run(model, images, predictions(model, images))
    assert torch.equal(result.images, images)
    assert "Rounded: the first gradient is zero for all 4 samples" in caplog.text
    caplog.clear()
    FGSM(Linf(0.1))(conv_net(), images, predictions(conv_net(), images))
    assert not caplog.text
