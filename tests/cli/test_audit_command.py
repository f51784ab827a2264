"""`robustlab audit`: the report, the gate, what is kept, and what is refused."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from robustlab.cli import run
from robustlab.evaluate.audit import Settings

FAST = ("--limit", "3", "--eps", "1/255", "--threads", "1")


@pytest.fixture(autouse=True)
def _small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Settings(steps=2, long_steps=2, queries=4, probe_images=2, rounds=1)
    monkeypatch.setattr(import_module("robustlab.evaluate.audit.api"), "Settings", lambda: small)


def test_a_report_a_gate_and_parts_that_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["audit", "robustlab:signs_w8a8", *FAST, "--out", str(tmp_path)]
    assert run([*command, "--fail-below", "F"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 31 and lines[0].startswith("audit") and lines[1].startswith("grade")
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["schema"] == 1 and content["model"] == "signs_w8a8" and content["images"] == 3
    page = (tmp_path / "audit.html").read_text()
    assert page.count("<svg") == 2 and content["grade"] in page
    assert run(command) == 0
    assert "; 0 parts were there already" not in capsys.readouterr().out


def test_a_missed_gate_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(import_module("robustlab.evaluate.audit"), "below", lambda grade, wanted: True)
    assert run(["audit", "robustlab:signs_w8a8", *FAST, "--out", str(tmp_path), "--fail-below", "A"]) == 1
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--eps", "0"], "--eps is '0'"),
        (["--eps", "8/0"], "--eps is '8/0'"),
        (["--eps", "big"], "--eps is 'big'"),
        (["--eps", "l2"], "--eps is 'l2'"),
        (["--eps", "l1-3"], "--eps is 'l1-3'"),
        (["--fail-below", "G"], "--fail-below is 'G'"),
        (["--limit", "none"], "--limit is 'none'"),
        (["--seed", "-1"], "--seed is -1"),
        (["--out", "/proc/x"], "--out is '/proc/x'"),
        (["--reference", "robustlab:nothing"], "nothing"),
        (["--data", "nothing"], "nothing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["audit", "robustlab:signs_w8a8", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
