"""Attacks of torchattacks on models of ours: the same result as without us, on deployed models too, and held to it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.attacks import TorchAttack, parse_attack
from robustlab.core import L2, ArgumentError, Linf, RobustlabError, Tiled
from robustlab.core.keys import sample_keys
from robustlab.evaluate.conditions import KEY_PATTERN, parse_condition

torchattacks = pytest.importorskip("torchattacks", reason="torchattacks (the extra reference) is not installed")


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
        with torch.no_grad():
            net[3].weight *= 12  # type: ignore[operator]
    return net.eval()


def batch(model: nn.Module, count: int = 12) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return images, model(images).argmax(dim=1)


@pytest.mark.parametrize(
    "spec", ["PGD(eps=8/255, steps=5, random_start=False)", "MIFGSM(eps=2/255, steps=4)", "CW(steps=20)"]
)
def test_it_returns_what_torchattacks_returns(spec: str) -> None:
    model = network()
    images, labels = batch(model)
    attack = parse_attack(f"torchattacks:{spec}")
    assert isinstance(attack, TorchAttack)
    result = attack.run(model, images, labels)
    direct = getattr(torchattacks, attack.attack)(model, **attack.arguments)(images, labels)
    torch.testing.assert_close(result.images, direct, rtol=0, atol=1e-6)
    assert result.attacked.all()
    assert result.gradient_calls > 0
    assert (result.queries > 0).all()


def test_the_threat_model_is_read_from_the_arguments() -> None:
    assert TorchAttack("PGD", {"eps": 8 / 255}).ball == Linf(8 / 255)
    assert TorchAttack("PGDL2", {"eps": 0.5}).ball == L2(0.5)
    assert TorchAttack("Square", {"norm": "L2", "eps": 0.5}).ball == L2(0.5)
    assert TorchAttack("CW").ball == L2(math.inf)
    attack = parse_attack("torchattacks:PGD(eps=8/255, steps=10)")
    assert attack == TorchAttack("PGD", {"steps": 10, "eps": 8 / 255})
    assert attack.slug == "torchattacks-pgd-linf-8of255-steps10"
    slugs = {TorchAttack("APGD", {"loss": loss}).slug for loss in ("ce", "dlr")}
    assert len(slugs) == 2
    assert all(KEY_PATTERN.fullmatch(slug) for slug in slugs)
    assert parse_condition("torchattacks:PGD(eps=8/255, steps=10)").key == attack.slug


def test_leaving_the_threat_model_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    images, labels = batch(model)
    kept = torchattacks.FGSM.forward

    def forward(self: Any, *arguments: Tensor) -> Tensor:
        return (kept(self, *arguments) + 0.05).clamp(0, 1)

    monkeypatch.setattr(torchattacks.FGSM, "forward", forward)
    with pytest.raises(RobustlabError, match=r"torchattacks.FGSM left its threat model linf-1of255 on 12 of 12 images"):
        TorchAttack("FGSM", {"eps": 1 / 255})(model, images, labels)


def test_a_deployed_model_is_attacked_with_its_surrogate_and_left_as_it_was() -> None:
    model = rl.load("robustlab:signs_w4a4")
    images, labels = rl.datasets.load_dataset("signs").batch(range(6))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.random.get_rng_state()
    attack = TorchAttack("PGD", {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10})
    keys = sample_keys(0, attack.slug, range(6))
    found = attack.run(Tiled(model), images, labels, keys=keys)
    assert torch.equal(attack(Tiled(model), images, labels, keys=keys), found.images)
    assert not torch.equal(attack(Tiled(model), images, labels, keys=keys + 1), found.images)
    with torch.no_grad():
        assert (model(found.images).argmax(1) != labels).all()
    assert attack.ball.contains(found.images, images).all()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_targets_are_reached_or_refused() -> None:
    model = network()
    images, labels = batch(model)
    targets = (labels + 1) % 5
    found = TorchAttack("PGD", {"eps": 0.5, "steps": 20})(model, images, labels, targets=targets)
    with torch.no_grad():
        assert (model(found).argmax(1) == targets).all()
    with pytest.raises(ArgumentError, match=r"targets is .*torchattacks.DeepFool has no targeted version"):
        TorchAttack("DeepFool")(model, images, labels, targets=targets)


class NanInTheMiddle(nn.Module):
    """Right on clean images, NaN on all others."""

    def __init__(self, inner: nn.Module, clean: Tensor) -> None:
        super().__init__()
        self.inner, self.clean = inner, clean

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits if torch.equal(x, self.clean) else logits * torch.nan


def test_nan_in_the_middle_is_not_attacked() -> None:
    inner = network()
    images, labels = batch(inner)
    result = TorchAttack("PGD", {"steps": 3})(NanInTheMiddle(inner, images), images, labels)
    run = TorchAttack("PGD", {"steps": 3}).run(NanInTheMiddle(inner, images), images, labels)
    assert torch.equal(result, images)
    assert not run.attacked.any()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchattacks:PDG", "did you mean PGD"),
        ("torchattacks:PGD(steps=10", "allowed: torchattacks:NAME"),
        ("torchattacks:PGD(10)", "allowed: torchattacks:NAME"),
        ("torchattacks:PGD(eps=__import__('os').getpid())", "allowed: torchattacks:NAME"),
        ("torchattacks:PGD(step=3)", "did you mean steps"),
        ("torchattacks:PGD(eps=-1)", "eps is -1"),
        ("torchattacks:PGD(steps=-2)", "steps of torchattacks.PGD is -2"),
        ("torchattacks:PGD(steps=1.5)", "steps of torchattacks.PGD is 1.5"),
        ("torchattacks:PGD(alpha=0)", "alpha of torchattacks.PGD is 0"),
        ("torchattacks:Square(n_queries=-1)", "n_queries of torchattacks.Square is -1"),
        ("torchattacks:PGD(eps='8')", "eps of torchattacks.PGD is '8'"),
        ("torchattacks:FAB(norm='L7')", "norm of torchattacks.FAB is 'l7'"),
        ("torchattacks:MultiAttack", "attack of torchattacks is 'MultiAttack'"),
    ],
)
def test_bad_specs_say_what_is_allowed(spec: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=r"attack|argument|eps|norm") as raised:
        parse_attack(spec)
    assert message in str(raised.value)
