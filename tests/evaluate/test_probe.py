"""What is checked of models and data before a run, and what a run does with a model that cheats the checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.core import ArgumentError
from robustlab.core.keys import sample_keys, uniform
from robustlab.evaluate import Results, evaluate, parity
from robustlab.evaluate.efficiency import measure

GRADIENT_ATTACKS = ("fgsm-linf-2of255", "pgd2-linf-8of255")


class Held:
    """Images held in memory and handed out as views of it."""

    name = "held"
    class_names: Any = ("a", "b", "c")
    image_size: Any = (4, 4)
    fingerprint: Any = "0a"

    def __init__(self, count: int = 24) -> None:
        self.images = uniform(sample_keys(3, "held", range(count)), (3, 4, 4))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        indices = list(indices)
        return self.images[indices[0] : indices[-1] + 1], torch.tensor([i % len(self.class_names) for i in indices])


def linear(classes: int = 3) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(classes)
        net[1].weight.copy_(torch.randn(classes, 48, generator=generator))  # type: ignore[operator]
        net[1].bias.zero_()  # type: ignore[operator]
    return net


class Around(nn.Module):
    """A linear model with something of the test's own around it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits


class Powers(Around):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.pow_(4))


class PowersUnseen(Around):
    """Writes past torch's version counter."""

    def forward(self, images: Tensor) -> Tensor:
        images.data.pow_(4)
        return super().forward(images)


class PowersLater(Around):
    """Behaves for as long as it is checked."""

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(images if self.calls == 1 else images.pow_(4))


class NoGraph(Around):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(images)


class OneHot(Around):
    def forward(self, images: Tensor) -> Tensor:
        return F.one_hot(super().forward(images).argmax(1), 3).float()


class _OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x * 2


class NoDerivative(Around):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(_OneWay.apply(images))  # type: ignore[no-untyped-call]


class Asserts(Around):
    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != 224:
            raise AssertionError("Wrong image width!\nExpected 224")
        return super().forward(images)


def run(out: Path, models: Any, data: Any = None, **options: Any) -> Results:
    chosen = {"suite": ["clean"], "tile": 8, "efficiency": False, **options}
    return evaluate(models, data or Held(), out=out, **chosen)


def made_under_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Powers(), "model odd is 'writing into its input'; allowed: a model that leaves its input images unchanged"),
        (PowersUnseen(), "writing into its input"),
        (nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 3)), "writing into its input"),
        (linear(4), "model odd is '4 logits of torch.float32'; allowed: float logits, one for each of the 3 classes"),
        (linear(2), "one for each of the 3 classes of held"),
        (Asserts(), "model odd is 'Wrong image width! Expected 224'; allowed: a model of 3x4x4 images as in held"),
        (
            made_under_inference_mode(),
            "model odd is 'made under torch.inference_mode()'; allowed: a model made outside",
        ),
    ],
)
@pytest.mark.parametrize("suite", ["clean", GRADIENT_ATTACKS[0]])
def test_unfit_models_are_refused_in_one_line(tmp_path: Path, model: nn.Module, words: str, suite: str) -> None:
    data = Held()
    before = data.images.clone()
    with pytest.raises(ArgumentError) as caught:
        run(tmp_path / "out", {"fine": linear(), "odd": model}, data, suite=[suite])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(data.images, before)
    assert not (tmp_path / "out").exists()


def rows(results: Results, model: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in results.cells if row["model"] == model]


def test_a_model_that_starts_to_write_later_changes_nothing_for_others(tmp_path: Path) -> None:
    suite = ["clean", "gaussian-noise-3"]
    alone = run(tmp_path / "alone", {"fine": linear()}, suite=suite)
    data = Held()
    before = data.images.clone()
    beside = run(tmp_path / "beside", {"odd": PowersLater(), "fine": linear()}, data, suite=suite)
    assert rows(beside, "fine") == rows(alone, "fine")
    assert rows(beside, "odd") != [{**row, "model": "odd"} for row in rows(alone, "fine")]
    assert [e.png for e in beside.examples] == [e.png for e in alone.examples]
    assert torch.equal(data.images, before)


def test_measurements_leave_the_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Held().images[:8]
    before = images.clone()
    measure("odd", Powers(), images, "cpu")
    assert torch.equal(images, before)
    monkeypatch.setattr(parity, "simulated_twin", lambda model: linear())
    model = Powers()
    row = parity.compare("odd", model, images, 8)
    assert torch.equal(images, before)
    assert row is not None and row["different"] > 0


@pytest.mark.parametrize("model", [NoGraph(), OneHot(), NoDerivative()], ids=lambda m: type(m).__name__)
def test_a_model_without_gradient_is_not_attacked_and_the_run_goes_on(
    tmp_path: Path, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    results = run(tmp_path, {"odd": model, "fine": linear()}, suite=["clean", *GRADIENT_ATTACKS])
    clean = results.cell("odd", "clean")
    assert (clean["status"], clean["gradient"]) == ("done", "none")
    for condition in GRADIENT_ATTACKS:
        row = results.cell("odd", condition)
        assert (row["status"], row["gradient"], row["not_attacked"]) == ("not_attacked", "none", 24)
        assert (row["correct"], row["linf_max"]) == (clean["correct"], 0)
        fine = results.cell("fine", condition)
        assert (fine["status"], fine["gradient"], fine["not_attacked"]) == ("done", "exact", 0)
    assert results.run["configuration"]["models"]["odd"]["gradient"] == "none"
    assert [r.getMessage() for r in caplog.records if "model odd has no gradient" in r.getMessage()]


def test_the_gradient_is_not_asked_for_without_need(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results = run(tmp_path, {"odd": NoGraph()})
    assert results.cells[0]["status"] == "done"
    assert not caplog.records


def test_models_made_outside_can_be_evaluated_under_inference_mode(tmp_path: Path) -> None:
    suite = ["clean", GRADIENT_ATTACKS[1]]
    outside = run(tmp_path / "outside", {"fine": linear()}, suite=suite)
    model = linear()
    with torch.inference_mode():
        inside = run(tmp_path / "inside", {"fine": model}, suite=suite)
    assert rows(inside, "fine") == rows(outside, "fine")


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("fingerprint", b"0a", "fingerprint of the data set is b'0a'; allowed: a string"),
        ("fingerprint", "", "fingerprint of the data set is ''"),
        ("name", 3, "name of the data set is 3"),
        ("class_names", (), "class_names of held is ()"),
        ("class_names", "abc", "class_names of held is 'abc'; allowed: a tuple of at least one string"),
        ("class_names", (1, 2, 3), "class_names of held is (1, 2, 3)"),
        ("image_size", 4, "image_size of held is 4; allowed: a pair"),
        ("image_size", (4,), "image_size of held is (4,)"),
        ("image_size", (4, 4.0), "image_size of held is (4, 4.0)"),
    ],
)
def test_unfit_data_sets_are_refused_in_one_line(tmp_path: Path, member: str, value: object, words: str) -> None:
    data = Held()
    setattr(data, member, value)
    with pytest.raises(ArgumentError) as caught:
        run(tmp_path / "out", linear(), data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_one_class_can_be_evaluated_but_not_attacked(tmp_path: Path) -> None:
    data = Held()
    data.class_names = ("a",)
    assert run(tmp_path / "clean", linear(1), data).cells[0]["accuracy"] == 1
    with pytest.raises(ArgumentError, match="at least 2 classes"):
        run(tmp_path / "out", linear(1), data, suite=[GRADIENT_ATTACKS[0]])
    assert not (tmp_path / "out").exists()
