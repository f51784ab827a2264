"""`robustlab bench compressors`: the matrix as printed, its files, its exit codes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import robustlab as rl
from robustlab.bench.compressors import judging, read
from robustlab.cli import run
from robustlab.deploy import save
from robustlab.models import ModelInfo, build, set_info

QUICK = ["--images", "24", "--calibration", "16", "--iterations", "3", "--latency", "without"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a float model of a few layers, for the data set signs; its weights are not trained."""
    arguments = {"classes": 24, "widths": [4, 8], "blocks": [1, 1]}
    model = build("robustlab:signs_resnet", arguments)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    info = ModelInfo("tiny", "robustlab:signs_resnet", arguments, input_size=(64, 64))
    return save(set_info(model, info), tmp_path_factory.mktemp("models") / "tiny.safetensors")


def test_the_matrix_is_printed_stored_and_timed_later(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--out", str(tmp_path / "m.json"), "--keep", str(tmp_path / "kept")]
    some = ["--algorithm", "mse", "--algorithm", "gptq", "--algorithm", "react", "--bits", "w4a8", "--bits", "w1a1"]
    command = ["bench", "compressors", str(tiny), *some, *files]
    assert run([*command, *QUICK, "--markdown", str(tmp_path / "m.md")]) == 0
    captured = capsys.readouterr()
    bench = read(tmp_path / "m.json")
    assert [(c.algorithm, c.state) for c in bench.cells] == [
        ("mse", "raw"),
        ("mse", "corrected"),
        ("gptq", "raw"),
        ("gptq", "corrected"),
        ("react", "untrained"),
    ]
    assert (bench.settings.images, bench.settings.calibration, bench.settings.data) == (24, 16, "signs")
    rows = [line.split() for line in captured.out.splitlines() if line.startswith("w")]
    assert [row[:3] for row in rows] == [["w4a8", "mse", "P"], ["w4a8", "gptq", "P"], ["w1a1", "react", "P"]]
    assert captured.err.splitlines()[0] == "[1/3] w4a8 mse" and len(captured.err.splitlines()) == 8
    assert (tmp_path / "m.md").read_text(encoding="utf-8").count("| w4a8 |") == 2
    assert len(list((tmp_path / "kept").iterdir())) == 5
    assert run([*command, *QUICK[:-2], "--latency", "only", "--threads", str(torch.get_num_threads())]) == 0
    assert "1 thread" in capsys.readouterr().out or torch.get_num_threads() > 1
    assert all(cell.latency is not None for cell in read(tmp_path / "m.json").cells)


def test_a_difference_is_shown_and_ends_with_another_exit_code(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Shifted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(x)
            return logits + 1e-6

    monkeypatch.setattr(judging, "optimize", lambda model: Shifted(rl.optimize(model)))
    assert run(["bench", "compressors", str(tiny), "--algorithm", "mse", "--bits", "w8a8", *QUICK]) == 3
    shown = capsys.readouterr().out
    assert "Errors" in shown and "logits of the optimized model are not the simulated ones" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bits", "w4"], ["--bits is 'w4'", "w2a2 to w8a8 such as w4a8, or w1a1"]),
        (["--bits", "w1a4"], ["--bits is 'w1a4'"]),
        (["--bits", "w9a9"], ["--bits is 'w9a9'"]),
        (["--algorithm", "gtpq"], ["--algorithm is 'gtpq'", "did you mean gptq"]),
        (["--algorithm", "react", "--bits", "w4a4"], ["bits is 'w4a4'", "react"]),
        (["--images", "0"], ["--images is 0"]),
        (["--calibration", "0"], ["--calibration is 0"]),
        (["--iterations", "0"], ["--iterations is 0"]),
        (["--latency", "later"], ["--latency is 'later'", "with, without, only"]),
        (["--latency", "only"], ["out is None"]),
        (["--threads", "0"], ["--threads is 0"]),
        (["--models", "nowhere"], ["models is 'nowhere'"]),
        (["--out", "nowhere/m.json"], ["--out is 'nowhere/m.json'"]),
        (["--markdown", "."], ["--markdown is '.'"]),
        (["--data", "wishful"], ["wishful"]),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], said: list[str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    options = ["--images", "8", "--calibration", "8", *arguments]
    assert run(["bench", "compressors", str(tiny), *options]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    assert all(word in lines[0] for word in said), lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_compressed_model_is_refused(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "compressors", "robustlab:signs_w4a4", *QUICK]) == 2
    assert "a float model; this one is compressed already" in capsys.readouterr().err
