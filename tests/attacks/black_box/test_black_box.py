"""Square, NES, SPSA and HopSkipJump: optima of linear models, and what holds for every attack and model."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.attacks import NES, SPSA, Attack, HopSkipJump, Square, parse_attack
from robustlab.core import L1, L2, Ball, Lattice, Linf, Tiled
from robustlab.core.errors import ArgumentError
from robustlab.core.keys import sample_keys

ATTACKS: list[Attack] = [
    Square(Linf(8 / 255), steps=20),
    Square(L2(0.4), steps=20),
    Square(L1(3.0), steps=20),
    Square(Lattice(Linf(2 / 255)), steps=20),
    Square(Lattice(L2(0.5)), steps=20),
    NES(Linf(8 / 255), steps=4, samples=8),
    NES(L2(0.4), steps=4, samples=8),
    SPSA(Linf(8 / 255), steps=4, samples=8),
    SPSA(Lattice(Linf(8 / 255)), steps=4, samples=8),
    HopSkipJump(Linf(0.1), steps=150),
    HopSkipJump(L2(0.5), steps=150),
    HopSkipJump(L2(math.inf), steps=150),
    HopSkipJump(Lattice(L2(0.5)), steps=150),
]
each = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.slug)
some = st.sampled_from(ATTACKS)


class Linear(nn.Module):
    """logits = images @ weight.T + bias."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)


def linear_model(seed: int, size: int = 4) -> Linear:
    """Two classes, with the boundary near the grey image."""
    weight = torch.randn(2, 3 * size * size, generator=torch.Generator().manual_seed(seed))
    return Linear(weight, -0.5 * weight.sum(dim=1))


