"""The command line: help, one-line errors with exit code 2, and whole runs of small models."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.live import Live

from robustlab import __version__
from robustlab.cli import run
from robustlab.cli.live import LiveTable, Work, relative_cost
from robustlab.compress import Spec, made_for, read_spec, write_spec
from robustlab.deploy import load, read_model_file, save, stored_bytes
from robustlab.models import ModelInfo, build, set_info

COMMANDS = ("evaluate", "audit", "corrupt", "compress", "allocate", "show", "list", "doctor")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, without real data nearby."""
    folder = tmp_path / "work" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ROBUSTLAB_DATA", raising=False)
    return folder


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
    info = ModelInfo("tiny", "robustlab:signs_resnet", arguments, input_size=(64, 64), provenance={"made": "by hand"})
    return save(set_info(model, info), tmp_path_factory.mktemp("models") / "tiny.safetensors")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a bad command line gives."""
    assert run(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    return lines[0]


@pytest.mark.parametrize("command", [*COMMANDS, "bench kernels", "bench compressors"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert f"Example: robustlab {command}" in " ".join(capsys.readouterr().out.split())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS) and "Example" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"robustlab {__version__}\n"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--learning-rate 0.1", "--learning-rate"),
        ("--training-images 10", "--training-images"),
        ("--distillation 0.5 --epochs 1", "--distillation"),
        ("--teacher nobody --epochs 1", "--teacher"),
        ("--algorithm lsq+free --epochs 1", "--algorithm"),
        ("--out /proc/x.safetensors", "--out"),
    ],
)
def test_compress_names_what_it_cannot_use(
    options: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compress", "robustlab:signs_float", "--out", str(tmp_path / "x.safetensors"), *options.split()]
    assert refused(capsys, *arguments).startswith(f"error: {named}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "named"),
    [("--out /proc/x", "--out"), ("--markdown /proc/x", "--markdown"), ("--keep /proc/x", "--keep")],
)
def test_bench_compressors_checks_its_files_first(options: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "compressors", "robustlab:signs_float", *options.split()]
    assert refused(capsys, *arguments).startswith(f"error: {named}")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--budget 9bits", "budget"),
        ("--budget 999999999999999999999999999", "budget"),
        ("--budget 4bits --sensitivity /nope/x", "--sensitivity"),
    ],
)
def test_allocate_checks_its_arguments_first(
    options: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["allocate", "robustlab:signs_float", "--out", str(tmp_path / "s.toml"), *options.split()]
    assert refused(capsys, *arguments).startswith(f"error: {named}")


def test_the_help_of_compress_names_every_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    from robustlab.compress.catalogue import ALGORITHMS

    assert run(["compress", "--help"]) == 0
    words = set(re.split(r"[^a-z_+]+", capsys.readouterr().out))
    assert set(ALGORITHMS) <= words


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from robustlab.cli import run; code = run(['--help']); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'matplotlib', 'numpy')))"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    assert time.perf_counter() - begin < 10, "measured 0.2 s on an idle core"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "--nonsense"], ["--nonsense"]),
        (["evaluate", "--seed", "x"], ["--seed is 'x'", "a whole number"]),
        (["evaluate", "--seed=x"], ["--seed is 'x'", "a whole number"]),
        (["evaluate", "--seed", "-1"], ["--seed is -1", ">= 0"]),
        (["evaluate", "--tile", "0"], ["--tile is 0", "from 1 to 65536"]),
        (["evaluate", "--batch-size", "0"], ["--batch-size is 0", ">= 1"]),
        (["evaluate", "--threads", "0"], ["--threads is 0"]),
        (["evaluate", "--limit", "0"], ["--limit is '0'", "all"]),
        (["evaluate", "--limit", "1.5"], ["--limit is '1.5'", "fraction"]),
        (["evaluate", "--suite", "quik"], ["suite is 'quik'", "quick"]),
        (["evaluate", "--suite", "other", "--condition", "clean"], ["--condition is 'clean'"]),
        (["evaluate", "--condition", "pgd20-linf"], ["is 'pgd20-linf'", "linf-EPS"]),
        (["evaluate", "--model", "nowhere.safetensors"], ["model is 'nowhere.safetensors'", "robustlab:NAME"]),
        (["evaluate", "--model", "robustlab:nope"], ["model is 'nope'", "signs_w4a4"]),
        (["evaluate", "--model", "robustlab:signs_float", "--compress", "w9a9"], ["--compress is 'w9a9'", "w2a2"]),
        (["evaluate", "--model", "robustlab:signs_float", "--data", "nope"], ["data is 'nope'", "signs"]),
        (["evaluate", "--model", "robustlab:signs_float", "--data", "imagefolder:nowhere"], ["nowhere"]),
        (["frobnicate"], ["'frobnicate'", "allowed: evaluate, ", "compress, ", "show, list, doctor"]),
        (["list"], ["kind"]),
        (["list", "colours"], ["kind is 'colours'", "models, datasets, attacks, corruptions, ", "suites"]),
        (["show", "nowhere"], ["model is 'nowhere'"]),
        (["compress", "robustlab:signs_float"], ["--out"]),
        (["compress", "m", "--out", "m.safetensors", "--algorithm", "magic"], ["--algorithm is 'magic'", "percentile"]),
        (["compress", "m", "--out", "m.safetensors", "--algorithm", "gtpq"], ["did you mean gptq"]),
        (
            ["compress", "m", "--out", "m.safetensors", "--algorithm", "binary", "--statistics-correction"],
            ["--statistics-correction is True"],
        ),
        (["compress", "m", "--out", "m.safetensors", "--iterations", "5"], ["--iterations is 5", "adaround, brecq"]),
        (
            ["compress", "m", "--out", "m.safetensors", "--algorithm", "brecq", "--iterations", "0"],
            ["--iterations is 0"],
        ),
        (["compress", "m", "--out", "m.safetensors", "--weights", "1"], ["--weights is 1", "2 to 8"]),
        (
            ["compress", "m", "--out", "m.safetensors", "--algorithm", "react", "-w", "4"],
            ["--weights is 4", "1 with --algorithm react"],
        ),
        (["compress", "m", "--out", "m.safetensors", "--epochs", "-1"], ["--epochs is -1"]),
        (["compress", "m", "--out", "m.safetensors", "--teacher", "t"], ["--teacher is 't'", "--epochs"]),
        (
            ["compress", "m", "--out", "m.safetensors", "--epochs", "1", "--teacher", "t", "--distillation", "0"],
            ["--distillation is 0"],
        ),
        (["compress", "m", "--out", "m.safetensors", "--learning-rate", "0"], ["--learning-rate is 0"]),
        (["compress", "m", "--out", "m.safetensors", "--seed", "-1"], ["--seed is -1"]),
        (["compress", "m", "--out", "m.safetensors", "--spec", "no.toml"], ["spec is 'no.toml'", "an existing TOML"]),
        (
            ["compress", "m", "--out", "m.safetensors", "--spec", "no.toml", "-w", "4"],
            ["--weights is 4", "left out with --spec"],
        ),
        (["compress", "m", "--out", "m.safetensors", "--granularity", "row"], ["--granularity is 'row'", "group"]),
        (
            ["compress", "m", "--out", "m.safetensors", "--group-size", "64"],
            ["--group-size is 64", "granularity channel"],
        ),
        (
            ["compress", "m", "--out", "m.safetensors", "--granularity", "group", "--group-size", "65"],
            ["--group-size is 65", "a multiple of 64"],
        ),
        (
            ["compress", "m", "--out", "m.safetensors", "--affine", "--algorithm", "gptq"],
            ["--affine is True", "another --algorithm than gptq"],
        ),
        (["compress", "m", "--out", "no/folder/m.safetensors"], ["--out is 'no/folder/m.safetensors'"]),
        (["allocate", "m", "--out", "s.toml"], ["--budget"]),
        (["allocate", "m", "--out", "s.toml", "-b", "much"], ["budget is 'much'", "4bits"]),
        (["allocate", "m", "--out", "s.toml", "-b", "4bits", "--cost", "energy"], ["--cost is 'energy'", "latency"]),
        (["allocate", "m", "--out", "s.toml", "-b", "300us"], ["budget is '300us'", "a size, as 140kB"]),
        (["allocate", "m", "--out", "s.toml", "-b", "4bits", "--score", "cleen"], ["score is 'cleen'", "corruption"]),
        (["allocate", "m", "--out", "s.toml", "-b", "4bits", "--choices", "w9a9"], ["--choices is 'w9a9'", "w2a2"]),
        (["allocate", "m", "--out", "s.toml", "-b", "4bits", "--choices", "w4a4,w4a4"], ["'w4a4'", "each choice once"]),
        (["allocate", "m", "--out", "s.toml", "-b", "4bits", "--algorithm", "lsq"], ["--algorithm is 'lsq'", "gptq"]),
        (["allocate", "m", "--out", "s.toml", "-b", "4bits", "--images", "0"], ["--images is 0"]),
        (["allocate", "m", "--out", "s.toml", "-b", "4bits", "--seed", "-1"], ["--seed is -1"]),
        (["allocate", "m", "--out", "s.toml", "-b", "4bits", "--spec", "no.toml"], ["spec is 'no.toml'"]),
        (
            ["allocate", "m", "--out", "s.toml", "-b", "4bits", "--spec", "no.toml", "--seed", "1"],
            ["--seed is 1", "left out with --spec"],
        ),
        (["allocate", "m", "--out", "no/folder/s.toml", "-b", "4bits"], ["--out is 'no/folder/s.toml'"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: list[str], said: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *arguments)
    assert all(part in line for part in said), line
    assert list(here.iterdir()) == []


def test_an_error_is_not_wrapped_or_coloured_when_piped(here: Path) -> None:
    name = "x" * 300 + ".safetensors"
    done = subprocess.run(
        [sys.executable, "-m", "robustlab.cli", "evaluate", "--condition", name],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "40"},
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "\x1b" not in done.stderr and "condition is" in done.stderr


def test_an_out_that_is_a_file_is_refused(here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("mine")
    line = refused(capsys, "evaluate", "--model", str(tiny), "--out", "file")
    assert "out is 'file'" in line and (here / "file").read_text() == "mine"
    assert [p.name for p in here.iterdir()] == ["file"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text"])
def test_a_damaged_model_file_is_refused(
    damage: str, here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(tiny.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[-1] ^= 1
    else:
        data = bytearray(b"no model at all\n")
    (here / "bad.safetensors").write_bytes(data)
    for arguments in (("show",), ("evaluate", "--model")):
        assert "bad.safetensors" in refused(capsys, *arguments, "bad.safetensors")
    assert [p.name for p in here.iterdir()] == ["bad.safetensors"]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("models", ["robustlab:signs_float", "robustlab:signs_w1a1", "robustlab:cifar_resnet20"]),
        ("datasets", ["signs", "cifar10", "imagefolder"]),
        ("attacks", ["fgsm", "pgd"]),
        ("corruptions", ["gaussian-noise", "jpeg-compression"]),
        ("suites", ["quick", "pgd20-linf-8of255"]),
    ],
)
def test_list_names_what_there_is(kind: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", kind]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in names)


def test_doctor_probes_the_conventions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) in (0, 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    failed = [line for line in lines if line.startswith("  FAIL") and "bundled models" not in line]
    assert failed == []
    good = [line for line in lines if line.startswith("  ok")]
    assert len([line for line in good if "pinned" in line or "half to even" in line]) == 4
    assert any("in use" in line for line in lines) and any("ROBUSTLAB_DATA" in line for line in lines)


def test_show_tells_layers_and_provenance(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(tiny)]) == 0
    text = capsys.readouterr().out
    assert "provenance.made" in text and "by hand" in text and "robustlab:signs_resnet" in text
    assert "32 bit" in text and "float32" in text and "kMAC" in text


EVALUATE = ("--limit", "6", "--tile", "4", "--condition", "clean", "--condition", "fgsm-linf-2of255")


def test_evaluate_makes_a_twin_and_every_file_and_resumes(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--model", str(tiny), *EVALUATE, "--out", "run"]
    assert run(command) == 0
    first = capsys.readouterr()
    assert first.err == ""
    assert "compressing tiny to w8a8 with 512 training images" in first.out
    assert "[4/4]  tiny-w8a8  fgsm-linf-2of255" in first.out
    assert "parity: 0 of 144 logits differ between simulation and deployed kernels" in first.out
    assert "cells: 0 of 4 came from the store, 4 computed" in first.out
    names = {"report.html", "results.csv", "results.json", "results.sqlite"}
    assert names <= {p.name for p in (here / "run").iterdir()}
    assert all(str(Path("run") / name) in first.out for name in names)
    page = (here / "run" / "report.html").read_text(encoding="utf-8")
    assert "tiny-w8a8" in page and "robustlab evaluate --model" in page and "w8a8" in page
    document = json.loads((here / "run" / "results.json").read_text(encoding="utf-8"))
    assert [c["model"] for c in document["cells"]] == ["tiny", "tiny-w8a8"] * 2
    assert document["parity"] == [{"model": "tiny-w8a8", "logits": 144, "different": 0}]

    assert run(command) == 0
    assert "cells: 4 of 4 came from the store, 0 computed" in capsys.readouterr().out
    again = json.loads((here / "run" / "results.json").read_text(encoding="utf-8"))
    assert again["cells"] == document["cells"]
    with (here / "run" / "results.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_evaluate_without_twins(here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--model", str(tiny), *EVALUATE[:4], "--condition", "clean", "--compress", "none"]) == 0
    text = capsys.readouterr().out
    assert "[1/1]  tiny" in text and "parity: no deployed model in this run" in text
    assert (here / "robustlab-run" / "report.html").is_file()


def test_interrupting_says_how_to_go_on(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["robustlab.evaluate"], "evaluate", interrupt)
    assert run(["evaluate", "--model", str(tiny), "--compress", "none"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command resumes\n"


def test_a_bug_keeps_its_traceback(tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(sys.modules["robustlab.evaluate"], "evaluate", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(["evaluate", "--model", str(tiny), "--compress", "none"])


@pytest.mark.parametrize("epochs", [0, 1])
def test_compress_writes_a_model_that_show_and_evaluate_read(
    epochs: int, here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--weights", "4", "--activations", "4", "--calibration-images", "32", "--epochs", str(epochs)]
    options += ["--training-images", "64"] if epochs else []
    assert run(["compress", str(tiny), *options, "--out", "small.safetensors"]) == 0
    text = capsys.readouterr().out
    assert "times smaller" in text and "same prediction on" in text and text.count("epoch 1: loss") == epochs
    assert [p.name for p in here.iterdir()] == ["small.safetensors"]
    assert run(["show", "small.safetensors"]) == 0
    text = capsys.readouterr().out
    assert "w4a4" in text and "surrogate:ste" in text and " 4 bit" in text and " 8 bit" in text
    assert "provenance.compressed.algorithm" in text
    assert "small" in refused(capsys, "compress", "small.safetensors", "--out", "smaller.safetensors")
    assert run(["evaluate", "--model", "small.safetensors", "--limit", "4", "--condition", "clean"]) == 0
    text = capsys.readouterr().out
    assert "[1/1]  small " in text and "parity: 0 of" in text


def test_compress_imitates_a_teacher_and_re_estimates_batch_norms(
    here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-w", "2", "-a", "2", "--algorithm", "lsq", "--calibration-images", "32", "--training-images", "64"]
    options += ["--epochs", "1", "--teacher", str(tiny), "--distillation", "0.9"]
    assert run(["compress", str(tiny), *options, "--out", "small.safetensors"]) == 0
    assert "training for 1 epochs" in capsys.readouterr().out
    assert run(["show", "small.safetensors"]) == 0
    text = capsys.readouterr().out
    assert "provenance.compressed.distillation" in text and "0.9" in text and str(tiny)[:20] in text
    line = refused(
        capsys, "compress", str(tiny), *options[:-4], "--teacher", "robustlab:signs_w4", "--out", "x.safetensors"
    )
    assert "model is 'signs_w4'" in line


@pytest.mark.parametrize(
    "algorithm", [["kl"], ["cle"], ["bias_correction"], ["gptq"], ["qdrop", "--iterations", "3", "--seed", "4"]]
)
def test_compress_takes_every_kind_of_algorithm(
    algorithm: list[str], here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--weights", "3", "--activations", "3", "--calibration-images", "16", "--statistics-correction"]
    assert run(["compress", str(tiny), *options, "--algorithm", *algorithm, "--out", "small.safetensors"]) == 0
    assert "times smaller" in capsys.readouterr().out
    assert run(["show", "small.safetensors"]) == 0
    text = capsys.readouterr().out
    assert algorithm[0] in text and "provenance.compressed.statistics_correction" in text


def test_compress_does_what_a_spec_says(here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["compress", str(tiny), "--calibration-images", "16", "--out"]
    assert run([*base, "one.safetensors", "-w", "3", "-a", "4", "--algorithm", "gptq", "--seed", "7"]) == 0
    assert run([*base, "three.safetensors", "--granularity", "tensor", "--affine"]) == 0
    affine = read_model_file("three.safetensors").metadata
    assert affine.provenance["compressed"]["weight_scheme"] == {"granularity": "tensor", "symmetric": False}
    assert any(layer.weight_zero_point for layer in affine.layers.values())
    spec = Spec(3, 4, "gptq", seed=7, made_for=made_for(load(tiny)), notes={"why": "a test"})
    assert run([*base, "two.safetensors", "--spec", str(write_spec(spec, "spec.toml"))]) == 0
    one, two = (read_model_file(name) for name in ("one.safetensors", "two.safetensors"))
    assert one.metadata.selftest == two.metadata.selftest
    made = [file.metadata.provenance["compressed"] for file in (one, two)]
    assert made[1].pop("notes") == {"why": "a test"}
    assert made[0] == made[1]
    assert (made[0]["weights"], made[0]["activations"], made[0]["algorithm"], made[0]["seed"]) == (3, 4, "gptq", 7)
    line = refused(capsys, "compress", "robustlab:signs_float", "--spec", "spec.toml", "--out", "four.safetensors")
    assert "what the spec of robustlab:signs_resnet was made for" in line
    assert not Path("four.safetensors").exists()


def test_allocate_writes_a_spec_that_compress_takes(here: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--calibration-images", "16", "--images", "16", "--choices", "w2a2,w4a4,w8a8"]
    command = ["allocate", str(tiny), *few, "--budget", "4bits", "--out", "spec.toml"]
    assert run(command) == 0
    text = capsys.readouterr().out
    assert "w8a8" in text and "(no choice)" in text and "uniform w4a4" in text and "predicted KL" in text
    assert sorted(p.name for p in here.iterdir()) == ["spec.toml", "spec.toml.sensitivity.json"]
    spec, kept = Path("spec.toml").read_bytes(), Path("spec.toml.sensitivity.json").read_bytes()
    os.utime("spec.toml.sensitivity.json", ns=(1, 1))
    assert run(command) == 0
    assert Path("spec.toml").read_bytes() == spec and Path("spec.toml.sensitivity.json").read_bytes() == kept
    assert Path("spec.toml.sensitivity.json").stat().st_mtime_ns == 1, "nothing was measured again"
    capsys.readouterr()
    made = ["compress", str(tiny), "--calibration-images", "16", "--out"]
    assert run([*made, "small.safetensors", "--spec", "spec.toml"]) == 0
    assert run([*made, "uniform.safetensors", "-w", "4", "-a", "4"]) == 0
    small, uniform = (stored_bytes(load(name)) for name in ("small.safetensors", "uniform.safetensors"))
    assert small == read_spec("spec.toml").notes["cost"]["predicted"] <= uniform
    capsys.readouterr()
    line = refused(capsys, *command[:-4], "--budget", "10B", "--out", "spec.toml")
    assert "budget is 10 bytes; allowed: at least" in line
    line = refused(capsys, "allocate", "small.safetensors", "--budget", "4bits", "--out", "other.toml")
    assert "a float model" in line


def test_the_live_table_fills_in(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Live(console=screen, auto_refresh=False) as live:
        table = LiveTable(live)
        table.planned(["a", "b"], ["clean", "pgd20-linf-8of255"], 100)
        table.start("evaluate", 8)
        table.advance(2, "a clean")
        table.cell(_row("a", "clean", 100))  # type: ignore[arg-type]
        table.cell(_row("b", "clean", 50))  # type: ignore[arg-type]
        table.efficiency({"model": "a", "latency_p50_ms": 1.5})  # type: ignore[typeddict-item]
        table.parity({"model": "b", "logits": 10, "different": 0})
        table.finish()
    plain = Console(file=io.StringIO(), width=100)
    plain.print(table.table())
    assert isinstance(plain.file, io.StringIO)
    text = plain.file.getvalue()
    assert "90.0 ±2.0" in text and "·" in text and "1.50" in text and "logits that differ" in text


def _row(model: str, condition: str, n: int) -> dict[str, object]:
    bounds = {"accuracy": 0.9, "ci_low": 0.88, "ci_high": 0.92}
    return {"model": model, "condition": condition, "n": n, "status": "done", "seconds": 1.0, **bounds}


def test_the_share_of_work_knows_that_attacks_cost_more() -> None:
    assert relative_cost("pgd20-linf-8of255") == 61 and relative_cost("fgsm-linf-2of255") == 4
    assert relative_cost("contrast-3") == relative_cost("clean") == 1
    work = Work(["clean", "pgd20-linf-8of255"], 20)
    assert work.done(0) == 0 and work.done(20) == 1 and work.done(25) == 1
    assert work.done(10) == pytest.approx(1 / 62)
    shares = [work.done(units) for units in range(21)]
    assert shares == sorted(shares)
