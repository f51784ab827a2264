"""What counts as hidden by a gradient, and what only as an attack that was too weak."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import PGD
from robustlab.core import Linf, SilentProgress
from robustlab.deploy import load
from robustlab.evaluate.audit import audit as run_audit
from robustlab.evaluate.audit import examine
from robustlab.evaluate.audit.campaign import BLACK_BOX, PLAIN, Attempt, Campaign, union
from robustlab.evaluate.audit.examine import Settings
from robustlab.evaluate.audit.ledger import Ledger
from robustlab.evaluate.audit.probes import finite_differences
from robustlab.evaluate.audit.sources import Source, is_exact
from robustlab.evaluate.audit.target import Target

_toys = runpy.run_path(str(Path(__file__).with_name("toys.py")))
EPS, MASKS, Network, Toy = (_toys["EPS"], _toys["MASKS"], _toys["Network"], _toys["Toy"])
IMAGES, LABELS = Toy().batch(range(1, 17))
SMALL = Settings(steps=10, long_steps=20, queries=30, probe_images=8, rounds=3)


def _target(model: nn.Module) -> Target:
    return Target(model.requires_grad_(False), Linf(EPS), IMAGES, LABELS, 0, classes=4)


def _given(model: nn.Module) -> Source:
    return Source("given", "given", "the gradient of the model as given", model)


def _campaign(model: nn.Module) -> Campaign:
    target = _target(model)
    return Campaign(target, target.right(IMAGES, LABELS, "clean"), Ledger(None, ""), SilentProgress())


class Rounds(torch.autograd.Function):
    """With a backward of its own."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x * 20) / 20

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


@pytest.mark.parametrize(
    ("inside", "exact"),
    [
        (lambda h: h, True),
        (lambda h: h * (h >= h.topk(6, dim=1).values[:, -1:]).float(), True),
        (lambda h: torch.round(h), False),
        (lambda h: torch.fake_quantize_per_tensor_affine(h, 0.1, 0, 0, 15), False),
        (Rounds.apply, False),
    ],
)
def test_a_gradient_is_exact_where_nothing_stands_in_for_steps(inside: object, exact: bool) -> None:
    assert is_exact(Network(inside=inside), IMAGES[:2]) == exact


def test_the_gradient_of_a_deployed_network_is_a_stand_in() -> None:
    assert not is_exact(load("robustlab:signs_w8a8"), torch.rand(2, 3, 32, 32))


def test_outputs_must_follow_an_exact_gradient_more_closely_than_a_stand_in() -> None:
    rippled = Network(before=lambda x: x + 0.003 * torch.sin(3000 * x))
    for model, exact, status in ((rippled, False, "warn"), (rippled, True, "fail"), (Network(), True, "pass")):
        slope, _ = finite_differences(_target(model), _given(model), torch.arange(16), exact=exact)
        assert slope.status == status, (exact, slope.text)


def test_only_what_the_given_gradient_misses_with_as_many_points_is_hidden() -> None:
    model = Network()
    campaign = _campaign(model)
    reachable = set(campaign.run("x", _given(model), PGD(Linf(EPS)), campaign.rows, family=PLAIN, counts=False).broken)
    rows = campaign.rows.tolist()
    assert 2 < len(reachable) < len(rows) - 2
    # A search that claims to have broken everything, none of it found by the gradient so far.
    claimed = Attempt("search", BLACK_BOX, "", len(rows), tuple(rows), len(rows), 0.0)
    campaign.attempts.append(claimed)
    again = examine._again(campaign, _given(model), SMALL)
    assert union(again) >= reachable and union(again) != set(rows)
    assert all(attempt.family == PLAIN for attempt in again)
    hidden = examine._paying("black-box", "search", [claimed], len(rows), union(again))
    assert hidden.numbers["broken"] == len(rows) - len(union(again))


def test_a_gradient_that_fails_its_checks_gets_no_second_try() -> None:
    found = run_audit(MASKS["zero-backward"], Toy(), ball=Linf(EPS), settings=replace(SMALL, rounds=1))
    assert found.white_box is not None and found.robust.value < found.white_box.value
    assert not any(attempt.name.startswith("again") for attempt in found.attempts)


def test_nothing_is_tried_again_where_nothing_else_broke_more() -> None:
    campaign = _campaign(Network())
    assert examine._again(campaign, _given(campaign.target.model), SMALL) == []


def test_a_model_that_plain_pgd_breaks_on_all_images_is_audited() -> None:
    found = run_audit(Network(), Toy(), reference=Network(), ball=Linf(0.9), settings=replace(SMALL, rounds=1))
    assert found.robust.value == 0
    status = {check.name: (check.status, check.text) for check in found.checks}
    assert status["other-gradients"][0] == "skip" and "no image was left" in status["other-gradients"][1]


@pytest.mark.parametrize(("patience", "rounds"), [(1, 1), (2, 2), (9, 3)])
def test_a_network_that_jumps_gets_more_rounds_without_success(
    patience: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = _campaign(Network())
    names: list[str] = []

    def idle(self: Campaign, name: str, source: Source, attack: object, rows: Tensor, **rest: object) -> Attempt:
        names.append(name)
        return Attempt(name, BLACK_BOX, "", len(rows), (), 0, 0.0)

    monkeypatch.setattr(Campaign, "run", idle)
    given = _given(campaign.target.model)
    assert examine._escalate(campaign, [given], given, SMALL, 16, patience=patience)
    assert {name.partition("-")[0] for name in names} == {f"round{k}" for k in range(1, rounds + 1)}
