"""benchmarks/zoo.py on a few images: what it writes, that it goes on where it was, that it times only on request."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

import robustlab as rl
from robustlab.evaluate.metrics import wilson

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_benchmark", ROOT / "benchmarks" / "zoo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_have_what_evaluate_finds_and_latency_stays_until_asked(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("signs_w4a4", "signs_w1a1")
    monkeypatch.setattr(torch, "set_num_threads", lambda _count: None)  # the other tests keep theirs
    monkeypatch.setattr(script, "BUNDLED", names)
    monkeypatch.setattr(script, "CORRUPTED", ("contrast-1", "contrast-5"))
    monkeypatch.setattr(script, "PGD", {"pgd_2of255": "pgd1-linf-2of255", "pgd_8of255": "pgd1-linf-8of255"})
    out = tmp_path / "zoo.json"
    command = ["--out", str(out), "--work", str(tmp_path / "work"), "--limit", "8", "--rounds", "1"]
    script.main(command)
    rows = json.loads(out.read_text())["rows"]
    assert [row["model"] for row in rows] == list(names)
    for row in rows:
        model = rl.load(f"robustlab:{row['model']}")
        images, labels = rl.datasets.load_dataset("signs").batch(range(8))
        with torch.no_grad():
            right = int((model(images).argmax(1) == labels).sum())
        low, high = wilson(right, 8)
        assert row["accuracy"] == {"value": 100 * right / 8, "low": 100 * low, "high": 100 * high}
        assert row["pgd_2of255"]["value"] <= row["accuracy"]["value"]
        assert 0 < row["latency_ms"]["shortest"] <= row["latency_ms"]["median"]
        assert row["tensor_bytes"] < row["file_bytes"]
        assert f"| `{row['model']}` |" in out.with_suffix(".md").read_text()
    before = out.read_text()
    capsys.readouterr()
    monkeypatch.setattr(script, "latencies", lambda _rounds: pytest.fail("timed again"))
    script.main(command)
    assert out.read_text() == before
    again = {name: {"median": 2.0, "shortest": 1.0} for name in names}
    monkeypatch.setattr(script, "latencies", lambda _rounds: again)
    monkeypatch.setattr(rl, "evaluate", lambda *_args, **_options: pytest.fail("evaluated again"))
    script.main([*command, "--latency-only"])
    timed = json.loads(out.read_text())["rows"]
    assert [{**row, "latency_ms": None} for row in timed] == [{**row, "latency_ms": None} for row in rows]
    assert all(row["latency_ms"] == again[row["model"]] for row in timed)


def test_latency_alone_needs_rows(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--out", str(tmp_path / "zoo.json"), "--latency-only"])
    assert "a run without it first" in capsys.readouterr().err


def test_mean_over_corruptions_has_an_interval_that_is_never_too_narrow(script: ModuleType) -> None:
    cells = [{"n": 200, "accuracy": value} for value in (0.9, 0.7, 0.5)]
    found = script.corruption_mean(cells)
    low, high = wilson(140, 200)
    assert found["value"] == pytest.approx(70) and (found["low"], found["high"]) == (100 * low, 100 * high)
