"""Attacks: names that round-trip, and bad input refused in one line before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.attacks import APGDCE, APGDT, ATTACKS, BIM, DIFGSM, FGSM, MIFGSM, PGD, TIFGSM, Attack, parse_attack
from robustlab.core import L1, L2, ArgumentError, Lattice, Linf, Tiled

EPS = st.one_of(st.integers(0, 300).map(lambda k: k / 255), st.floats(0, 50))
PLAIN = st.one_of(EPS.map(Linf), EPS.map(L2), EPS.map(L1))
BALLS = st.one_of(PLAIN, PLAIN.map(Lattice))
STEPS = st.integers(1, 1000)
STEP_SIZES = st.one_of(st.none(), st.floats(0, 9, exclude_min=True), st.integers(1, 9).map(lambda k: k / 255))
LOSSES = st.sampled_from(["ce", "margin", "dlr"])
SHARES = st.floats(0, 1, exclude_min=True)
ATTACK = st.one_of(
    BALLS.map(FGSM),
    st.builds(PGD, BALLS, STEPS, STEP_SIZES, st.booleans(), LOSSES, eot=st.integers(1, 99), full=st.booleans()),
    st.builds(PGD, BALLS, STEPS, STEP_SIZES, loss=LOSSES, restarts=st.integers(1, 99)),
    st.builds(APGDCE, BALLS, STEPS, st.integers(1, 9), SHARES, st.integers(1, 9)),
    st.builds(APGDT, BALLS, STEPS, st.integers(1, 9), SHARES, st.integers(1, 9), st.integers(1, 99)),
    st.builds(BIM, BALLS, STEPS, STEP_SIZES),
    st.builds(MIFGSM, BALLS, STEPS, STEP_SIZES, st.floats(0, 2)),
    st.builds(DIFGSM, BALLS, STEPS, STEP_SIZES, st.floats(0, 2), SHARES, SHARES),
    st.builds(TIFGSM, BALLS, STEPS, STEP_SIZES, SHARES, SHARES, st.integers(0, 9).map(lambda k: 2 * k + 1), SHARES),
)


@settings(deadline=None)
@given(ATTACK)
def test_slug_round_trip(attack: Attack) -> None:
    assert set(attack.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789.+-")
    assert parse_attack(attack.slug) == attack


def test_slugs() -> None:
    assert FGSM(Linf(2 / 255)).slug == "fgsm-linf-2of255"
    assert PGD(Linf(8 / 255)).slug == "pgd20-linf-8of255"
    assert PGD(Linf(8 / 255), step_size=2 / 255, random_start=False).slug == "pgd20-linf-8of255-step2of255-nostart"
    assert PGD(L2(0.5), steps=7, step_size=1e-05).slug == "pgd7-l2-0.5-step1e-05"
    assert parse_attack("pgd020-linf-8of255") == PGD(Linf(8 / 255))
    names = {"fgsm", "bim", "pgd", "apgdce", "apgddlr", "apgdt", "mifgsm", "difgsm", "tifgsm"}
    assert names <= set(ATTACKS)
    assert APGDT(L2(0.5), classes=3, rho=0.5).slug == "apgdt100-l2-0.5-rho0.5-classes3"
    assert PGD(Lattice(L1(12)), loss="dlr", restarts=5, eot=2, full=True).slug == (
        "pgd20-l1-12-uint8-dlr-restarts5-eot2-full"
    )
    assert TIFGSM(Linf(8 / 255), decay=1, kernel=7).slug == "tifgsm10-linf-8of255-decay1-kernel7"


@pytest.mark.parametrize("slug", [
    "", "pgd", "pgd-linf-8of255", "pgd0-linf-8of255", "pgd20-l7-8of255", "pgd20-linf", "pgd20-linf-8/255",
    "pgd20-linf--1", "pgd20-linf-8of255-step0", "pgd20-linf-8of255-nostart-step1", "fgsm-linf-2of255-nostart",
    "fgsm20-linf-2of255", "fgsm-linf-1.2.3", "fgsm-linf-1.2.3of255", "PGD20-linf-8of255", "pgd20-linf-1e999", 3, None,
])  # fmt: skip
def test_bad_slugs_state_the_grammar(slug: object) -> None:
    with pytest.raises(
        ArgumentError, match=r"attack is .*(pgdSTEPS-BALL\[-stepSIZE\]\[-nostart\]|fgsm|robustlab list)"
    ) as raised:
        parse_attack(slug)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_mistyped_attack_gets_a_suggestion() -> None:
    with pytest.raises(ArgumentError, match=r"did you mean pgdSTEPS-BALL"):
        parse_attack("pdg5-linf-8of255")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"ball": 0.1}, "ball"),
        ({"ball": Linf(0.1), "steps": 0}, "steps"),
        ({"ball": Linf(0.1), "steps": 2.0}, "steps"),
        ({"ball": Linf(0.1), "step_size": 0.0}, "step_size"),
        ({"ball": Linf(0.1), "step_size": math.nan}, "step_size"),
        ({"ball": Linf(0.1), "random_start": 1}, "random_start"),
        ({"ball": Linf(0.1), "loss": "mse"}, "loss"),
        ({"ball": Linf(0.1), "restarts": 0}, "restarts"),
        ({"ball": Linf(0.1), "restarts": 2, "random_start": False}, "restarts"),
        ({"ball": Linf(0.1), "eot": 0}, "eot"),
        ({"ball": Linf(0.1), "full": None}, "full"),
        ({"ball": Linf(math.inf)}, "eps"),
    ],
)
def test_bad_hyper_parameters(arguments: dict[str, object], name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} is"):
        PGD(**arguments)  # type: ignore[arg-type]


def test_the_default_step_is_that_of_the_paper() -> None:
    assert PGD(Linf(0.1), steps=20).schedule.step_size == pytest.approx(2.5 * 0.1 / 20)
    assert PGD(Linf(0.1), step_size=0.3).schedule.step_size == 0.3
    fgsm = FGSM(Linf(0.1)).schedule
    assert (fgsm.steps, fgsm.step_size, fgsm.random_start) == (1, 0.1, False)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


IMAGES, LABELS, KEYS = torch.full((4, 3, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64), torch.arange(4)
BOTH = pytest.mark.parametrize("attack", [FGSM(Linf(0.1)), PGD(L2(0.1), steps=2)], ids=lambda a: a.slug)


@BOTH
@pytest.mark.parametrize(
    ("images", "labels", "keys", "name"),
    [
        (IMAGES * 255, LABELS, KEYS, "images"),
        (IMAGES * math.nan, LABELS, KEYS, "images"),
        (IMAGES[0], LABELS, KEYS, "images"),
        (IMAGES.double(), LABELS, KEYS, "images"),
        (None, LABELS, KEYS, "images"),
        (IMAGES, LABELS[:3], KEYS, "labels"),
        (IMAGES, LABELS.float(), KEYS, "labels"),
        (IMAGES, LABELS - 1, KEYS, "labels"),
        (IMAGES, LABELS + 3, KEYS, "labels"),
        (IMAGES, LABELS, KEYS[:3], "keys"),
        (IMAGES, LABELS, KEYS.float(), "keys"),
        (IMAGES, LABELS, 7, "keys"),
    ],
)
@pytest.mark.parametrize("tiled", [False, True])
def test_bad_data(attack: Attack, images: Tensor, labels: Tensor, keys: Tensor, name: str, tiled: bool) -> None:
    model = Tiled(linear(), 3) if tiled else linear()
    with pytest.raises(ArgumentError, match=f"^{name} is "):
        attack.run(model, images, labels, keys=keys)


class Applies(nn.Module):
    """A linear model followed by something."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network, self.function = linear(), function

    def forward(self, x: Tensor) -> object:
        return self.function(self.network(x))


