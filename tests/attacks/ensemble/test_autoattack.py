"""AutoAttack, and cascades of attacks in general: who gets which samples, and how what they did is added up."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.attacks import (
    APGDCE,
    APGDDLR,
    APGDT,
    FABT,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    Cascade,
    PartResult,
    Square,
    parse_attack,
)
from robustlab.core import L1, L2, Ball, Lattice, Linf, Tiled
from robustlab.core.errors import ArgumentError
from robustlab.core.keys import sample_keys

BALLS: list[Ball] = [Linf(0.008), L2(0.05), L1(0.2), Lattice(Linf(2 / 255))]


@dataclass(frozen=True)
class Short(Cascade):
    """A weak attack and stronger ones."""

    name: ClassVar[str] = "short"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def parts(self, classes: int) -> tuple[Attack, ...]:
        square = Square(self.ball, steps=20)
        return FGSM(self.ball), PGD(self.ball, steps=3), FABT(self.ball, steps=3, classes=2), square


def grey_images(count: int, seed: int = 0) -> Tensor:
    levels = torch.randint(100, 156, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return levels.float() / 255


def conv_net(classes: int = 5, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(32, classes))
    with torch.no_grad():
        net[3].weight *= 20  # type: ignore[operator]
        net[3].bias -= net(grey_images(64, 99)).mean(dim=0)  # type: ignore[operator]
    return net.eval()


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)  # type: ignore[no-any-return]


class Counting(nn.Module):
    """Counts the images that reach the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.asked = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        out: Tensor = self.network(x)
        return out


@pytest.mark.parametrize("ball", BALLS, ids=lambda b: b.slug)
def test_every_part_gets_what_is_left_and_everything_is_added_up(ball: Ball) -> None:
    images = grey_images(24)
    model = conv_net()
    labels = predictions(model, images)
    labels[3] = (labels[3] + 1) % 5  # Wrong already.
    network = Counting(model)
    told: list[PartResult] = []
    found = Short(ball).run_parts(network, images, labels, on_part=told.append)
    assert tuple(told) == found.parts and found.parts[0].attack == FGSM(ball)
    left = torch.tensor([i for i in range(24) if i != 3])
    for index, part in enumerate(found.parts):
        assert torch.equal(part.rows, left)
        assert torch.equal(left[part.broken], torch.nonzero(found.broken_by == index).flatten())
        left = left[~part.broken]
    robust = predictions(model, found.result.images) == labels
    assert torch.equal(torch.nonzero(robust).flatten(), left) and 0 < len(left) < 20
    assert torch.equal(found.result.images[robust], images[robust])
    assert ball.contains(found.result.images, images).all() and found.result.attacked.all()
    assert torch.equal(found.result.images[3], images[3]) and int(found.broken_by[3]) == -1
    assert int(found.result.queries.sum()) == network.asked and int(found.result.queries[3]) == 1
    assert int(found.result.queries.sum()) == 24 + sum(int(part.queries.sum()) for part in found.parts)
    assert found.result.gradient_calls == sum(part.gradient_calls for part in found.parts) > 0
    again = Short(ball).run(model, images, labels)
    assert torch.equal(again.images, found.result.images) and torch.equal(again.queries, found.result.queries)


@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_a_sample_does_not_depend_on_its_companions(data: st.DataObject) -> None:
    model, images = Tiled(conv_net(), 4), grey_images(9)
    labels, keys = predictions(model, images), sample_keys(3, "test", range(9))
    attack = Short(Linf(0.02))
    whole = attack.run(model, images, labels, keys=keys)
    chosen = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True))
    part = attack.run(model, images[chosen], labels[chosen], keys=keys[chosen])
    assert torch.equal(part.images, whole.images[chosen]) and torch.equal(part.queries, whole.queries[chosen])


class BreaksDown(nn.Module):
    """Not finite while it is differentiated, as a surrogate may be; its answers stay finite."""

    def __init__(self) -> None:
        super().__init__()
        self.network = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits * torch.nan if x.requires_grad else logits


def test_a_part_that_breaks_down_counts_unless_another_succeeds() -> None:
    images = grey_images(16)
    labels = predictions(conv_net(), images)
    found = Short(Linf(0.03)).run_parts(BreaksDown(), images, labels)
    broken = found.broken_by >= 0
    assert 0 < int(broken.sum()) < 16
    assert {found.parts[int(i)].attack.name for i in found.broken_by[broken]} == {"square"}
    assert torch.equal(found.result.attacked, broken)
    assert torch.equal(predictions(conv_net(), found.result.images) != labels, broken)


