"""What every minimum-norm attack keeps, whatever the model does: ball, box, finite radius, batch, order, NaN."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import CW, DDN, FABT, FMN, DeepFool, MinimumNorm, parse_attack
from robustlab.core import L0, L1, L2, ArgumentError, Lattice, Linf, Tiled
from robustlab.core.keys import sample_keys
from robustlab.core.lattice import on_lattice

FREE = math.inf
ATTACKS: list[MinimumNorm] = [
    DDN(steps=12),
    DDN(steps=12, levels=256),
    FMN(L0(FREE), steps=12),
    FMN(L1(FREE), steps=12),
    FMN(steps=12),
    FMN(Linf(FREE), steps=12),
    FABT(Linf(FREE), steps=4, classes=2),
    FABT(steps=4, classes=2),
    FABT(L1(FREE), steps=4, classes=2),
    CW(steps=15, searches=3, step_size=0.05, constant=1.0),
    DeepFool(steps=8),
    DeepFool(Linf(FREE), steps=8),
]
ids = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.slug)


def random_images(count: int, seed: int = 0, size: int = 8) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed)).float() / 255


def conv_net(seed: int = 0) -> nn.Module:
    """A small smooth network whose decisions are neither constant nor robust."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.Tanh(), nn.Conv2d(8, 12, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(192, 5)
        )
    with torch.no_grad():
        net[5].weight *= 6  # type: ignore[operator]
        net[5].bias -= net(random_images(64, 99)).mean(dim=0)  # type: ignore[operator]
    return net.eval()


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)  # type: ignore[no-any-return]


@ids
def test_what_changed_is_adversarial_and_in_the_box(attack: MinimumNorm) -> None:
    model, images = Tiled(conv_net(), 4), random_images(9)
    labels = predictions(model, images)
    labels[0] = (labels[0] + 1) % 5  # Wrong already.
    result = attack.run(model, images, labels)
    changed = (result.images != images).flatten(1).any(dim=1)
    assert torch.equal(changed, predictions(model, result.images) != predictions(model, images))
    assert not changed[0] and changed[1:].float().mean() > 0.8 and result.attacked.all()
    assert attack.ball.contains(result.images, images).all()
    assert int(result.queries[0]) == 1 and (result.queries[1:] > 2).all()
    if isinstance(attack, DDN) and attack.levels:
        assert on_lattice(result.images).all()


@ids
def test_a_radius_decides_what_counts_and_changes_nothing_else(attack: MinimumNorm) -> None:
    model, images = Tiled(conv_net(), 4), random_images(9)
    labels = predictions(model, images)
    free = attack.run(model, images, labels)
    distance = attack.ball.distance(free.images, images)
    eps = float(distance[distance > 0].median())
    near = replace(attack, ball=replace(attack.ball, eps=eps))
    assert parse_attack(near.slug) == near
    result = near.run(model, images, labels)
    inside = (distance <= eps) & (distance > 0)
    changed = (result.images != images).flatten(1).any(dim=1)
    assert torch.equal(changed, predictions(model, result.images) != labels)
    assert near.ball.contains(result.images, images).all() and (changed | ~inside).all() and changed.any()
    if isinstance(attack, FABT):  # It stops at the first image inside.
        assert (result.queries[changed] <= free.queries[changed]).all()
        assert result.queries[changed].sum() < free.queries[changed].sum()
    else:
        expected = torch.where(inside[:, None, None, None], free.images, images)
        assert torch.equal(result.images, expected) and torch.equal(result.queries, free.queries)
    zero = replace(attack, ball=replace(attack.ball, eps=0.0))
    assert torch.equal(zero(model, images, labels), images)


@ids
def test_batch_and_order_do_not_matter(attack: MinimumNorm) -> None:
    model, images = Tiled(conv_net(), 4), random_images(7)
    labels, keys = predictions(model, images), sample_keys(3, "test", range(7))
    whole = attack.run(model, images, labels, keys=keys)
    order = torch.tensor([5, 2, 6, 0])
    part = attack.run(model, images[order], labels[order], keys=keys[order])
    assert torch.equal(part.images, whole.images[order]) and torch.equal(part.queries, whole.queries[order])


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.targetable], ids=lambda a: a.slug)
def test_targets_are_reached(attack: MinimumNorm) -> None:
    model, images = Tiled(conv_net(), 4), random_images(6)
    labels = predictions(model, images)
    targets = (labels + 1) % 5
    result = replace(attack, steps=40)(model, images, labels, targets=targets)
    changed = (result != images).flatten(1).any(dim=1)
    assert changed.float().mean() > 0.8
    assert torch.equal(changed, predictions(model, result) == targets)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if not a.targetable], ids=lambda a: a.slug)
def test_targets_are_refused(attack: MinimumNorm) -> None:
    with pytest.raises(ArgumentError, match="targets is"):
        attack(
            conv_net(), random_images(1), torch.zeros(1, dtype=torch.int64), targets=torch.ones(1, dtype=torch.int64)
        )


@ids
def test_eight_bit_images(attack: MinimumNorm) -> None:
    model, images = Tiled(conv_net(), 4), random_images(5)
    labels = predictions(model, images)
    exact = replace(attack, ball=Lattice(attack.ball))
    assert parse_attack(exact.slug) == exact
    result = exact(model, images, labels)
    assert on_lattice(result).all()
    changed = (result != images).flatten(1).any(dim=1)
    assert changed.any() and torch.equal(changed, predictions(model, result) != labels)


