"""Corruption errors from per-sample outcomes, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from robustlab.datasets.corruptions import COMMON, SEVERITIES
from robustlab.evaluate import SUITES
from robustlab.evaluate.natural import ALEXNET_ERROR, natural_rows

N = 40


def outcomes(frost="frost", seed=0):
    rng = np.random.default_rng(seed)
    names = [frost if name == "frost" else name for name in COMMON]
    keys = [f"{name.replace('_', '-')}-{s}" for name in names for s in SEVERITIES]
    return {("m", key): rng.random(N) < 0.6 for key in keys} | {("m", "clean"): rng.random(N) < 0.9}


def by_metric(rows):
    return {row["metric"]: row for row in rows}


def test_means_by_hand():
    correct = outcomes()
    rows = by_metric(natural_rows(correct, classes=1000, image_size=(224, 224)))
    error = {
        name: np.mean([1 - correct["m", f"{name.replace('_', '-')}-{s}"].mean() for s in SEVERITIES]) for name in COMMON
    }
    for name in COMMON:
        assert rows[f"ce_unnormalised:{name}"]["value"] == pytest.approx(error[name])
        assert rows[f"ce_alexnet:{name}"]["value"] == pytest.approx(error[name] / ALEXNET_ERROR[name])
    mce = np.mean(list(error.values()))
    assert rows["mce_unnormalised"]["value"] == pytest.approx(mce)
    assert rows["natural_robustness"]["value"] == pytest.approx(1 - mce)
    assert rows["relative_mce_unnormalised"]["value"] == pytest.approx(mce - (1 - correct["m", "clean"].mean()))
    assert rows["mce_alexnet"]["value"] == pytest.approx(np.mean([error[n] / ALEXNET_ERROR[n] for n in COMMON]))
    always = np.all([value for (_, key), value in correct.items() if key != "clean"], axis=0)
    assert rows["worst_case"]["value"] == always.mean()
    for row in rows.values():
        assert row["n"] == N and row["ci_low"] <= row["value"] <= row["ci_high"] and row["ci_low"] < row["ci_high"]


def test_an_interval_counts_images_not_copies():
    """Copies that always agree carry no more than one: the interval is that of N samples."""
    right = np.random.default_rng(1).random(N) < 0.5
    correct = dict.fromkeys(outcomes(), right)
    row = by_metric(natural_rows(correct, classes=10, image_size=(32, 32)))["mce_unnormalised"]
    half = 1.96 * np.std(right, ddof=1) / np.sqrt(N)
    assert row["ci_high"] - row["value"] == pytest.approx(half, rel=1e-3)


def test_intervals_cover():
    """Of 300 samples drawn with mean 0.4, about 95 % of the intervals contain it."""
    hits = 0
    for seed in range(300):
        correct = outcomes(seed=seed)
        row = by_metric(natural_rows(correct, classes=10, image_size=(32, 32)))["mce_unnormalised"]
        hits += row["ci_low"] <= 0.4 <= row["ci_high"]
    assert 270 <= hits <= 297


def test_made_frost_counts_but_not_beside_alexnet():
    rows = by_metric(natural_rows(outcomes("frost_procedural"), classes=1000, image_size=(224, 224)))
    assert "mce_unnormalised" in rows and "ce_unnormalised:frost_procedural" in rows
    assert "mce_alexnet" not in rows and "ce_alexnet:snow" in rows


def test_only_what_was_measured():
    correct = outcomes()
    del correct["m", "fog-3"]
    rows = by_metric(natural_rows(correct, classes=10, image_size=(32, 32)))
    assert "ce_unnormalised:fog" not in rows and "ce_unnormalised:snow" in rows
    assert not any("mce" in metric or "alexnet" in metric for metric in rows)
    assert natural_rows({("m", "clean"): np.ones(3, bool)}, classes=10, image_size=(32, 32)) == []


def test_all_alike_is_no_certainty():
    correct = {key: np.ones(N, bool) for key in outcomes()}
    row = by_metric(natural_rows(correct, classes=10, image_size=(32, 32)))["mce_unnormalised"]
    assert row["value"] == 0 and 0.05 < row["ci_high"] < 0.15


@pytest.mark.parametrize("name", ["imagenet-c", "cifar10-c"])
def test_suites_are_complete(name):
    keys = [condition.key.replace("frost-procedural", "frost") for condition in SUITES[name].conditions]
    assert keys == ["clean", *(f"{c.replace('_', '-')}-{s}" for c in COMMON for s in SEVERITIES)]
