"""8-bit attacks: every bounded attack, a whole ball enumerated, and PNG files through a deployed model."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from robustlab.attacks import APGDCE, PGD, Attack, Square
from robustlab.attacks.registry import _CLASSES
from robustlab.core import L1, L2, ArgumentError, Ball, Lattice, Linf, Tiled
from robustlab.core.keys import sample_keys
from robustlab.core.lattice import on_lattice
from robustlab.datasets import load_dataset
from robustlab.deploy import load

RADII: dict[str, Ball] = {"linf": Linf(6 / 255), "l2": L2(0.6), "l1": L1(5.0)}
BOUNDED = [(attack, norm) for attack in _CLASSES for norm in attack.norms if norm in RADII and attack.bounded]


def few_steps(attack: type[Attack], ball: Ball) -> Attack:
    return attack(ball, steps=6) if "steps" in attack.__dataclass_fields__ else attack(ball)  # type: ignore[call-arg]


@pytest.mark.parametrize(("attack", "norm"), BOUNDED, ids=lambda v: v if isinstance(v, str) else v.name)
def test_every_bounded_attack_returns_8_bit_images_of_the_ball(attack: type[Attack], norm: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(75, 6))
    images = torch.randint(0, 256, (4, 3, 5, 5)).float() / 255
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    ball = Lattice(RADII[norm])
    result = few_steps(attack, ball).run(model, images, labels)
    assert ball.contains(result.images, images).all() and on_lattice(result.images).all() and result.attacked.all()
    assert not torch.equal(result.images, images)
    with pytest.raises(ArgumentError, match=r"^images\[0\] is .*8-bit"):
        few_steps(attack, ball)(model, images * 0.999, labels)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.where(x > 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient  # Straight through, at any distance: a gradient that never vanishes.


class TinyBinary(nn.Module):
    """Levels 0..255 of a few pixels in, signs of whole sums, four classes out: every value is a whole number."""

    def __init__(self, seed: int, pixels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.randint(0, 2, (8, pixels), generator=generator).float() * 2 - 1
        self.second = torch.randint(0, 2, (4, 8), generator=generator).float() * 2 - 1
        self.offset = torch.randint(-3, 4, (8,), generator=generator) + 0.5  # No sum is on a threshold.

    def forward(self, x: Tensor) -> Tensor:
        levels = x.flatten(1) * 255 - 128
        return F.linear(_Sign.apply(F.linear(levels, self.first, self.offset)), self.second)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("radius", "pixels"), [(1, 4), (2, 3)])
def test_an_adversarial_of_the_whole_integer_ball_is_found_exactly_when_there_is_one(radius: int, pixels: int) -> None:
    """All points of 40 balls, 3^4 or 5^3 each, are judged: PGD with enough starts misses none, and invents none."""
    steps = torch.tensor(list(itertools.product(range(-radius, radius + 1), repeat=pixels)))
    ball = Lattice(Linf(radius / 255))
    attack = PGD(ball, steps=4, restarts=200, loss="margin", step_size=0.7 * radius / 255)
    model = TinyBinary(0, pixels)
    levels = 128 + torch.randint(-16, 17, (40, pixels), generator=torch.Generator().manual_seed(0))
    images = levels.float().reshape(40, 1, 1, pixels) / 255
    labels = model(images).argmax(dim=1)
    around = (levels[:, None] + steps).float() / 255
    wrong = model(around.reshape(-1, 1, 1, pixels)).argmax(dim=1).reshape(40, -1) != labels[:, None]
    for weaker in (APGDCE(ball, steps=10), Square(ball, steps=50), attack):
        result = weaker.run(model, images, labels, keys=sample_keys(0, "ball", range(40)))
        claimed = model(result.images).argmax(dim=1) != labels
        place = (around == result.images.flatten(1)[:, None]).all(dim=2)  # Which point of the ball it is.
        assert (place.sum(dim=1) == 1).all() and torch.equal(wrong[place], claimed)
    assert torch.equal(claimed, wrong.any(dim=1))
    assert 5 <= int(claimed.sum()) <= 35


def through_png(images: Tensor) -> Tensor:
    decoded = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(file, "PNG")
        decoded.append(np.asarray(Image.open(io.BytesIO(file.getvalue()))))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("ball", [Lattice(Linf(4 / 255)), Lattice(L2(0.5)), Lattice(L1(6.0))], ids=lambda b: b.slug)
def test_successes_survive_a_png_file_and_the_deployed_model(ball: Lattice) -> None:
    model = Tiled(load("robustlab:signs_w8a8").eval(), 8)
    images, labels = load_dataset("signs", split="test").batch(range(8))
    result = PGD(ball, steps=4).run(model, images, labels)
    decoded = through_png(result.images)
    assert torch.equal(decoded, result.images) and ball.contains(decoded, images).all()
    assert torch.equal(model(decoded), model(result.images))
    assert (model(decoded).argmax(dim=1) != labels).sum() > (model(images).argmax(dim=1) != labels).sum()
