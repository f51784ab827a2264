"""From an int8 ONNX file and a folder of images to a report, by the commands of docs/foreign.md."""

from __future__ import annotations

import json
import logging
import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import robustlab as rl
from robustlab.cli.app import run

# ImageNet's, in the order of a model that takes BGR.
MEAN, STD = (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)
RIGHT = ["--mean", "0.406,0.456,0.485", "--std", "0.225,0.224,0.229", "--channels", "bgr"]
RGB = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
KINDS = {"blue": (40, 128, 220), "red": (220, 128, 40), "light": (220, 220, 220), "night": (30, 30, 30)}  # as BGR
COUNTS = {"blue": 20, "red": 20, "light": 10, "night": 10}


@pytest.fixture(scope="module")
def shipped(nets: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An int8 file, and a folder with photos of what its four classes are, in the order of their names."""
    folder = tmp_path_factory.mktemp("shipped")
    path = nets.quantized(folder / "net-int8.onnx", nets.colour_net(), spread=2.0)
    (folder / "net-int8.onnx.json").write_text(json.dumps({"class_names": ["red", "blue", "light", "night"]}))
    generator = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(count):
            image = np.array(KINDS[name][::-1]) + generator.integers(-30, 31, (8, 8, 3))
            Image.fromarray(image.astype(np.uint8)).save(folder / "photos" / name / f"{number:03}.png")
    return path, folder / "photos"


def test_three_commands_from_a_file_to_a_report(
    shipped: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, photos = shipped
    out = tmp_path / "net"
    model = str(path)
    assert run(["show", model, *RIGHT]) == 0
    shown = capsys.readouterr().out
    assert "w8a8" in shown and "surrogate:onnx-ste" in shown
    evaluated = ["evaluate", "--model", model, "--data", f"imagefolder:{photos}", "--out", str(out), *RIGHT]
    assert run([*evaluated, "--condition", "clean", "--condition", "pgd5-linf-16of255"]) == 0
    said = capsys.readouterr()
    assert "surrogate: net-int8: surrogate and artefact give" in said.out
    assert "preprocessing" not in said.err
    report = (out / "report.html").read_text()
    assert "another class" in report
    rows = json.loads((out / "results.json").read_text())
    clean = next(cell for cell in rows["cells"] if cell["condition"] == "clean")
    assert clean["accuracy"] == 1.0
    converted = ["convert", model, "--data", f"imagefolder:{photos}", "--out", str(tmp_path / "net.safetensors")]
    assert run([*converted, *RIGHT]) == 0
    assert "images get the class ONNX Runtime gives" in capsys.readouterr().out
    assert rl.load(tmp_path / "net.safetensors") is not None


@pytest.mark.parametrize(("options", "right"), [(RGB, 33), ([], 17)])
def test_a_wrong_order_of_channels_or_normalisation_is_suspected_and_the_options_are_said(
    shipped: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    options: list[str],
    right: int,
) -> None:
    path, photos = shipped
    command = ["evaluate", "--model", str(path), "--data", f"imagefolder:{photos}", "--condition", "clean", *options]
    with caplog.at_level(logging.WARNING, logger="robustlab"):
        assert run([*command, "--out", str(tmp_path / "out")]) == 0
    (said,) = [record.getMessage() for record in caplog.records if "preprocessing" in record.getMessage()]
    assert f"only {right} % of a few clean images are right (chance: 25 %)" in said
    assert "it would be 100 %" in said
    assert "try --channels bgr --pixel-range 1 --mean 0.406,0.456,0.485 --std 0.225,0.224,0.229" in said
    capsys.readouterr()


def test_a_folder_may_have_some_of_the_classes_that_the_model_names(
    shipped: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, photos = shipped
    some = tmp_path / "some"
    for name in ("night", "red"):
        shutil.copytree(photos / name, some / name)
    command = ["evaluate", "--data", f"imagefolder:{some}", "--condition", "clean", *RIGHT]
    assert run([*command, "--model", str(path), "--out", str(tmp_path / "out")]) == 0
    (cell,) = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    assert (cell["accuracy"], cell["n"]) == (1.0, 30)
    unnamed = tmp_path / "unnamed.onnx"
    shutil.copy(path, unnamed)
    assert run([*command, "--model", str(unnamed), "--out", str(tmp_path / "other")]) == 2
    assert f"or a side-car {unnamed}.json whose class_names are all of the model's" in capsys.readouterr().err
    shutil.copytree(photos / "blue", some / "green")
    assert run([*command, "--model", str(path), "--out", str(tmp_path / "other")]) == 2
    assert "made for other classes (green)" in capsys.readouterr().err


def test_preprocessing_on_the_command_line_reaches_an_attack(
    shipped: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path, photos = shipped
    command = ["attack", str(path), "--data", f"imagefolder:{photos}", "--limit", "60", "--attack", "pgd2-linf-4of255"]
    with caplog.at_level(logging.WARNING, logger="robustlab"):
        assert run([*command, "--out", str(tmp_path / "plain")]) == 0
        assert "try --channels bgr" in caplog.text
        caplog.clear()
        assert run([*command, *RIGHT, "--out", str(tmp_path / "right")]) == 0
        assert "preprocessing" not in caplog.text
    (row,) = json.loads((tmp_path / "right" / "attack.json").read_text())["attacks"]
    assert row["clean"] == 1.0
    capsys.readouterr()


def test_preprocessing_on_the_command_line_reaches_an_audit(
    shipped: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from robustlab.evaluate.audit import Settings

    path, photos = shipped
    small = Settings(steps=2, long_steps=2, queries=4, probe_images=2, rounds=1)
    monkeypatch.setattr(import_module("robustlab.evaluate.audit.api"), "Settings", lambda: small)
    common = ["audit", str(path), "--data", f"imagefolder:{photos}", "--limit", "60", "--eps", "1/255"]
    with caplog.at_level(logging.WARNING, logger="robustlab"):
        assert run([*common, "--out", str(tmp_path / "plain")]) == 0
        assert "try --channels bgr" in caplog.text
        caplog.clear()
        assert run([*common, *RIGHT, "--out", str(tmp_path / "right")]) == 0
        assert "preprocessing" not in caplog.text
    found = json.loads((tmp_path / "right" / "audit.json").read_text())
    assert found["clean"]["value"] == 1.0
    capsys.readouterr()


@pytest.mark.parametrize("command", ["show", "attack", "audit", "evaluate"])
def test_preprocessing_without_an_onnx_file_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "robustlab:signs_w4a4"] if command == "evaluate" else ["robustlab:signs_w4a4"]
    assert run([command, *model, "--mean", "0.5,0.5,0.5"]) == 2
    assert "nothing where no model is an ONNX file" in capsys.readouterr().err
    assert run([command, *model, "--mean", "0.5"]) == 2
    assert "--mean is '0.5'; allowed: three numbers" in capsys.readouterr().err