@pytest.mark.parametrize("attack", [FMN(Linf(FREE), steps=30), FABT(Linf(FREE), steps=10)], ids=lambda a: a.slug)
def test_the_last_level_of_a_radius_counts(attack: MinimumNorm) -> None:
    """float32 k / 255 and (k + 3) / 255 may differ by a little more than 3 / 255."""
    model, images = Tiled(conv_net(), 4), random_images(12)
    labels = predictions(model, images)
    free = replace(attack, ball=Lattice(attack.ball))(model, images, labels)
    levels = ((free - images) * 255).abs().amax(dim=(1, 2, 3)).round()
    level = int(levels.median())
    result = replace(attack, ball=Lattice(Linf(level / 255)))(model, images, labels)
    changed = (result != images).flatten(1).any(dim=1)
    assert (changed | (levels > level)).all() and Lattice(Linf(level / 255)).contains(result, images).all()
    assert torch.equal(changed, predictions(model, result) != labels)


class Poisoned(nn.Module):
    """A network that is not finite away from the images it was given, or whose gradient is finite nowhere."""

    def __init__(self, images: Tensor, where: str) -> None:
        super().__init__()
        self.network, self.images, self.where = conv_net(), images, where

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        moved = torch.stack([(x.detach() - image).abs().amax(dim=(1, 2, 3)) for image in self.images]).amin(dim=0)
        if self.where == "logits":
            return torch.where((moved > 1e-6)[:, None], torch.full_like(logits, math.nan), logits)
        return logits + (x[:, :1, 0, 0] * 0).sqrt() * 0  # 0, whose gradient is inf * 0.


@ids
@pytest.mark.parametrize("where", ["logits", "gradient"])
def test_not_finite_is_never_a_success(attack: MinimumNorm, where: str) -> None:
    images = random_images(4).clamp(0.1, 0.9)
    model = Poisoned(images, where)
    labels = predictions(model, images)
    result = attack.run(model, images, labels)
    assert torch.equal(result.images, images) and not result.attacked.any()


@ids
def test_a_masked_model_is_reported(attack: MinimumNorm, caplog: pytest.LogCaptureFixture) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network((x * 255).round() / 255)
            return logits

    model, images = Rounded(), random_images(3)
    result = attack(model, images, predictions(model, images))
    assert "the first gradient is zero for all 3 samples" in caplog.text
    assert ((result >= 0) & (result <= 1)).all()


def test_ddn_without_a_gradient_walks_at_random() -> None:
    class Signs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.5).sign().mean(dim=(2, 3))

    images = random_images(6)
    labels = predictions(Signs(), images)
    result = DDN(steps=60)(Signs(), images, labels)
    assert (predictions(Signs(), result) != labels).any()


@ids
def test_a_model_without_gradient_is_refused(attack: MinimumNorm) -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)[:, :5]

    images = random_images(2)
    with pytest.raises(ArgumentError, match=r"^model is .*no gradient"):
        attack(Detached(), images, predictions(Detached(), images))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: DDN(Linf(0.1)), "norm of the ball"),
        (lambda: DDN(steps=0), "steps"),
        (lambda: DDN(gamma=1.0), "gamma"),
        (lambda: DDN(init_eps=0.0), "init_eps"),
        (lambda: DDN(levels=1), "levels"),
        (lambda: FMN(gamma=0.0), "gamma"),
        (lambda: FMN(step_size=math.nan), "step_size"),
        (lambda: FABT(L0(3)), "norm of the ball"),
        (lambda: FABT(classes=0), "classes"),
        (lambda: FABT(alpha_max=1.5), "alpha_max"),
        (lambda: FABT(eta=0.9), "eta"),
        (lambda: FABT(beta=1.0), "beta"),
        (lambda: CW(Linf(0.1)), "norm of the ball"),
        (lambda: CW(searches=0), "searches"),
        (lambda: CW(constant=0.0), "constant"),
        (lambda: CW(confidence=-1.0), "confidence"),
        (lambda: DeepFool(L1(1.0)), "norm of the ball"),
        (lambda: DeepFool(candidates=1), "candidates"),
        (lambda: DeepFool(overshoot=-0.1), "overshoot"),
        (lambda: L0(1.5), "eps"),
    ],
)
def test_bad_hyper_parameters(make: object, name: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} is"):
        make()  # type: ignore[operator]


def test_slugs() -> None:
    assert DDN(L2(0.5)).slug == "ddn100-l2-0.5"
    assert DDN(steps=300, levels=256, gamma=0.1).slug == "ddn300-l2-gamma0.1-levels256"
    assert FMN(L0(24)).slug == "fmn100-l0-24"
    assert FABT(Linf(2 / 255)).slug == "fabt100-linf-2of255"
    assert CW(searches=5, confidence=1.5).slug == "cw1000-l2-searches5-conf1.5"
    assert DeepFool(Linf(8 / 255), candidates=5).slug == "deepfool50-linf-8of255-top5"
    for attack in (
        DDN(steps=3, init_eps=0.3),
        FMN(step_size=2.0),
        FABT(classes=3, eta=1.2, beta=0.5),
        CW(step_size=0.1),
    ):
        assert parse_attack(attack.slug) == attack