def grey_images(count: int, seed: int = 0, size: int = 4) -> Tensor:
    """8-bit images far from the bounds of the box."""
    levels = torch.randint(100, 156, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return levels.float() / 255


def conv_net(seed: int = 0) -> nn.Module:
    """Five classes, sensitive to its input."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(32, 5))
    with torch.no_grad():
        net[3].weight *= 20  # type: ignore[operator]
        net[3].bias -= net(grey_images(64, 99)).mean(dim=0)  # type: ignore[operator]
    return net.eval()


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)  # type: ignore[no-any-return]


class Counting(nn.Module):
    """Counts the images that reach the network, and sees whether one could be differentiated."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.asked, self.graphs = network, 0, 0
        self.outside = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        self.graphs += x.requires_grad or torch.is_grad_enabled()
        self.outside += int(((x < 0) | (x > 1)).sum())
        out: Tensor = self.network(x)
        return out


class OneHot(nn.Module):
    """Nothing but the label."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(self.network(x).argmax(dim=1), 5).float()


# --- closed forms ----------------------------------------------------------------------------------------------------


class NeverBroken(nn.Module):
    """A linear margin that stays just below 0, so that a search goes on to its last query."""

    def __init__(self, direction: Tensor, limit: float) -> None:
        super().__init__()
        self.direction, self.limit = nn.Parameter(direction), limit

    def forward(self, x: Tensor) -> Tensor:
        rise = F.linear(x.flatten(1) - 0.5, self.direction[None])
        return torch.cat([torch.full_like(rise, self.limit), rise], dim=1)


def climbed(attack: Attack, direction: Tensor, most: float) -> Tensor:
    """The share of the largest possible rise, `most`, along `direction`, for each of four images."""
    size = math.isqrt(len(direction) // 3)
    images = grey_images(4, size=size)
    limit = float(((images.flatten(1) - 0.5) @ direction).max()) + most + 1.0
    found = attack(NeverBroken(direction, limit), images, torch.zeros(4, dtype=torch.int64))
    return (found - images).flatten(1) @ direction / most


@pytest.mark.parametrize("attack", [Square(Linf(0.1), steps=800), SPSA(Linf(0.1), steps=40), NES(Linf(0.1), steps=40)])
def test_the_linf_optimum_is_the_corner_of_the_gradient(attack: Attack) -> None:
    direction = torch.randn(48, generator=torch.Generator().manual_seed(1))
    share = climbed(attack, direction, 0.1 * float(direction.abs().sum()))
    assert (share > (0.999 if isinstance(attack, Square) else 0.9)).all() and (share < 1.0001).all(), share


def test_nes_reaches_the_l2_optimum() -> None:
    direction = torch.randn(48, generator=torch.Generator().manual_seed(1))
    share = climbed(NES(L2(0.5), steps=40), direction, 0.5 * float(direction.norm()))
    assert (share > 0.95).all() and (share < 1.0001).all(), share


def test_square_gathers_an_l2_perturbation_where_it_counts() -> None:
    """A gradient in one corner: perturbation that starts all over the image moves there, at the edge of the ball."""
    direction = torch.zeros(3, 15, 15)
    direction[:, 9:14, 2:7] = torch.tensor([1.0, -1.0, 1.0]).reshape(3, 1, 1)
    most = 0.5 * float(direction.norm())
    few, many = (climbed(Square(L2(0.5), steps=n), direction.flatten(), most) for n in (1, 200))
    assert (few < 0.1).all() and (many > 0.15).all() and (many < 1.0001).all(), (few, many)


@pytest.mark.parametrize(("ball", "allowed"), [(L2(math.inf), 1.02), (Linf(math.inf), 1.05)])
def test_hopskipjump_comes_near_the_projection(ball: Ball, allowed: float) -> None:
    model, images = linear_model(3), grey_images(8)
    labels = predictions(model, images)
    weight = (model.weight[0] - model.weight[1]).detach()
    gap = (model(images)[:, 0] - model(images)[:, 1]).abs().detach()
    nearest = gap / (weight.norm() if ball.norm_name == "l2" else weight.abs().sum())
    found = HopSkipJump(ball, steps=5000).run(model, images, labels).images
    assert (predictions(model, found) != labels).all()
    ratio = ball.distance(found, images) / nearest
    assert (ratio >= 1 - 1e-5).all() and ratio.max() <= allowed


@pytest.mark.parametrize("share", [0.9, 1.2])
def test_hopskipjump_keeps_to_a_radius(share: float) -> None:
    model, images = linear_model(3), grey_images(2)
    labels = predictions(model, images)
    weight = (model.weight[0] - model.weight[1]).detach()
    nearest = (model(images)[:, 0] - model(images)[:, 1]).abs().detach() / weight.norm()
    for i in range(2):
        ball = L2(float(nearest[i]) * share)
        result = HopSkipJump(ball, steps=1500).run(model, images[[i]], labels[[i]])
        broken = predictions(model, result.images) != labels[[i]]
        assert bool(broken) == (share > 1) and bool(ball.contains(result.images, images[[i]]))
        if share < 1:
            assert torch.equal(result.images, images[[i]]) and int(result.queries) == 1501
        else:
            assert int(result.queries) < 1501


def test_hopskipjump_finds_a_start_where_noise_has_the_label() -> None:
    """The class of everything but dark images: uniform noise is never dark, blocks of noise are at times."""
    weight = torch.stack([torch.ones(48), torch.zeros(48)])
    model = Linear(weight, torch.tensor([0.0, 12.0]))
    images = torch.full((3, 3, 4, 4), 0.5)
    result = HopSkipJump(L2(math.inf), steps=1000).run(model, images, torch.zeros(3, dtype=torch.int64))
    assert (predictions(model, result.images) == 1).all()


@settings(deadline=None, max_examples=10)
@given(steps=st.integers(1, 20_000), size=st.integers(3, 64), fraction=st.floats(0.01, 1.0))
def test_sides_of_squares_fall_as_published(steps: int, size: int, fraction: float) -> None:
    sides = Square(Linf(0.1), steps=steps, fraction=fraction).sides((3, size, size))
    assert len(sides) == steps and sides == sorted(sides, reverse=True)
    assert sides[0] == round(math.sqrt(fraction) * size)
    if steps >= 10_000:
        assert sides[-1] == round(math.sqrt(fraction / 512) * size)


# --- properties ------------------------------------------------------------------------------------------------------


@each
def test_in_the_threat_model_and_counted(attack: Attack) -> None:
    images = grey_images(7)
    images[0] = 0.0
    network = Counting(conv_net())
    labels = predictions(conv_net(), images)
    labels[1] = (labels[1] + 1) % 5  # Wrong already.
    result = attack.run(network, images, labels)
    assert attack.ball.contains(result.images, images).all() and result.attacked.all()
    assert int(result.queries.sum()) == network.asked and int(result.queries[1]) == 1
    assert torch.equal(result.images[1], images[1])
    assert result.gradient_calls == 0 and network.graphs == 0 and network.outside == 0 and not attack.needs_gradient
    steps = attack.steps  # type: ignore[attr-defined]
    most = 1 + steps * (attack.samples + 1 if isinstance(attack, (NES, SPSA)) else 1)
    assert int(result.queries.max()) <= most
    robust = predictions(conv_net(), result.images) == labels
    if not isinstance(attack, HopSkipJump):
        assert (result.queries[robust] == most).all()
    assert int((~robust).sum()) >= 2


@settings(deadline=None, max_examples=12)
@given(attack=some, data=st.data())
def test_a_sample_does_not_depend_on_its_companions(attack: Attack, data: st.DataObject) -> None:
    model, images = Tiled(conv_net(), 4), grey_images(11)
    labels, keys = predictions(model, images), sample_keys(3, "test", range(11))
    labels[::5] = (labels[::5] + 1) % 5
    whole = attack.run(model, images, labels, keys=keys)
    chosen = data.draw(st.lists(st.integers(0, 10), min_size=1, max_size=11, unique=True))
    part = attack.run(model, images[chosen], labels[chosen], keys=keys[chosen])
    assert torch.equal(part.images, whole.images[chosen])
    assert torch.equal(part.queries, whole.queries[chosen])


@each
def test_nothing_moves_in_a_ball_of_radius_0(attack: Attack) -> None:
    if not attack.ball.eps < math.inf:
        return
    plain = {"linf": Linf, "l2": L2, "l1": L1}[attack.ball.norm_name](0.0)
    ball = Lattice(plain) if isinstance(attack.ball, Lattice) else plain
    images = grey_images(3)
    still = type(attack)(ball, steps=3)  # type: ignore[call-arg]
    assert torch.equal(still(conv_net(), images, predictions(conv_net(), images)), images)


class NanAfter(nn.Module):
    """Breaks down on image 0, known by its corner, at a later call."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.network, self.calls = conv_net(), calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= 1
        logits: Tensor = self.network(x)
        return logits * torch.nan if self.calls < 0 else logits


@each
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_model_that_breaks_down_was_not_attacked(attack: Attack, calls: int) -> None:
    images = grey_images(4)
    labels = predictions(conv_net(), images)
    result = attack.run(NanAfter(calls), images, labels)
    assert attack.ball.contains(result.images, images).all()
    broken = predictions(conv_net(), result.images) != labels
    assert not (broken & ~result.attacked).any()
    assert not result.attacked.any() or calls > 0
    assert (~result.attacked | broken).all()


@pytest.mark.parametrize("ball", [Linf(0.15), L2(1.0), Lattice(Linf(40 / 255))])
def test_hopskipjump_needs_only_labels(ball: Ball) -> None:
    images = grey_images(6)
    labels = predictions(conv_net(), images)
    attack = HopSkipJump(ball, steps=600)
    scores = attack.run(conv_net(), images, labels)
    alone = attack.run(OneHot(conv_net()), images, labels)
    assert torch.equal(alone.images, scores.images) and torch.equal(alone.queries, scores.queries)
    assert (predictions(conv_net(), alone.images) != labels).sum() >= 3


@pytest.mark.parametrize("attack", [Square(Linf(0.2), steps=200), SPSA(Linf(0.2), steps=20), NES(Linf(0.2), steps=20)])
def test_targets_are_reached(attack: Attack) -> None:
    images = grey_images(6)
    labels = predictions(conv_net(), images)
    targets = (labels + 1) % 5
    found = attack(conv_net(), images, labels, targets=targets)
    assert (predictions(conv_net(), found) == targets).sum() >= 4


@each
def test_slugs_say_everything(attack: Attack) -> None:
    assert parse_attack(attack.slug) == attack


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Square(Linf(0.1), steps=0), "steps"),
        (lambda: Square(Linf(0.1), fraction=0.0), "fraction"),
        (lambda: Square(Linf(math.inf)), "eps"),
        (lambda: NES(Linf(0.1), samples=7), "samples"),
        (lambda: SPSA(Linf(0.1), probe=0.0), "probe"),
        (lambda: SPSA(Linf(0.1), step_size=-1.0), "step_size"),
        (lambda: HopSkipJump(L2(0.1), steps=-5), "steps"),
    ],
)
def test_bad_arguments_are_named(make, named: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ArgumentError, match=f"^{named} is"):
        make()


def test_hopskipjump_has_no_targets() -> None:
    images = grey_images(1)
    with pytest.raises(ArgumentError, match="HopSkipJump has no targeted version"):
        HopSkipJump(L2(1.0)).run(
            conv_net(), images, torch.zeros(1, dtype=torch.int64), targets=torch.ones(1, dtype=torch.int64)
        )