def test_nothing_left_ends_the_cascade() -> None:
    images = grey_images(4)
    labels = (predictions(conv_net(), images) + 1) % 5
    found = Short(Linf(0.03)).run_parts(conv_net(), images, labels)
    assert found.parts == () and (found.broken_by == -1).all() and (found.result.queries == 1).all()
    assert Short(Linf(0.03)).run_parts(conv_net(), images[:0], labels[:0]).broken_by.shape == (0,)


def test_radius_0_is_the_identity() -> None:
    images = grey_images(4)
    assert torch.equal(Short(Linf(0.0))(conv_net(), images, predictions(conv_net(), images)), images)


# --- AutoAttack ------------------------------------------------------------------------------------------------------


def test_the_parts_are_those_of_the_paper() -> None:
    ball = Linf(8 / 255)
    ce, targeted, fab, square = AutoAttack(ball).parts(10)
    assert ce == APGDCE(ball, steps=100, restarts=1, rho=0.75, eot=1)
    assert targeted == APGDT(ball, steps=100, restarts=1, rho=0.75, eot=1, classes=9)
    assert fab == FABT(ball, steps=100, classes=9, alpha_max=0.1, eta=1.05, beta=0.9)
    assert square == Square(ball, steps=5000, fraction=0.8)
    ce, dlr = AutoAttack(ball, "rand").parts(10)
    assert (ce, dlr) == (APGDCE(ball, steps=100, eot=20), APGDDLR(ball, steps=100, eot=20))


@pytest.mark.parametrize(("variant", "classes", "missing"), [("standard", 3, "apgdt"), ("rand", 2, "apgddlr")])
def test_few_classes_leave_out_what_needs_more(
    variant: str, classes: int, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    attack = AutoAttack(Linf(0.1), variant)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        names = [part.name for part in attack.parts(classes)]
    assert missing not in names and missing in caplog.text and "is left out" in caplog.text
    assert missing in [part.name for part in attack.parts(classes + 1)]


class Direction(nn.Module):
    """Four classes over four independent directions: whether a sample can be broken in l_inf is a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 48, generator=torch.Generator().manual_seed(5)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1) - 0.5, self.weight)

    def radius(self, images: Tensor) -> Tensor:
        """The distance to the nearest boundary in l_inf: margin over the l1-norm of the difference of weights."""
        logits = self(images).detach()
        label = logits.argmax(dim=1)
        gaps = logits.gather(1, label[:, None]) - logits
        norms = (self.weight[label][:, None] - self.weight).abs().sum(dim=2).detach()
        return (gaps / norms).scatter(1, label[:, None], torch.inf).amin(dim=1)


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_a_linear_model_is_broken_exactly_when_the_boundary_is_in_the_ball(share: float) -> None:
    model = Direction()
    image = grey_images(1)
    attack = PatientAutoAttack(Linf(float(model.radius(image)) * share))
    found = attack.run_parts(model, image, predictions(model, image))
    assert bool(found.broken_by[0] >= 0) == (share > 1)
    assert share > 1 or len(found.parts) == 4


@dataclass(frozen=True)
class PatientAutoAttack(AutoAttack):
    """AutoAttack with fewer queries, for the time of the tests."""

    def parts(self, classes: int) -> tuple[Attack, ...]:
        *first, _ = super().parts(classes)
        return (*first, Square(self.ball, steps=100))


@pytest.mark.parametrize("attack", [AutoAttack(Linf(8 / 255)), AutoAttack(L2(0.5), "rand"), AutoAttack(L1(12.0))])
def test_slugs_say_everything(attack: AutoAttack) -> None:
    assert parse_attack(attack.slug) == attack
    assert attack.slug.endswith("-rand") == (attack.variant == "rand")


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"^variant is 'plus'; allowed: standard, rand"):
        AutoAttack(Linf(0.1), "plus")  # type: ignore[arg-type]
    images = grey_images(1)
    zero = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ArgumentError, match="AutoAttack has no targeted version"):
        AutoAttack(Linf(0.1)).run(conv_net(), images, zero, targets=zero + 1)


def test_what_a_gradient_reaches_is_broken_by_the_first_attack() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(4, 48, generator=generator))  # type: ignore[operator]
        net[1].bias.zero_()  # type: ignore[operator]
    images = 0.4 + 0.2 * torch.rand(6, 3, 4, 4, generator=generator)
    labels = net(images).argmax(dim=1)
    result = AutoAttack(Linf(0.2)).run(net, images, labels)
    assert bool((net(result.images).argmax(dim=1) != labels).all())
    assert int(result.queries.max()) < 20  # Without gradients only Square is left, after a thousand queries.
