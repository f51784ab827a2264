"""All gradient attacks: optima of linear models, properties for every input, targets, NaN, restarts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.attacks import APGDCE, APGDDLR, APGDT, BIM, DIFGSM, FGSM, MIFGSM, PGD, TIFGSM, Attack
from robustlab.core import L1, L2, ArgumentError, Ball, Lattice, Linf, Tiled
from robustlab.core.keys import sample_keys
from robustlab.core.lattice import on_lattice
from robustlab.kernels import dispatch


class Linear(nn.Module):
    """logits = images @ weight.T + bias."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)


def byte_images(count: int, seed: int = 0, size: int = 8) -> Tensor:
    levels = torch.randint(-20, 276, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return levels.clamp(0, 255).float() / 255


def conv_net(seed: int = 0, scale: float = 6.0) -> nn.Module:
    """A small smooth network whose decisions are neither constant nor robust."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.Tanh(), nn.Conv2d(8, 12, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(192, 5)
        )
    with torch.no_grad():
        net[5].weight *= scale  # type: ignore[operator]
        net[5].bias -= net(byte_images(64, 99)).mean(dim=0)  # type: ignore[operator]
    return net.eval()


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)  # type: ignore[no-any-return]


RADII: dict[str, Ball] = {"linf": Linf(4 / 255), "l2": L2(0.3), "l1": L1(3.0)}
ALL: list[Attack] = [
    FGSM(RADII["l1"]),
    BIM(RADII["l2"], 4),
    MIFGSM(RADII["linf"], 4),
    DIFGSM(RADII["l1"], 3, decay=1),
    TIFGSM(RADII["linf"], 3, kernel=3, probability=0.5),
    PGD(RADII["l1"], 3, loss="dlr", full=True),
    APGDDLR(RADII["l2"], 7, restarts=2),
    APGDT(RADII["linf"], 5, classes=2),
    MIFGSM(Lattice(RADII["l2"]), 4),
    DIFGSM(Lattice(RADII["linf"]), 3),
]
for _ball in RADII.values():
    ALL += [PGD(_ball, 4, restarts=2, loss="margin"), APGDCE(_ball, 12), APGDCE(Lattice(_ball), 7)]
    ALL += [PGD(Lattice(_ball), 3, restarts=2)]
each = pytest.mark.parametrize("attack", ALL, ids=lambda a: a.slug)


# --- closed form -----------------------------------------------------------------------------------------------------


def wide_margin(seed: int = 5) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """A linear model of four classes that no step crosses, images, labels, and uphill: class 1 is the nearest one."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(48, generator=generator)
    images = torch.randint(0, 256, (6, 3, 4, 4), generator=generator).float() / 255
    weight = torch.stack([torch.zeros(48), direction, torch.zeros(48), torch.zeros(48)])
    offset = float((images.flatten(1) @ direction).max()) + 12
    return Linear(weight, torch.tensor([offset, 0.0, -1e3, -2e3])), images, torch.zeros(6).long(), direction


def best_gain(ball: Ball, origin: Tensor, uphill: Tensor) -> Tensor:
    """max of <uphill, x - origin> over ball and box, float64 (N,)."""
    flat, up = origin.flatten(1).double(), uphill.double()
    room = torch.where(up > 0, 1 - flat, flat)
    if ball.norm_name == "linf":
        return (room.clamp(max=ball.eps) * up.abs()).sum(dim=1)
    if ball.norm_name == "l1":  # The steepest values first, each to the bound of the box.
        order = up.abs().argsort(descending=True)
        spent = torch.minimum(room[:, order], (ball.eps - room[:, order].cumsum(1) + room[:, order]).clamp(min=0))
        return (spent * up.abs()[order]).sum(dim=1)
    low, high = torch.zeros(len(flat), 1).double(), torch.full((len(flat), 1), 1e4).double()
    for _ in range(80):  # min(step * |up|, room): its norm grows with the step.
        middle = (low + high) / 2
        outside = torch.minimum(middle * up.abs(), room).norm(dim=1, keepdim=True) > ball.eps
        low, high = torch.where(outside, low, middle), torch.where(outside, middle, high)
    return (torch.minimum(low * up.abs(), room) * up.abs()).sum(dim=1)


@pytest.mark.parametrize(
    ("attack", "fraction"),
    [
        (BIM(Linf(0.1), 10), 1.0),
        (MIFGSM(Linf(0.1), 10), 1.0),
        (PGD(Linf(0.1), 10, loss="margin"), 1.0),
        (APGDCE(Linf(0.1), 20), 1.0),
        (APGDT(Linf(0.1), 20, classes=1), 1.0),
        (BIM(Lattice(Linf(20 / 255)), 40), 1.0),
        (APGDCE(L2(0.7), 60), 0.97),
        (PGD(L2(0.7), 60, loss="margin"), 0.97),
        (PGD(L1(4.0), 100, 0.1, random_start=False, loss="margin"), 0.999),
        (PGD(L1(4.0), 100, 0.1, random_start=False), 0.999),
        (APGDCE(L1(4.0), 60), 0.97),
        (APGDDLR(L1(4.0), 60), 0.97),
        (PGD(Lattice(L2(0.7)), 60, loss="margin"), 0.96),
        (PGD(Lattice(L1(4.0)), 100, 0.1, random_start=False, loss="margin"), 0.99),
    ],
    ids=lambda a: a.slug if isinstance(a, Attack) else None,
)
def test_linear_optimum(attack: Attack, fraction: float) -> None:
    model, images, labels, uphill = wide_margin()
    result = attack.run(model, images, labels)
    assert (predictions(model, result.images) == 0).all() and attack.ball.contains(result.images, images).all()
    gain = (result.images - images).flatten(1).double() @ uphill.double() / best_gain(attack.ball, images, uphill)
    assert (gain >= fraction - 1e-5).all() and (gain <= 1 + 1e-4).all(), gain


# --- properties ------------------------------------------------------------------------------------------------------


@each
@settings(deadline=None, max_examples=3)
@given(levels=st.one_of(st.just(0.0), st.floats(0.01, 300)), seed=st.integers(0, 50), tiled=st.booleans())
def test_in_ball_box_and_lattice(attack: Attack, levels: float, seed: int, tiled: bool) -> None:
    lattice = isinstance(attack.ball, Lattice)
    inner = type(attack.ball.inner if isinstance(attack.ball, Lattice) else attack.ball)(levels / 255)  # type: ignore[call-arg]
    attack = type(attack)(Lattice(inner) if lattice else inner, *list(vars(attack).values())[1:])
    model, images = conv_net(seed % 3), byte_images(5, seed)
    result = attack.run(Tiled(model, 4) if tiled else model, images, predictions(model, images))
    assert result.images.dtype == torch.float32 and result.attacked.all()
    assert attack.ball.contains(result.images, images).all()
    assert not lattice or on_lattice(result.images).all()
    if levels == 0:
        assert torch.equal(result.images, images)


@each
def test_a_sample_does_not_depend_on_its_companions(attack: Attack) -> None:
    model, images = Tiled(conv_net(), 8), byte_images(21)
    labels, keys = predictions(model, images), sample_keys(3, "test", range(21))
    labels[::5] = (labels[::5] + 1) % 5  # Some are wrong already.
    whole = attack.run(model, images, labels, keys=keys)
    assert torch.equal(whole.images[::5], images[::5])
    assert not torch.equal(whole.images[1::5], images[1::5])
    chosen = torch.randperm(21, generator=torch.Generator().manual_seed(7))[:10]
    part = attack.run(model, images[chosen], labels[chosen], keys=keys[chosen])
    assert torch.equal(part.images, whole.images[chosen]) and torch.equal(part.attacked, whole.attacked[chosen])
    assert torch.equal(part.queries, whole.queries[chosen])


class Poisoned(nn.Module):
    """Logits that are NaN where the first value has moved up by more than `room` from 0.5."""

    def __init__(self, room: float) -> None:
        super().__init__()
        self.network, self.room = conv_net(), room
        self.network[5].bias.data[0] += 20  # type: ignore[operator,union-attr,index]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        moved = ((x.detach() - 127 / 255).abs().flatten(1).amax(dim=1) > self.room)[:, None]
        return torch.where(moved, torch.full_like(logits, math.nan), logits)


@each
def test_nan_in_the_middle_is_not_a_success(attack: Attack) -> None:
    images = torch.full((4, 3, 8, 8), 127.0) / 255
    model = Poisoned(1.2 / 255)
    labels = predictions(model.network, images)
    result = attack.run(model, images, labels)
    stepped = not torch.equal(attack(model.network, images, labels), images)
    assert stepped and attack.ball.contains(result.images, images).all()
    if not isinstance(attack, (FGSM, DIFGSM, TIFGSM)):  # These return an iterate that nobody has looked at.
        assert not result.attacked.any()
    assert not (predictions(model.network, images) != labels).any()


@pytest.mark.parametrize("norm", list(RADII))
def test_targets_are_reached_and_bad_ones_refused(norm: str) -> None:
    model, images, wide = conv_net(), byte_images(12), type(RADII[norm])(8 * RADII[norm].eps)
    labels = predictions(model, images)
    targets = (labels + 1) % 5
    for attack in (
        PGD(wide, 20), PGD(wide, 20, loss="margin"), PGD(wide, 20, loss="dlr"), MIFGSM(wide), APGDCE(wide, 20),
        APGDDLR(wide, 20), APGDT(wide, 20), BIM(wide),
    ):  # fmt: skip
        adversarial = attack(model, images, labels, targets=targets)
        assert (predictions(model, adversarial) == targets).float().mean() >= 0.75, attack.slug
        with pytest.raises(ArgumentError, match=r"^targets\[3\] is "):
            attack(model, images, labels, targets=torch.where(torch.arange(12) == 3, labels, targets))


@pytest.mark.parametrize("norm", list(RADII))
def test_more_steps_restarts_and_radius_break_more(norm: str) -> None:
    model, images = conv_net(), byte_images(60)
    labels, ball = predictions(model, images), RADII[norm]

    def robust(attack: Attack) -> float:
        return float((predictions(model, attack(model, images, labels)) == labels).float().mean())

    half, twice = type(ball)(ball.eps / 2), type(ball)(ball.eps * 2)
    assert robust(APGDCE(half, 20)) > robust(APGDCE(ball, 20)) > robust(APGDCE(twice, 20))
    assert robust(PGD(ball, 20)) <= robust(PGD(ball, 1))
    assert robust(APGDCE(ball, 20)) <= robust(APGDCE(ball, 2))
    keys = sample_keys(0, "restarts", range(60))
    one = PGD(ball, 3, step_size=ball.eps / 4).run(model, images, labels, keys=keys)
    many = PGD(ball, 3, step_size=ball.eps / 4, restarts=4).run(model, images, labels, keys=keys)
    broken = predictions(model, one.images) != labels
    assert (predictions(model, many.images) != labels)[broken].all()
    assert torch.equal(many.images[broken], one.images[broken])  # Who is broken takes no other start.
    robust_to_both = predictions(model, many.images) == labels
    loss = F.cross_entropy(model(many.images), labels, reduction="none")
    assert (loss - F.cross_entropy(model(one.images), labels, reduction="none") >= -1e-5)[robust_to_both].all()


# --- single parts ----------------------------------------------------------------------------------------------------


def test_eot_averages_the_gradients_of_a_random_model() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.network(x + 0.5 * torch.randn(x.shape))
            return out

    images, labels = byte_images(8), predictions(conv_net(), byte_images(8))
    attack = PGD(Linf(2 / 255), 3, eot=4, random_start=False)
    result = attack.run(Noisy(), images, labels)
    assert attack.draws == 4 and (result.queries % 4 == 0).all() and result.gradient_calls == int(result.queries.sum())


def test_full_runs_make_all_steps_and_keep_an_image_that_reached_the_goal() -> None:
    model, images = conv_net(), byte_images(16)
    labels = predictions(model, images)
    early, full = (PGD(Linf(8 / 255), 10, full=f).run(model, images, labels) for f in (False, True))
    broken = predictions(model, early.images) != labels
    assert broken.any() and (predictions(model, full.images) != labels)[broken].all()
    loss = [F.cross_entropy(model(r.images), labels, reduction="none")[broken].mean() for r in (early, full)]
    assert float(loss[1]) > float(loss[0]) and (full.queries == 12).all()


class Scaled(nn.Module):
    """Logits times a factor: the same decisions, and a cross-entropy without a gradient."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.network, self.factor = conv_net(), factor

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.factor * self.network(x)
        return out


def test_dlr_sees_through_scaled_logits() -> None:
    images, ball = byte_images(60), Linf(4 / 255)
    labels = predictions(conv_net(), images)

    def broken(attack: Attack, factor: float) -> int:
        model = Scaled(factor)
        return int((predictions(model, attack(model, images, labels)) != labels).sum())

    plain, scaled = broken(APGDDLR(ball, 20), 1), broken(APGDDLR(ball, 20), 1e3)
    assert abs(plain - scaled) <= 1
    assert scaled >= broken(PGD(ball, 20), 1e3) and broken(PGD(ball, 20), 1e3) < plain
    assert broken(APGDT(ball, 20), 1e3) >= scaled


@pytest.mark.parametrize("ball", [Linf(4 / 255), Lattice(Linf(4 / 255))], ids=lambda b: b.slug)
def test_apgd_is_the_same_in_one_pass_and_in_torch_operations(ball: Ball) -> None:
    network, images = conv_net(4), byte_images(7, 3)
    model, labels, keys = Tiled(network, 4), predictions(network, images), sample_keys(0, "paths", range(7))
    attack = APGDT(ball, 12, classes=3)
    compiled = attack.run(model, images, labels, keys=keys)
    with dispatch.use_backend("reference"):
        plain = attack.run(model, images, labels, keys=keys)
    assert torch.equal(compiled.queries, plain.queries) and torch.equal(compiled.attacked, plain.attacked)
    # A slope next to 0 may have either sign.
    assert float(((compiled.images - plain.images).abs() > 1e-6).float().mean()) < 0.01
