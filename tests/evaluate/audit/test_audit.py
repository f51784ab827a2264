"""The audit as a whole: masks are seen through, an honest network is not accused, and parts are kept."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustlab.core import ArgumentError, DataError, Linf, StoreError
from robustlab.deploy import CallableModel
from robustlab.evaluate.audit import Audit, Settings, below
from robustlab.evaluate.audit import audit as run_audit
from robustlab.evaluate.audit.campaign import union
from robustlab.evaluate.audit.grade import verdict
from robustlab.evaluate.audit.probes import Check
from robustlab.evaluate.audit.target import Target

# A test has no package of its own to import it from.
_toys = runpy.run_path(str(Path(__file__).with_name("toys.py")))
EPS, MASKS, Network, Toy = (_toys["EPS"], _toys["MASKS"], _toys["Network"], _toys["Toy"])

SMALL = Settings(steps=10, long_steps=20, queries=30, probe_images=8, rounds=1)
DATA = Toy()


def _audit(model: nn.Module, **options: object) -> Audit:
    return run_audit(model, DATA, ball=Linf(EPS), settings=SMALL, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def honest() -> Audit:
    return _audit(Network())


def test_an_honest_network_is_not_accused(honest: Audit) -> None:
    assert honest.grade == "A", honest.reasons
    assert honest.naive is not None
    assert honest.white_box is not None
    assert honest.clean.value > honest.naive.value >= honest.white_box.value >= honest.robust.value
    assert 0.1 < honest.robust.value < 0.9  # else it could not tell attacks apart
    assert len(honest.lines()) <= 30


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_flagged_and_the_number_behind_it_found(name: str, honest: Audit) -> None:
    found = _audit(MASKS[name])
    assert below(found.grade, "B"), found.lines()
    assert abs(found.robust.value - honest.robust.value) <= 1.01 / found.images, found.lines()


def test_a_random_model_is_flagged_and_left_as_it_was() -> None:
    model = Network(before=lambda x: x + 0.01 * torch.randn_like(x)).train()
    state = torch.random.get_rng_state()
    first, again = _audit(model), _audit(model)
    assert below(first.grade, "B")
    assert first.robust == again.robust and first.attempts[0].broken == again.attempts[0].broken
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_a_model_of_labels_alone_is_attacked_by_its_labels() -> None:
    network = Network()
    found = _audit(CallableModel(lambda x: network(x).argmax(1), classes=4, access="labels"))
    assert found.naive is None and found.grade in "CDEF"
    assert "hopskipjump" in {attempt.name for attempt in found.attempts if attempt.broken}
    names = {check.name: check for check in found.checks}
    assert names["other-gradients"].status == "skip" and "could not run" in names["other-gradients"].text
    assert names["unbounded-best"].status == "skip"


def test_what_is_not_finite_under_attack_is_said() -> None:
    def known(x: Tensor) -> Tensor:
        apart = (x.detach()[:, None] + 0.5 - DATA.images).flatten(2).abs().amax(2).amin(1)
        return torch.where((apart < 1e-6)[:, None, None, None], x, torch.nan)

    found = _audit(Network(before=known))
    check = next(check for check in found.checks if check.name == "finite")
    assert check.status == "fail" and check.numbers["images"] > 10 and found.grade not in "AB"
    assert found.robust == found.clean and any(check.text in line for line in found.lines())


def test_a_model_that_only_names_a_class_gets_no_number_to_believe() -> None:
    model = Network(after=lambda z: torch.nn.functional.one_hot(z.argmax(1), z.shape[1]).float())
    found = _audit(model)
    assert found.naive is None and found.grade == "F"
    assert "every image is allowed" in found.reasons[0]


def test_what_another_gradient_breaks_at_the_same_radius_is_not_the_given_one() -> None:
    found = _audit(MASKS["zero-backward"])
    assert found.white_box == found.naive and found.robust.value < found.white_box.value
    assert not any(attempt.name.startswith(("radius", "unbounded")) for attempt in found.attempts)


def test_a_model_of_two_classes_is_audited() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)[:, :2]

    data = Toy(12, Two())
    data.class_names = ("a", "b")
    data.labels.clamp_(max=1)
    found = run_audit(Two(), data, ball=Linf(EPS), settings=SMALL)
    assert found.grade in "AB" and not any(attempt.failed for attempt in found.attempts)


def test_images_outside_the_threat_model_break_nothing() -> None:
    images, labels = DATA.batch(range(1, 9))
    target = Target(Network(), Linf(EPS), images, labels, 0)
    far = (images + 3 * EPS).clamp(0, 1)
    assert not bool(target.broken(far, torch.arange(8), "x").any())
    assert not bool(target.broken(torch.full_like(images, torch.nan), torch.arange(8), "x").any())


def test_logits_that_are_not_finite_are_never_a_success() -> None:
    model = Network(after=lambda z: torch.where(z.detach().amax(1, keepdim=True) > 6, torch.nan, z))
    images, labels = DATA.batch(range(8))
    target = Target(model, Linf(EPS), images, labels, 0)
    broken = ~target.right(images, labels, "x")
    assert not bool((broken & model(images).isnan().any(1)).any())


def test_a_stopped_audit_goes_on_and_ends_with_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, honest: Audit
) -> None:
    from robustlab.evaluate.audit import campaign

    real, calls = campaign.Campaign._attack, []

    def stopping(self: campaign.Campaign, name: str, *rest: object) -> torch.Tensor:
        calls.append(name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(campaign.Campaign, "_attack", stopping)
    with pytest.raises(KeyboardInterrupt):
        _audit(Network(), out=tmp_path)
    resumed = _audit(Network(), out=tmp_path)
    assert calls.count("pgd") == 1
    assert resumed.run["parts_from_store"] >= 3
    same = ("grade", "reasons", "clean", "naive", "robust", "checks", "curve", "stable")
    assert all(getattr(resumed, field) == getattr(honest, field) for field in same)
    assert [a.broken for a in resumed.attempts] == [a.broken for a in honest.attempts]
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["schema"] == 1
    assert written["robust"]["value"] == resumed.robust.value
    assert len({i for a in written["attempts"] for i in a["broken"]}) == len(union(resumed.attempts))


def test_another_seed_or_model_is_another_audit(tmp_path: Path) -> None:
    _audit(Network(), out=tmp_path)
    assert _audit(Network(), out=tmp_path).run["parts_from_store"] > 0
    assert _audit(Network(), out=tmp_path, seed=1).run["parts_from_store"] == 0


def test_a_reference_model_is_a_source() -> None:
    found = _audit(MASKS["saturated"], reference=Network())
    assert any(attempt.family == "transfer" for attempt in found.attempts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ball": "linf-x"}, "radius|ball"),
        ({"ball": Linf(0.0)}, "radius > 0"),
        ({"limit": 0}, "limit"),
        ({"seed": -1}, "seed"),
        ({"reference": 3}, "reference"),
        ({"out": "/proc/nothing"}, "out"),
    ],
)
def test_bad_input_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        run_audit(Network(), DATA, **{"ball": Linf(EPS), **options})  # type: ignore[arg-type]


def test_a_model_that_gets_nothing_right_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to audit"):
        _audit(Network(after=lambda z: -z))


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "audit-stages.json").write_text("[1]")
    with pytest.raises(StoreError, match="no file of an audit"):
        _audit(Network(), out=tmp_path)


def test_grades_follow_the_gap_and_the_checks() -> None:
    def grade(gap: float, *status: str, weak: float = 0, attackable: bool = True, stable: bool = True) -> str:
        checks = [Check(str(i), s, s) for i, s in enumerate(status)]  # type: ignore[arg-type]
        return verdict(checks, gap=gap, weak=weak, attackable=attackable, stable=stable, noise=1.0).grade

    assert [grade(gap) for gap in (0, 3, 5, 10, 20, 40, 60)] == ["A", "A", "B", "C", "D", "E", "F"]
    assert grade(0, "warn") == "B" and grade(0, "fail") == "C" and grade(0, stable=False) == "B"
    assert grade(0, attackable=False) == "C"
    assert [grade(0, weak=weak) for weak in (3, 10, 30)] == ["A", "B", "B"]
    assert grade(0, "fail", "fail", "fail", "fail") == "D"


class Speechless(nn.Module):
    """No answer to anything."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :24] * torch.nan


def test_a_model_without_answers_is_refused() -> None:
    with pytest.raises(ArgumentError, match="logits that are not finite on 4 of 4 images"):
        run_audit(Speechless(), "signs", limit=4)
