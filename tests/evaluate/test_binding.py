"""Conditions that need the run: faults change the model while it is judged, transfer takes the other models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.attacks import BitSearch, RandomFlips, Transfer, flipped
from robustlab.attacks import parse_attack as attack_of
from robustlab.core import ArgumentError, Tiled
from robustlab.core.keys import sample_keys
from robustlab.evaluate import SUITES, evaluate, parse_condition
from robustlab.evaluate.faulty import SEARCH_IMAGES

KEYS = ("faults-random-16", "faults-bfa-8", "faults-random-4-zero-points+scales", "transfer-pgd20-linf-8of255")
SMALL: dict[str, Any] = {"limit": 32, "tile": 16, "efficiency": False}


@pytest.mark.parametrize("key", KEYS)
def test_keys_parse_and_come_back(key: str) -> None:
    assert parse_condition(key).key == key


@pytest.mark.parametrize("key", ["faults-bfa", "faults-random-0", "faults-bfa-8-bits", "transfer-pgd", "faults-x-1"])
def test_bad_keys_are_refused(key: str) -> None:
    with pytest.raises(ArgumentError, match="allowed"):
        parse_condition(key)


def test_the_suites_are_there() -> None:
    assert {"faults", "transfer"} <= set(SUITES)


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.head = nn.Linear(8 * 225, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().flatten(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    images, labels = rl.datasets.load_dataset("signs").batch(range(64))
    made: dict[str, nn.Module] = {}
    for seed in (0, 1):
        net = Net(seed)
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
        made[f"float{seed}"] = net.eval()
    made["small"] = rl.deploy(rl.compress(made["float0"], weights=4, activations=4, calibration=[images]))
    return made


def cells(results: Any) -> dict[tuple[str, str], Any]:
    return {(row["model"], row["condition"]): row for row in results.cells}


def test_faults_are_judged_on_the_flipped_model_and_undone(models: dict[str, nn.Module], tmp_path: Path) -> None:
    small = {"small": models["small"]}
    keys = ["clean", "faults-random-64", "faults-bfa-3-scales", "faults-random-2-activation-scales"]
    results = evaluate(small, "signs", keys, out=tmp_path, seed=3, **SMALL)
    found = cells(results)
    images, labels = rl.datasets.load_dataset("signs").batch(range(32))

    def right(model: nn.Module) -> int:
        with torch.no_grad():
            return int((Tiled(model, 16)(images).argmax(1) == labels).sum())

    clean = right(models["small"])
    assert found["small", "clean"]["correct"] == clean
    with flipped(models["small"], RandomFlips(64, seed=3).draw(models["small"])) as model:
        assert found["small", "faults-random-64"]["correct"] == right(model)
    known = rl.datasets.load_dataset("signs").batch(range(SEARCH_IMAGES))
    with flipped(models["small"], BitSearch(3, ("scales",), until=None).draw(models["small"], *known)) as model:
        assert found["small", "faults-bfa-3-scales"]["correct"] == right(model) < clean
    assert right(models["small"]) == clean
    again = evaluate(small, "signs", keys, out=tmp_path, seed=3, **SMALL)
    assert again.run["cells_computed"] == 0
    assert cells(again) == found
    with pytest.raises(ArgumentError, match="faults-bfa-2-scales on model float0"):
        evaluate({"float0": models["float0"]}, "signs", ["faults-bfa-2-scales"], out=tmp_path / "b", **SMALL)


def test_transfer_takes_the_worst_of_the_other_models(models: dict[str, nn.Module], tmp_path: Path) -> None:
    key = "transfer-pgd3-linf-16of255"
    results = evaluate(models, "signs", ["clean", key], out=tmp_path, **SMALL)
    found = cells(results)
    images, labels = rl.datasets.load_dataset("signs").batch(range(32))
    attack, keys = attack_of("pgd3-linf-16of255"), sample_keys(0, key, range(32))
    judged, survived = Tiled(models["small"], 16).eval(), torch.ones(32, dtype=torch.bool)
    for source in ("float0", "float1"):
        shown = Transfer(attack, [models[source]])(judged, images, labels, keys=keys)
        with torch.no_grad():
            survived &= judged(shown).argmax(1) == labels
    assert found["small", key]["correct"] == int(survived.sum())
    assert found["small", key]["correct"] < found["small", "clean"]["correct"]
    assert found["small", key]["status"] == "done"
    again = evaluate(models, "signs", ["clean", key], out=tmp_path, **SMALL)
    assert again.run["cells_computed"] == 0
    fewer = evaluate({n: models[n] for n in ("small", "float1")}, "signs", ["clean", key], out=tmp_path, **SMALL)
    assert fewer.run["cells_computed"] == 2  # other sources, other cells; clean ones are there
    with pytest.raises(ArgumentError, match="another model beside it"):
        evaluate({"small": models["small"]}, "signs", [key], out=tmp_path / "b", **SMALL)