@BOTH
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y: (y,), "returning tuple"),
        (lambda y: y[:, 0], r"shape \(4,\)"),
        (lambda y: y[:2], r"shape \(2, 3\)"),
        (lambda y: y[:, :1], r"shape \(4, 1\)"),
        (lambda y: y.round().long(), "torch.int64"),
        (lambda y: y.detach(), "no gradient"),
        (lambda y: torch.zeros(len(y), 3, requires_grad=True) * 1, "no gradient"),
    ],
)
def test_bad_models(attack: Attack, function: Callable[[Tensor], object], message: str) -> None:
    model = Applies(function)
    labels = model.network(IMAGES).argmax(dim=1) if message == "no gradient" and attack.slug[0] == "f" else LABELS
    if message == "no gradient":
        model.network[1].weight.data.zero_()
        model.network[1].bias.data.copy_(torch.tensor([1.0, 0.0, 0.0]))
        labels = LABELS
    with pytest.raises(ArgumentError, match=f"^model is .*{message}"):
        attack(model, IMAGES, labels)


@BOTH
def test_other_bad_models(attack: Attack) -> None:
    with pytest.raises(ArgumentError, match="model is 'function'"):
        attack(lambda x: x, IMAGES, LABELS)  # type: ignore[arg-type]
    with torch.inference_mode():
        model = linear()
    with pytest.raises(ArgumentError, match=r"model is .*inference_mode"):
        attack(model, IMAGES, LABELS)


@BOTH
@pytest.mark.parametrize("tiled", [False, True])
def test_an_empty_batch(attack: Attack, tiled: bool) -> None:
    model = Tiled(linear(), 3) if tiled else linear()
    result = attack.run(model, IMAGES[:0], LABELS[:0])
    assert result.images.shape == (0, 3, 2, 2) and result.attacked.shape == (0,) and result.gradient_calls == 0


class Writes(nn.Module):
    """A linear model that changes its input first."""

    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network, self.write = linear(), write

    def forward(self, x: Tensor) -> Tensor:
        self.write(x)
        logits: Tensor = self.network(x)
        return logits


@BOTH
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("write", [lambda x: x.sub_(0.1), lambda x: x[:, 0].mul_(2), lambda x: x.clamp_(0, 1)])
def test_a_model_that_writes_into_its_input_is_refused(
    attack: Attack, write: Callable[[Tensor], object], tiled: bool
) -> None:
    model: nn.Module = Tiled(Writes(write), 3) if tiled else Writes(write)
    images = IMAGES.clone()
    with pytest.raises(ArgumentError, match=r"^model is 'Writes'; allowed: .*unchanged") as raised:
        attack(model, images, LABELS)
    assert "\n" not in str(raised.value)
    assert torch.equal(images, IMAGES)
