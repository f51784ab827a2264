"""The run of the matrix: figures, errors, resuming, trained files, latency by itself."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.bench.compressors import Cell, CompressorBench, Scheme, bench_compressors, read
from robustlab.bench.compressors import making as making_module
from robustlab.bench.compressors.judging import constant_signs, quality
from robustlab.compress import TrainConfig, freeze, qat
from robustlab.core.errors import ArgumentError, StoreError
from robustlab.deploy import PackedLayer, deploy, save, stored_bytes
from robustlab.models import ModelInfo, set_info

Images = Callable[[int, int], Tensor]
FOUR = [Scheme(4, 4)]


@pytest.fixture(scope="module")
def named(network: nn.Module) -> nn.Module:
    return set_info(copy.deepcopy(network), ModelInfo("small", "custom:Small", input_size=(16, 16)))


@pytest.fixture(scope="module")
def labels(network: nn.Module, images: Images) -> Tensor:
    """Right in three of four images."""
    with torch.no_grad():
        found: Tensor = network(images(24, 20)).argmax(1)
    found[::4] = (found[::4] + 1) % 4
    return found


@pytest.fixture
def bench(named: nn.Module, images: Images, labels: Tensor) -> Callable[..., CompressorBench]:
    def run(model: nn.Module = named, **changed: Any) -> CompressorBench:
        options: dict[str, Any] = {"algorithms": ["mse", "react"], "schemes": [*FOUR, Scheme(1, 1)], "iterations": 3}
        options |= {"latency": "without", **changed}
        return bench_compressors(model, [images(8, 10), images(8, 11)], images(24, 20), labels, **options)

    return run


def test_the_figures_are_those_of_the_models(
    bench: Callable[..., CompressorBench], named: nn.Module, images: Images, labels: Tensor
) -> None:
    found = bench(latency="with", data="pictures")
    assert [cell.key for cell in found.cells] == [
        ("mse", 4, 4, "raw", ""),
        ("mse", 4, 4, "corrected", ""),
        ("react", 1, 1, "untrained", ""),
    ]
    assert found.errors == [] and found.float_accuracy == 75 and found.settings.calibration == 16
    batches = [images(8, 10), images(8, 11)]
    model = rl.compress(named, weights=4, activations=4, calibration=batches)
    with torch.no_grad():
        p, q = (m(images(24, 20)).double().softmax(1) for m in (named, freeze(model)))
    raw = found.cells[0]
    assert raw.quality is not None and raw.stored is not None and raw.latency is not None
    right = (q.argmax(1) == labels).double() - (p.argmax(1) == labels).double()
    assert raw.quality.points == pytest.approx(100 * float(right.mean()))
    assert raw.quality.half_width == pytest.approx(196 * float(right.std()) / math.sqrt(24))
    divergence = (p * (p / q).log()).sum(1)
    assert raw.quality.kl == pytest.approx(float(divergence.mean()), rel=1e-3)
    assert raw.quality.kl_half_width == pytest.approx(1.96 * float(divergence.std()) / math.sqrt(24), rel=1e-3)
    assert raw.quality.accuracy == pytest.approx(75 + raw.quality.points)
    assert raw.classes == {"P": 7} and raw.binary == 0 and raw.seconds is not None
    assert raw.stored.total == stored_bytes(deploy(model))
    assert 0 < raw.latency.milliseconds < 1000 and 0 < raw.latency.float_milliseconds < 1000
    assert raw.latency.runs >= 25
    assert found.cells[2].binary == 5


def test_perfect_predictions_have_no_divergence() -> None:
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    same = quality(logits, logits, logits.argmax(1))
    assert (same.accuracy, same.points, same.half_width, same.agreement, same.kl) == (100, 0, 0, 100, 0)
    flipped = quality(-logits, logits, logits.argmax(1))
    assert flipped.accuracy < 50 and flipped.points == flipped.accuracy - 100 and flipped.kl > 0.5
    assert quality(logits[:1], logits[:1], logits[:1].argmax(1)).half_width == 0


def test_signs_behind_a_relu_are_found_to_be_constant(images: Images) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.Conv2d(8, 4, 3),
            nn.Flatten(),
            nn.Linear(400, 2),
        ]
        model = nn.Sequential(*layers).eval()
    deployed = deploy(rl.compress(model, weights=1, activations=1, algorithm="binary", calibration=images(8, 1)))
    assert constant_signs(deployed, images(8, 1)) == (1, 2)
    eight = deploy(rl.compress(model, weights=8, activations=8, calibration=images(8, 1)))
    assert constant_signs(eight, images(8, 1)) == (0, 0)


def test_a_model_that_is_not_its_simulation_is_an_error_and_the_rest_goes_on(
    bench: Callable[..., CompressorBench], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(model: nn.Module, **options: Any) -> nn.Module:
        deployed = deploy(model, **options)
        for module in deployed.modules():
            if isinstance(module, PackedLayer) and module.scheme.weight_bits == 4:
                module.packed[0] ^= 1
        return deployed

    with monkeypatch.context() as patch:
        patch.setattr(making_module, "deploy", broken)
        found = bench(algorithms=["mse"], schemes=[*FOUR, Scheme(8, 8)], out=tmp_path / "m.json")
    raw = found.cells[0]
    assert "logits of the deployed model are not the simulated ones" in raw.error
    assert raw.quality is None and raw.stored is None
    again = bench(algorithms=["mse"], schemes=FOUR, out=tmp_path / "m.json")  # an error is tried again
    assert [str(c.scheme) for c in found.errors] == ["w4a4", "w4a4"]  # the cells at eight bits are right
    assert again.errors == [] and len(again.cells) == 4 and all(c.quality is not None for c in again.cells)


def test_what_cannot_be_made_is_an_error_of_all_its_cells(
    bench: Callable[..., CompressorBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Branching(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y if float(x.sum()) > 0 else -y  # what cross-layer equalization cannot trace

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = bench(Branching(inner).eval(), algorithms=["cle", "mse"], schemes=FOUR)
    assert [(c.algorithm, c.state) for c in found.errors] == [("cle", "raw"), ("cle", "corrected")]
    assert found.errors[0].error and "\n" not in found.errors[0].error


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(
    bench: Callable[..., CompressorBench], tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if "react" in line:
            raise Stopped

    out = tmp_path / "m.json"
    with pytest.raises(Stopped):
        bench(out=out, say=stop)
    assert [c.algorithm for c in read(out).cells] == ["mse", "mse"]
    lines.clear()
    resumed = bench(out=out, say=lines.append)
    assert lines[0] == "[2/2] w1a1 react" and len(lines) == 2
    fresh = bench()
    assert [replace(c, seconds=0) for c in resumed.cells] == [replace(c, seconds=0) for c in fresh.cells]
    assert read(out) == resumed
    lines.clear()
    assert bench(out=out, say=lines.append) == resumed and lines == []
    more = bench(out=out, schemes=[Scheme(8, 8)], algorithms=["mse"])  # adds to the file
    assert len(more.cells) == 5


def test_a_file_of_other_settings_is_refused_before_any_work(
    bench: Callable[..., CompressorBench], tmp_path: Path
) -> None:
    out = tmp_path / "m.json"
    before = bench(algorithms=["mse"], schemes=FOUR, out=out)
    text = out.read_text(encoding="utf-8")
    with pytest.raises(ArgumentError, match=r"out is .*; it has iterations 3 instead of 4$"):
        bench(algorithms=["mse"], schemes=FOUR, out=out, iterations=4)
    with pytest.raises(ArgumentError, match="seed 0 instead of 1"):
        bench(algorithms=["mse"], schemes=FOUR, out=out, seed=1)
    assert out.read_text(encoding="utf-8") == text
    values = json.loads(text)
    for damage in ("{", "[]", json.dumps({**values, "schema": 2}), json.dumps({**values, "cells": [{}]})):
        out.write_text(damage, encoding="utf-8")
        with pytest.raises(StoreError, match="holds no matrix of compressors"):
            bench(algorithms=["mse"], schemes=FOUR, out=out)
    out.write_text(text, encoding="utf-8")
    assert read(out) == before


def test_latency_is_measured_later_on_the_models_that_were_kept(
    bench: Callable[..., CompressorBench], tmp_path: Path
) -> None:
    out, keep = tmp_path / "m.json", tmp_path / "kept"
    with pytest.raises(ArgumentError, match="the file of an earlier run"):
        bench(latency="only")
    first = bench(out=out, keep=keep)
    assert all(cell.latency is None for cell in first.cells)
    with pytest.raises(ArgumentError, match="keep is None"):
        bench(out=out, latency="only")
    with pytest.raises(ArgumentError, match=r"it has no mse-w4a4-raw\.safetensors"):
        bench(out=out, keep=tmp_path, latency="only")
    timed = bench(out=out, keep=keep, latency="only")
    assert [replace(cell, latency=None) for cell in timed.cells] == first.cells
    assert all(cell.latency is not None and cell.latency.milliseconds > 0 for cell in timed.cells)
    assert read(out) == timed
    (keep / "mse-w4a4-raw.safetensors").write_bytes((keep / "mse-w4a4-corrected.safetensors").read_bytes())
    with pytest.raises(ArgumentError, match="the model of its cell; this is another"):
        bench(out=out, keep=keep, latency="only")


@pytest.fixture(scope="module")
def signs() -> nn.Module:
    return rl.load("robustlab:signs_float")


def test_trained_models_take_the_place_of_untrained_ones(signs: nn.Module, tmp_path: Path) -> None:
    data = rl.datasets.load_dataset("signs")
    images, labels = data.batch(range(16))
    model = rl.compress(signs, weights=4, activations=4, algorithm="lsq", calibration=images)
    qat(model, images, labels, TrainConfig(1, batch_size=8, learning_rate=1e-4))
    deployed = deploy(model)
    info = rl.models.info_of(deployed)
    assert info is not None

    def write(name: str, **made: object) -> None:
        values = {"algorithm": "lsq", "weights": 4, "activations": 4, "epochs": 1, **made}
        save(set_info(deployed, replace(info, provenance={"compressed": values})), tmp_path / f"{name}.safetensors")

    write("one")
    write("ste", algorithm="mse")  # uniform quantizers, trained straight-through
    write("start", epochs=0)
    write("odd", algorithm="wishful")
    write("bits", weights=1)
    save(set_info(deployed, replace(info, provenance={})), tmp_path / "silent.safetensors")
    lines: list[str] = []

    def run(**options: Any) -> CompressorBench:
        options = {"algorithms": ["lsq"], "schemes": [Scheme(4, 4), Scheme(2, 2)], "latency": "without", **options}
        return bench_compressors(signs, [images], images, labels, models=tmp_path, say=lines.append, **options)

    found = run()
    assert [(c.state, str(c.scheme), c.source, c.note) for c in found.cells] == [
        ("untrained", "w2a2", "", ""),
        ("trained", "w4a4", "one", "1 epochs"),
    ]
    with torch.no_grad():
        wanted = float((deployed(images).argmax(1) == labels).double().mean())
    assert found.cells[1].quality is not None and found.cells[1].quality.accuracy == pytest.approx(100 * wanted)
    assert found.cells[1].seconds is None
    left = {line.split(":")[1].strip(): line for line in lines if line.startswith("left out")}
    assert set(left) == {f"{name}.safetensors" for name in ("bits", "odd", "silent", "start")}
    assert "was not trained" in left["start.safetensors"] and "w1a4" in left["bits.safetensors"]
    both = run(algorithms=["mse"], schemes=[Scheme(4, 4)])
    assert [(c.state, c.source) for c in both.cells] == [("raw", ""), ("corrected", ""), ("trained", "ste")]
    assert run(algorithms=["pact"], schemes=[Scheme(2, 2)]).cells[0].algorithm == "pact"  # others are not asked for
    with pytest.raises(ArgumentError, match=r"models is .*nowhere.*; allowed: an existing folder"):
        bench_compressors(signs, [images], images, labels, models=tmp_path / "nowhere")


def test_a_changed_trained_file_is_judged_again(signs: nn.Module, tmp_path: Path) -> None:
    images, labels = rl.datasets.load_dataset("signs").batch(range(8))
    out, folder = tmp_path / "m.json", tmp_path / "models"
    folder.mkdir()
    prints = []
    for seed in (0, 1):
        model = rl.compress(signs, weights=2, activations=2, algorithm="pact", calibration=images)
        qat(model, images, labels, TrainConfig(1, batch_size=4, seed=seed))
        deployed = deploy(model)
        info = rl.models.info_of(deployed)
        assert info is not None
        made = {"algorithm": "pact", "weights": 2, "activations": 2, "epochs": 1}
        save(set_info(deployed, replace(info, provenance={"compressed": made})), folder / "p.safetensors")
        bench = bench_compressors(
            signs,
            [images],
            images,
            labels,
            models=folder,
            out=out,
            algorithms=["pact"],
            schemes=[Scheme(2, 2)],
            latency="without",
        )
        (cell,) = bench.cells
        prints.append(cell.fingerprint)
    assert len(set(prints)) == 2


BAD: list[tuple[dict[str, object], str]] = [
    ({"latency": "later"}, "latency is 'later'; allowed: with, without, only"),
    ({"iterations": 0}, "iterations is 0"),
    ({"seed": -1}, "seed is -1"),
    ({"algorithms": ["gtpq"]}, "algorithm is 'gtpq'"),
    ({"out": Path("nowhere/m.json")}, "out is 'nowhere/m.json'"),
    ({"out": Path("/")}, "out is '/'"),
    ({"keep": Path("nowhere/kept")}, "keep is 'nowhere/kept'"),
    ({"keep": Path(__file__)}, "allowed: a folder, or one that can be made"),
    ({"algorithms": ["react"], "schemes": FOUR}, "bits is 'w4a4'"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_bad_arguments_are_refused(
    change: dict[str, object], words: str, bench: Callable[..., CompressorBench]
) -> None:
    with pytest.raises(ArgumentError) as caught:
        bench(**change)
    assert words in str(caught.value)


def test_bad_models_and_images_are_refused(named: nn.Module, images: Images, labels: Tensor) -> None:
    x = images(24, 20)
    small = rl.compress(named, weights=4, activations=4, calibration=x)
    for model, batches, shown, truth, words in (
        (small, [x], x, labels, "a float model; this one is compressed already"),
        (named, [], x, labels, "at least one to calibrate with"),
        (named, [x], x[:0], labels[:0], "at least one to calibrate with"),
        (named, [x], x, labels + 10, "labels is"),
        (named, [x], x * 2, labels, "values in"),
    ):
        with pytest.raises(ArgumentError, match=words):
            bench_compressors(model, batches, shown, truth, algorithms=["mse"], schemes=FOUR)


def test_cells_survive_json(bench: Callable[..., CompressorBench]) -> None:
    found = bench(algorithms=["mse"], schemes=FOUR)
    values = json.loads(json.dumps(found.as_dict()))
    assert values["schema"] == 1
    assert values["cells"][0] == asdict(found.cells[0])
    assert Cell("mse", 4, 4, "raw").key == found.cells[0].key
