"""benchmarks/qat.py at a few steps: what it writes, that it goes on where it was, and its pairwise intervals."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import robustlab as rl
from robustlab.core.paths import data_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("qat_benchmark", ROOT / "benchmarks" / "qat.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_rows_are_made_once_and_their_models_are_kept(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_folder()
    if folder is None or not (folder / "cifar10" / "jpeg_train.npz").is_file():
        pytest.skip("needs CIFAR-10 from ROBUSTLAB_DATA")
    monkeypatch.setenv("ROBUSTLAB_DATA", str(folder))
    monkeypatch.setattr(torch, "set_num_threads", lambda _count: None)  # the other tests keep theirs
    out, cache = tmp_path / "qat.json", tmp_path / "cache"
    command = ["--quick", "--out", str(out), "--cache", str(cache), "--only"]
    script.main([*command, "w1a1-dab", "w1a1-bnn"])
    stored = json.loads(out.read_text())
    assert [row["name"] for row in stored["rows"]] == ["start", "w1a1-bnn", "w1a1-dab"]
    text = out.with_suffix(".md").read_text()
    assert "Binarizers, pairwise" in text and "S x 18" in text and "P x 20" in text
    right = script.unpacked(stored["rows"][1]["right"], 64)
    deployed = rl.load(str(cache / "w1a1-bnn.safetensors"))
    test = script.Material.read(quick=True).test
    assert torch.equal(right, script.correct(deployed, test))
    assert stored["rows"][1]["accuracy"] == 100 * float(right.double().mean())
    capsys.readouterr()
    before = out.read_text()
    script.main([*command, "w1a1-bnn"])
    assert "epoch" not in capsys.readouterr().out and out.read_text() == before


def test_packed_rights_and_paired_differences(script: ModuleType) -> None:
    right = torch.tensor([True, False, True, True, False, True, True, True, False, True])
    assert torch.equal(script.unpacked(script.packed(right), 10), right)
    before = ~right
    points, half = script.paired(right, before)
    difference = right.double() - before.double()
    assert points == pytest.approx(100 * (7 - 3) / 10)
    assert half == pytest.approx(196 * float(difference.std()) / 10**0.5)


def test_the_ranking_only_marks_what_all_intervals_together_carry(script: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    shares = {"bnn": 0.5, "xnor": 0.52, "react": 0.8}
    rows = []
    for name, share in shares.items():
        right = torch.rand(1000, generator=generator) < share
        recipe = {"algorithm": name, "group": "w1a1"}
        accuracy = 100 * float(right.double().mean())
        rows.append(script.Result(f"w1a1-{name}", recipe, 1, 1.0, 1.0, accuracy, 0.0, 0.0, {}, 1, script.packed(right)))
    table = "\n".join(script.ranking(rows, 1000))
    react = next(line for line in table.splitlines() if line.startswith("| react ("))
    assert "3 pairs" in table and "2.39 standard errors" in table
    assert react.count("**") == 4
    assert next(line for line in table.splitlines() if line.startswith("| xnor (")).count("**") == 2


def test_recipes_cover_every_trained_algorithm(script: ModuleType) -> None:
    from robustlab.compress import TRAINED

    trained = {row.algorithm for row in script.EQUAL}
    assert set(TRAINED) - {"lsq+free"} <= trained  # which cannot be deployed
    for group in ("w1a1", "w2a2", "w4a4"):
        assert len({str(row.train) for row in script.EQUAL if row.group == group}) == 1  # equal budgets
    assert set(script.GOALS) == {row.name for row in script.HEADLINES}
