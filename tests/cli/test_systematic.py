"""Pipelines on the command line: listed, compared with a reference, calibrated through, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from robustlab.cli import run
from robustlab.datasets.systematic import DECODERS, RESIZERS
from robustlab.deploy import save
from robustlab.models import ModelInfo, build, set_info

NEAREST, REFERENCE = "pillow-rgb-pillow.nearest-square", "pillow-rgb-pillow.bilinear-square"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    arguments = {"classes": 24, "widths": [4, 8], "blocks": [1, 1]}
    model = build("robustlab:signs_resnet", arguments)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    info = ModelInfo("tiny", "robustlab:signs_resnet", arguments, input_size=(64, 64))
    return str(save(set_info(model, info), tmp_path_factory.mktemp("models") / "tiny.safetensors"))


def test_parts_and_platforms_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "pipelines"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in [*DECODERS, *RESIZERS])
    assert run(["list", "platforms"]) == 0
    assert "platform-webp" in capsys.readouterr().out


def test_a_run_with_a_reference_and_a_calibration_pipeline(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "--model", tiny, "--condition", NEAREST, "--condition", REFERENCE, "--limit", "8"]
    command += ["--compress", "w8a8", "--calibrate-through", NEAREST, "--reference", NEAREST, "--tile", "8"]
    assert run(command) == 0
    document = json.loads((tmp_path / "robustlab-run" / "results.json").read_text())
    cells = {(row["model"], row["condition"]): row for row in document["cells"]}
    assert set(cells) == {(m, c) for m in ("tiny", "tiny-w8a8") for c in (NEAREST, REFERENCE)}
    assert cells["tiny", NEAREST]["kl"] == 0 and cells["tiny", REFERENCE]["kl"] > 0
    assert {row["reference"] for row in document["spread"]} == {NEAREST}
    assert "worst" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--reference", "clean"], "reference of suite custom is 'clean'"),
        (["--calibrate-through", "pillow-rgb-nearest-square"], "resizer is 'nearest'"),
        (["--calibrate-through", NEAREST, "--compress", "none"], "--calibrate-through"),
    ],
)
def test_refusals(
    arguments: list[str],
    words: str,
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["evaluate", "--model", tiny, "--condition", NEAREST, *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "robustlab-run").exists()
