"""`robustlab faults` and `robustlab transfer`: what they write, resume and refuse."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from robustlab.cli import run

TINY = ["--limit", "16", "--search-images", "16", "--seeds", "1"]
MODELS = ["--model", "robustlab:signs_w8a8", "--part", "scales"]


def test_faults_writes_curves_and_a_picture_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["faults", *MODELS, *TINY, "--flips", "1", "--random-flips", "8", "--out", str(tmp_path)]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert "signs_w8a8  scales  bfa" in said and "random" in said
    content = json.loads((tmp_path / "faults.json").read_text())
    rows = {row["search"]: row for row in content["rows"]}
    assert rows["bfa"]["bits"] == 11520
    assert rows["bfa"]["curves"][0]["points"][1]["flips"] == 1
    assert rows["random"]["curves"][0]["points"][-1]["flips"] <= 8
    assert (tmp_path / "faults.png").read_bytes()[:4] == b"\x89PNG"
    stamp = (tmp_path / "faults-kept.json").stat().st_mtime_ns
    assert run(command) == 0
    assert (tmp_path / "faults-kept.json").stat().st_mtime_ns == stamp
    assert json.loads((tmp_path / "faults.json").read_text()) == content
    (tmp_path / "faults-kept.json").write_text("not mine")
    assert run(command) == 2
    assert "faults-kept.json holds no results" in capsys.readouterr().err


def test_transfer_writes_the_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["signs_w8a8", "signs_w4a4"]
    options = [part for name in names for part in ("--model", f"robustlab:{name}")]
    command = ["transfer", *options, "--attack", "fgsm-linf-4of255", "--limit", "16", "--out", str(tmp_path)]
    assert run(command) == 0
    assert "made on" in capsys.readouterr().out
    content = json.loads((tmp_path / "transfer.json").read_text())
    assert [(c["source"], c["target"]) for c in content["cells"]] == [(s, t) for s in names for t in names]
    for cell in content["cells"]:
        assert 0 <= cell["ci_low"] <= cell["accuracy"] <= cell["ci_high"] <= 1
        assert cell["accuracy"] <= cell["clean"]
    with (tmp_path / "transfer.csv").open() as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [c["accuracy"] for c in content["cells"]]
    assert (tmp_path / "transfer.png").read_bytes()[:4] == b"\x89PNG"
    stamp = (tmp_path / "transfer-kept.json").stat().st_mtime_ns
    assert run(command) == 0
    assert (tmp_path / "transfer-kept.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["faults", "--part", "bits"], ["--part is 'bits'", "weights"]),
        (["faults", "--search", "best"], ["--search is 'best'", "bfa, random"]),
        (["faults", "--flips", "0"], ["--flips is 0", ">= 1"]),
        (["faults", "--seed", "-1"], ["--seed is -1"]),
        (["faults", "--limit", "0"], ["--limit is '0'"]),
        (["faults", *MODELS, "--target", "nothing"], ["--target is 'nothing'"]),
        (["faults", "--model", "robustlab:nope"], ["model is 'nope'"]),
        (["transfer", "--attack", "pgd"], ["attack is 'pgd'"]),
        (["transfer", "--tile", "0"], ["--tile is 0"]),
        (["transfer", "--model", "robustlab:nope"], ["model is 'nope'"]),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error
