"""Mini suites: what they predict, from what, and whether the error in their files is that of networks held out."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustlab.core import ArgumentError
from robustlab.core.keys import sample_keys, uniform
from robustlab.evaluate import SUITES, Results, evaluate, load_suite
from robustlab.evaluate.natural import ALEXNET_ERROR
from robustlab.evaluate.prediction import Estimate, HeldOut, Prediction, held_out_error
from robustlab.evaluate.suites import parse_suite
from robustlab.report.page import render

ROOT = Path(__file__).resolve().parents[2]
MINI = [name for name, suite in SUITES.items() if suite.prediction is not None]
HELD_OUT = (HeldOut("a", "x", 0.30, 0.31), HeldOut("b", "x", 0.40, 0.38), HeldOut("c", "y", 0.5, 0.5))
ERROR = math.sqrt((0.01**2 + 0.02**2) / 2 / 2)
TEXT = f"""
name = "my-mini"
description = "Two cells"
conditions = ["clean", "gaussian-noise-3", "contrast-5"]

[prediction]
of = "cifar10-c"
images = 30
classes = 3
image_size = [32, 32]
calibration = "three networks"

[[prediction.estimates]]
metric = "mce_unnormalised"
error = {ERROR:.5f}
error_95 = 0.05
weights = {{ clean = 0.25, "gaussian-noise-3" = 0.75 }}
held_out = [["a", "x", 0.30, 0.31], ["b", "x", 0.40, 0.38], ["c", "y", 0.5, 0.5]]
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("choose_mini", ROOT / "scripts" / "choose_mini.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["choose_mini"] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def estimate(error_95: float = 0.03, **weights: float) -> Estimate:
    return Estimate("mce_unnormalised", ERROR, error_95, weights, HELD_OUT)


def test_a_row_by_hand() -> None:
    rng = np.random.default_rng(0)
    correct = {key: rng.random(400) < 0.7 for key in ("a", "b", "other")}
    row = estimate(a=0.3, b=0.7).row("full", "m", correct)
    each = 0.3 * ~correct["a"] + 0.7 * ~correct["b"]
    assert row["metric"] == "predicted_mce_unnormalised" and row["of"] == "full" and row["n"] == 400
    assert row["value"] == pytest.approx(each.mean())
    assert row["sampling"] == pytest.approx(1.96 * each.std(ddof=1) / 20, rel=1e-3)
    half = math.hypot(row["sampling"], 0.03)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((row["value"] - half, row["value"] + half))


def test_intervals_cover_images_and_networks() -> None:
    """Networks whose full metric is off by a normal error, 400 of them, 60 images each: about 95 % are covered."""
    rng = np.random.default_rng(1)
    spread, hits = 0.05, 0
    for _ in range(400):
        correct = {"a": rng.random(60) >= 0.4, "b": rng.random(60) >= 0.2}
        full = 0.3 + spread * rng.standard_normal()
        row = estimate(1.96 * spread, a=0.5, b=0.5).row("full", "m", correct)
        hits += row["ci_low"] <= full <= row["ci_high"]
    assert 368 <= hits <= 392


def test_only_where_all_cells_were_measured() -> None:
    prediction = Prediction("full", 30, 3, (32, 32), "", (estimate(a=0.5, b=0.5),))
    correct = {("m", "a"): np.ones(3, bool), ("m", "b"): np.zeros(3, bool), ("k", "a"): np.ones(3, bool)}
    assert [(row["model"], row["value"]) for row in prediction.rows(correct)] == [("m", 0.5)]


def test_groups_count_alike() -> None:
    assert held_out_error(HELD_OUT) == pytest.approx(ERROR)
    assert held_out_error([*HELD_OUT, HELD_OUT[2], HELD_OUT[2]]) == pytest.approx(ERROR)


def synthetic(script: ModuleType, images: int = 64) -> Any:
    """Nine networks in three groups; all cells of a corruption err alike, those of three families of five too."""
    rng = np.random.default_rng(2)
    conditions = [condition.key for condition in SUITES["cifar10-c"].conditions]
    conditions = [key.replace("frost-procedural", "frost") for key in conditions]
    family = [0, *(1 + (i // 5) % 3 for i in range(75))]
    wrong = np.empty((9, 76, images), bool)
    for network in range(9):
        base = rng.random((4, images)) < rng.uniform(0.1, 0.9, (4, 1))
        wrong[network] = base[family]
    return script.Outcomes(wrong, tuple("abcdefghi"), tuple("xxxyyyzzz"), tuple(conditions), "made")


def test_exact_where_the_metric_is_linear_in_a_few_cells(script: ModuleType) -> None:
    outcomes = synthetic(script)
    full = script.target("mce_unnormalised", outcomes.conditions)
    chosen, weights = script.choose_cells(outcomes, full, 3, 10**9)
    assert weights.sum() == pytest.approx(1)
    assert weights == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=1e-4)
    rates = outcomes.wrong.mean(axis=2)
    assert rates[:, chosen] @ weights == pytest.approx(rates @ full, abs=1e-4)


def test_held_out_networks_have_no_part(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other answers of a group change what is predicted for the others, and not what was chosen without it."""
    monkeypatch.setitem(script.IMAGES, "cifar10-c", 100)
    outcomes = synthetic(script)
    before = script.hold_out(outcomes, "cifar10-c", "mce_unnormalised", 2)
    changed = outcomes.wrong.copy()
    changed[:3] = np.random.default_rng(5).random(changed[:3].shape) < 0.5
    other = script.Outcomes(changed, outcomes.networks, outcomes.groups, outcomes.conditions, "made")
    after = script.hold_out(other, "cifar10-c", "mce_unnormalised", 2)
    odd = outcomes.without("x", 0)
    assert odd.groups == tuple("yyyzzz") and np.array_equal(odd.wrong, outcomes.wrong[3:, :, 1::2])
    chosen, weights = script.choose_cells(odd, script.target("mce_unnormalised", outcomes.conditions), 2, 100)
    for i in range(3):
        assert before[i].predicted == pytest.approx(outcomes.wrong[i, :, ::2].mean(axis=1)[chosen] @ weights)
        assert after[i].predicted == pytest.approx(changed[i, :, ::2].mean(axis=1)[chosen] @ weights)
    assert [row.predicted for row in before[6:]] != pytest.approx([row.predicted for row in after[6:]])


def test_the_loss_is_the_expected_squared_error(script: ModuleType) -> None:
    """Against runs on images drawn with replacement, with the difference measured on 500 others."""
    outcomes = synthetic(script, images=500)
    full = script.target("mce_unnormalised", outcomes.conditions)
    weights = np.zeros(76)
    weights[[1, 6]] = 0.4, 0.6
    expected = weights @ script.loss(outcomes, full, 50) @ weights
    rng, rates = np.random.default_rng(3), outcomes.wrong.mean(axis=2) @ full
    drawn = rng.integers(0, 500, (2000, 50))
    found = [(weights @ w[:, drawn].mean(axis=2) - r) ** 2 for w, r in zip(outcomes.wrong, rates, strict=True)]
    chance = [np.var(weights @ w - full @ w, ddof=1) / 500 for w in outcomes.wrong]
    assert np.mean(found) + np.mean(chance) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", MINI)
def test_shipped_cells_are_a_part_of_the_full_suite(name: str) -> None:
    suite = SUITES[name]
    assert suite.prediction is not None and name == f"{suite.prediction.of}-mini"
    full = [condition.key for condition in SUITES[suite.prediction.of].conditions]
    keys = [condition.key for condition in suite.conditions]
    assert keys[0] == "clean" and len(keys) == 16
    assert set(keys) < set(full) and not any("frost" in key for key in keys)
    for estimate in suite.prediction.estimates:
        total = 1.0 if estimate.metric == "mce_unnormalised" else np.mean([1 / e for e in ALEXNET_ERROR.values()])
        assert sum(estimate.weights.values()) == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("name", MINI)
def test_shipped_files_say_what_the_outcomes_say(name: str, script: ModuleType, tmp_path: Path) -> None:
    """The whole choice, made again from the committed outcomes, with the error of networks held out."""
    prediction = SUITES[name].prediction
    assert prediction is not None
    outcomes = script.read_outcomes(ROOT / "benchmarks" / "mini" / f"{prediction.of}.npz")
    script.write_suite(outcomes, prediction.of, tmp_path / "again.toml")
    again = parse_suite((tmp_path / "again.toml").read_text(encoding="utf-8"), "again")
    assert [c.key for c in again.conditions] == [c.key for c in SUITES[name].conditions]
    assert again.prediction is not None
    for ours, stated in zip(again.prediction.estimates, prediction.estimates, strict=True):
        assert ours.weights == pytest.approx(stated.weights, abs=2e-3)
        assert (ours.error, ours.error_95) == pytest.approx((stated.error, stated.error_95), abs=2e-4)
        assert [row.network for row in ours.held_out] == [row.network for row in stated.held_out]


class Thirds:
    """Three classes of 32 pixel images: which third is the brightest."""

    name = "thirds"
    class_names = ("a", "b", "c")
    image_size = (32, 32)
    fingerprint = "0b"

    def __len__(self) -> int:
        return 24

    def batch(self, indices: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images = uniform(sample_keys(7, "thirds", indices), (3, 32, 32))
        labels = torch.tensor([i % 3 for i in indices])
        for row, label in enumerate(labels.tolist()):
            images[row, :, 10 * label : 10 * label + 10] += 0.06
        return images.clamp(0, 1), labels


class Brightest(nn.Module):
    """Mean brightness of the thirds."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images[:, :, 10 * i : 10 * i + 10].mean(dim=(1, 2, 3)) for i in range(3)], dim=1)


def test_results_tables_and_reports_show_it(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(TEXT, encoding="utf-8")
    results = evaluate({"m": Brightest()}, Thirds(), path, out=tmp_path / "run", efficiency=False)
    document = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    (row,) = document["natural"]
    clean, noisy = (1 - results.cell("m", key)["accuracy"] for key in ("clean", "gaussian-noise-3"))
    assert row["metric"] == "predicted_mce_unnormalised" and row["of"] == "cifar10-c"
    assert row["value"] == pytest.approx(0.25 * clean + 0.75 * noisy)
    assert row["prediction"] == 0.05 and row["ci_high"] - row["value"] >= 0.05
    loaded = Results.load(tmp_path / "run")
    assert loaded.natural == results.natural
    table = loaded.table()
    assert "predicted mCE, un-normalised" in list(table.columns[0].cells)
    page = render(loaded)
    assert "m: predicted mCE of cifar10-c" in page and "by 24 images, ±5.0 by the prediction" in page


def test_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(TEXT.replace("classes = 3", "classes = 10"), encoding="utf-8")
    with pytest.raises(
        ArgumentError, match=r"thirds \(3 classes, 32 x 32\)'; allowed: images of 10 classes at 32 x 32"
    ):
        evaluate({"m": Brightest()}, Thirds(), path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("images = 30\n", "", r"prediction in suite x is 'of, classes.*a table with of, images"),
        ("images = 30", "images = 1", "images of the prediction in suite x is 1; allowed: a whole number >= 2"),
        ("classes = 3", "classes = true", "classes of the prediction"),
        ("[32, 32]", "[32]", "image_size of the prediction"),
        ('"three networks"', '" "', "calibration of the prediction"),
        ('"mce_unnormalised"', '"mce"', "allowed: mce_unnormalised, mce_alexnet"),
        ("error_95 = 0.05", "error_95 = 0.001", "error_95 of mce_unnormalised in suite x is 0.001"),
        ("error_95 = 0.05", "error_95 = nan", "error_95 of mce_unnormalised in suite x is nan"),
        (f"error = {ERROR:.5f}", "error = 0.002", "allowed: that of the networks held out, 0.0112"),
        ("clean = 0.25", "clean = 0.35", "weights that sum to 1"),
        ("clean = 0.25", "clean = -0.25", "numbers from 0 to 10"),
        ("clean = 0.25", "fog-1 = 0.25", "a table with keys among clean, gaussian-noise-3, contrast-5"),
        ('["a", "x", 0.30, 0.31], ', '["a", "x", 0.30], ', "network, group, full, predicted"),
        ('["c", "y", 0.5, 0.5]', '["c", "x", 0.5, 0.5]', "at least two groups"),
    ],
)
def test_bad_files(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(ArgumentError, match=message):
        parse_suite(TEXT.replace(old, new), "x")


def test_a_part_of_another_suite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(TEXT.replace('"gaussian-noise-3"', '"speckle-noise-3"'), encoding="utf-8")
    with pytest.raises(ArgumentError, match="speckle-noise-3'; allowed: conditions of cifar10-c"):
        load_suite(path)
    path.write_text(TEXT.replace('of = "cifar10-c"', 'of = "cifar100-c"'), encoding="utf-8")
    with pytest.raises(ArgumentError, match="of of the prediction in suite my-mini is 'cifar100-c'"):
        load_suite(path)


@pytest.mark.parametrize("name", MINI)
def test_the_command_takes_as_many_images_as_were_planned(name: str) -> None:
    from robustlab.cli.evaluate import _default_limit

    prediction = SUITES[name].prediction
    assert prediction is not None
    assert _default_limit("signs", name) == str(prediction.images)
    assert (_default_limit("signs", "quick"), _default_limit("cifar10", "my.toml")) == ("500", "1000")
