"""Pipelines and platforms as conditions: what is compared, spread, left out, resumed, and refused."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import robustlab as rl
from robustlab.core import ArgumentError, StoreError
from robustlab.core.keys import sample_keys, uniform
from robustlab.datasets.files import lossless
from robustlab.datasets.systematic import REFERENCE_KEY, Pipeline, develop, libraries
from robustlab.evaluate import (
    PipelineCondition,
    PlatformCondition,
    Results,
    SilentListener,
    Suite,
    comparison,
    parse_condition,
)
from robustlab.evaluate.comparison import Comparison, LogitCache, compare, join_comparisons, read_comparison
from robustlab.evaluate.conditions import check_conditions
from robustlab.evaluate.suites import SUITES, parse_suite
from robustlab.evaluate.systematic import parse_systematic

KEYS = (
    REFERENCE_KEY,
    "pillow-rgb-pillow.nearest-square",
    "pillow-rgb-pillow.bicubic-square",
    "pillow-bgr-pillow.bilinear-square",
    "pillow-rgb-torch.bilinear-short",
)
SIZE = (16, 16)


class Files:
    """Coloured noise as PNG or JPEG files of 23 x 31 pixels; the class is the channel that is brightest."""

    name = "files"
    class_names = ("red", "green", "blue")
    image_size = SIZE

    def __init__(self, count: int = 70, kind: str = "PNG") -> None:
        self.jpeg = kind == "JPEG"
        self.fingerprint = f"{count}{kind}"
        pixels = uniform(sample_keys(3, "files", range(count)), (23, 31, 3))
        for i in range(count):
            pixels[i, :, :, i % 3] += 0.01
        self.contents = []
        for picture in (pixels.clamp(0, 1) * 255).byte().numpy():
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, kind)
            self.contents.append(buffer.getvalue())

    def __len__(self) -> int:
        return len(self.contents)

    def files(self, indices: Sequence[int]) -> list[bytes]:
        return [self.contents[i] for i in indices]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        images = develop(self.files(indices), Pipeline(resizer="pillow.box", protocol="direct"), SIZE)
        return images, torch.tensor([i % 3 for i in indices])


def net(seed: int) -> nn.Module:
    """Colour channels against each other, by 4 x 4 blocks, with a little noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(48, 3)
    with torch.no_grad():
        linear.weight.copy_(3 * torch.randn(linear.weight.shape, generator=generator))
        for channel in range(3):
            linear.weight[channel, channel * 16 : channel * 16 + 16] += 3
        linear.bias.copy_(-0.5 * linear.weight.sum(1))
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), linear)


def nets() -> dict[str, nn.Module]:
    return {"one": net(1), "two": net(2)}


def suite(keys: Sequence[str] = KEYS, reference: str | None = REFERENCE_KEY) -> Suite:
    return Suite("mine", "Pipelines", check_conditions(keys), reference)


def run(out: Path, data: Any = None, chosen: Suite | None = None, **options: Any) -> Results:
    return rl.evaluate(nets(), data or Files(), chosen or suite(), out=out, tile=16, efficiency=False, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    out = tmp_path_factory.mktemp("systematic")
    return out, run(out)


def logits_by_hand(model: nn.Module, key: str) -> Tensor:
    """In tiles, as the runner does it."""
    shown = develop(Files().contents, parse_pipeline_of(key), SIZE)
    padded = torch.cat([shown, shown[:10]])
    with torch.no_grad():
        return torch.cat([model(padded[i : i + 16]) for i in range(0, 80, 16)])[:70].double()


def parse_pipeline_of(key: str) -> Pipeline:
    condition = parse_condition(key)
    assert isinstance(condition, PipelineCondition)
    return condition.pipeline


def test_accuracy_flips_and_divergence_are_those_by_hand(done: tuple[Path, Results]) -> None:
    truth = torch.tensor([i % 3 for i in range(70)])
    for name, model in nets().items():
        before = logits_by_hand(model, REFERENCE_KEY)
        for key in KEYS:
            after, row = logits_by_hand(model, key), done[1].cell(name, key)
            assert row["correct"] == int((after.argmax(1) == truth).sum())
            assert row["flips"] == int((after.argmax(1) != before.argmax(1)).sum())
            p, q = before.softmax(1), after.softmax(1)
            expected = float((p * (p.log() - q.log())).sum(1).mean())
            assert row["kl"] == pytest.approx(expected, rel=1e-4, abs=1e-9)
            assert row["reference"] == REFERENCE_KEY and row["flip_low"] <= row["flip_rate"] <= row["flip_high"]  # type: ignore[operator]
    reference, nearest = (done[1].cell("one", key) for key in KEYS[:2])
    assert reference["flips"] == 0 and reference["kl"] == 0
    assert nearest["flips"] and nearest["kl"] and nearest["kl_low"] < nearest["kl"] < nearest["kl_high"]  # type: ignore[operator]


def test_spread_is_that_of_the_cells(done: tuple[Path, Results]) -> None:
    rows = {(row["model"], row["group"]): row for row in done[1].spread}
    assert {group for _, group in rows} == {"all", "resizer", "bug", "several"}
    truth = torch.tensor([i % 3 for i in range(70)])
    for name, model in nets().items():
        row, keys = rows[name, "all"], [KEYS[1], KEYS[2], KEYS[4]]
        accuracies = [done[1].cell(name, key)["accuracy"] for key in keys]
        assert row["conditions"] == 3 and row["mean"] == pytest.approx(np.mean(accuracies))
        assert row["std"] == pytest.approx(np.std(accuracies)) and row["worst"] == min(accuracies)
        assert done[1].cell(name, row["worst_condition"])["accuracy"] == row["worst"]
        right = [logits_by_hand(model, key).argmax(1) == truth for key in (REFERENCE_KEY, *keys)]
        assert row["always"] == pytest.approx(float(torch.stack(right).all(0).double().mean()))
        assert row["always"] <= row["worst"]
        assert rows[name, "bug"]["worst_condition"] == KEYS[3]
    document = json.loads((done[0] / "results.json").read_text())
    assert document["spread"] == done[1].spread and Results.load(done[0]).spread == done[1].spread
    assert "flip_rate" in (done[0] / "results.csv").read_text().splitlines()[0]


def test_a_second_run_and_another_batch_size_give_the_same(done: tuple[Path, Results], tmp_path: Path) -> None:
    again = run(done[0])
    assert again.run["cells_computed"] == 0 and again.spread == done[1].spread
    other = run(tmp_path, batch_size=16)

    def without_time(results: Results) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in results.cells]

    assert without_time(other) == without_time(done[1]) == without_time(again)


def test_another_reference_compares_the_cells_that_are_there(done: tuple[Path, Results]) -> None:
    """The mismatch the other way round: outcomes stay, comparisons are made anew, without the reference's logits."""
    turned = run(done[0], chosen=suite(KEYS, KEYS[1]))
    for name in nets():
        there, back = done[1].cell(name, KEYS[1]), turned.cell(name, REFERENCE_KEY)
        assert there["flips"] == back["flips"] and there["kl"] != back["kl"]
        assert turned.cell(name, KEYS[2])["correct"] == done[1].cell(name, KEYS[2])["correct"]
    last = run(done[0], chosen=suite([*KEYS[2:], REFERENCE_KEY], REFERENCE_KEY))
    assert last.cell("one", KEYS[2])["kl"] == done[1].cell("one", KEYS[2])["kl"]
    plain = run(done[0], chosen=suite(KEYS, None))
    assert plain.cell("one", KEYS[1])["flips"] is None and plain.spread == []


def test_a_killed_run_goes_on_and_ends_with_the_same(done: tuple[Path, Results], tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Stop(SilentListener):
        seen = 0

        def cell(self, row: Any) -> None:
            Stop.seen += 1
            if Stop.seen == 5:
                raise Killed

    with pytest.raises(Killed):
        run(tmp_path, listener=Stop())
    assert run(tmp_path).spread == done[1].spread


def test_what_cannot_be_had_is_left_out_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libraries._LIBRARIES, "ffmpeg", ("no_such_module", "av"))
    decoder, draft = "ffmpeg-rgb-pillow.bilinear-square", "pillow.draft-rgb-pillow.bilinear-square"
    results = run(tmp_path, chosen=suite([*KEYS[:2], decoder, draft, "platform-h264-1"]))
    left_out = results.run["configuration"]["left_out"]
    assert set(left_out) == {decoder, draft, "platform-h264-1"} and results.conditions == KEYS[:2]
    assert "av not installed" in left_out[decoder] and "JPEG files only" in left_out[draft]
    for chosen in ([KEYS[0], decoder], suite([decoder, KEYS[0]], decoder), suite([draft], None)):
        with pytest.raises(ArgumentError, match=r"can be had here: (av not|decoder pillow\.draft)"):
            rl.evaluate(nets(), Files(), chosen, out=tmp_path / "none", tile=16)
    assert not (tmp_path / "none").exists()


def test_versions_of_libraries_are_recorded_and_part_of_the_key(
    done: tuple[Path, Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "libjpeg-turbo" in done[1].run["versions"]["pillow"]
    before = parse_condition(REFERENCE_KEY).parameters
    monkeypatch.setattr("robustlab.datasets.systematic.pipeline.version", lambda library: "another")
    assert parse_condition(REFERENCE_KEY).parameters != before


def test_data_without_files_is_resized_without_loss(tmp_path: Path) -> None:
    signs = rl.datasets.load_dataset("signs")
    condition = PipelineCondition(Pipeline(resizer="torch.bicubic"))
    images, labels = signs.batch(range(3))
    expected = develop(lossless(images), condition.pipeline, (64, 64))
    assert torch.equal(condition.show_samples(signs, range(3), images).images, expected)
    assert torch.equal(condition.show(images, labels, labels, None).images, expected)


def test_platforms_are_conditions(tmp_path: Path) -> None:
    chosen = suite(["clean", "platform-jpeg-1", "platform-webp-5"], "clean")
    results = run(tmp_path, chosen=chosen)
    assert {row["group"] for row in results.spread} == {"all", "platform-jpeg", "platform-webp"}
    assert results.cell("one", "platform-webp-5")["l2_mean"] > results.cell("one", "platform-jpeg-1")["l2_mean"] > 0
    assert PlatformCondition("jpeg", 2).key == "platform-jpeg-2"

    class Tiny(Files):
        image_size = (12, 12)

    assert "smaller than 16" in str(PlatformCondition("jpeg", 2).unavailable(Tiny(1)))


def test_keys() -> None:
    assert parse_condition("platform-chain-4") == PlatformCondition("chain", 4)
    assert parse_systematic("gaussian-noise-3") is None
    for key, words in (
        ("platform-jpeg-6", "severity is 6"),
        ("platform-myspace-1", "platform is 'myspace'"),
        ("pillow-rgb-pillow.bilinear-squared", "did you mean square"),
        ("nonsense", "pillow-rgb-pillow.bilinear-square"),
    ):
        with pytest.raises(ArgumentError, match=words):
            parse_condition(key)


def test_bundled_suites_have_twenty_pipelines_and_a_reference() -> None:
    chosen = SUITES["imagenet-s"]
    pipelines = [c.pipeline for c in chosen.conditions if isinstance(c, PipelineCondition)]
    assert len({p.key for p in pipelines}) == len(chosen.conditions) >= 20 and chosen.reference == REFERENCE_KEY
    assert {p.factor(Pipeline()) for p in pipelines} >= {"decoder", "colour", "resizer", "protocol", "bug", "none"}
    assert SUITES["platform"].reference == "clean" and len(SUITES["platform"].conditions) == 21
    assert SUITES["cifar10-s"].reference_condition is not None


def test_references_are_checked() -> None:
    text = 'name = "a"\ndescription = "b"\nconditions = ["clean", "fgsm-linf-2of255"]\nreference = '
    assert parse_suite(text + '"clean"', "x").reference == "clean"
    for value, words in (
        ('"brightness-1"', "reference of suite a is 'brightness-1'"),
        ('"fgsm-linf-2of255"', "allowed: clean"),
        ("3", "reference in suite x is 3"),
    ):
        with pytest.raises(ArgumentError, match=words):
            parse_suite(text + value, "x")


def test_comparisons_of_logits_that_are_not_finite() -> None:
    nan = float("nan")
    before = torch.tensor([[1.0, 2.0], [nan, 0.0], [nan, 0.0], [3.0, 1.0]])
    after = torch.tensor([[1.0, 2.0], [1.0, 2.0], [nan, 1.0], [float("inf"), 1.0]])
    found = compare(before, after)
    assert found.flipped.tolist() == [False, True, False, True]
    assert found.divergence[0] == 0 and np.isnan(found.divergence[1:]).all()
    again = read_comparison(json.loads(json.dumps(found.payload())), 4)
    assert again.flipped.tolist() == found.flipped.tolist()
    assert np.array_equal(again.divergence, found.divergence, equal_nan=True)
    for payload in ({}, {"flipped": [1], "divergence": [0.0]}, {"flipped": None, "divergence": ["x"]}):
        with pytest.raises(StoreError):
            read_comparison(payload, 4)


def test_the_cache_of_logits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "KEPT_BYTES", 100)
    cache = LogitCache()
    for start in (0, 4, 8):
        cache.put("m", range(start, start + 4), torch.zeros(4, 3))
    assert [cache.get("m", range(s, s + 4)) is not None for s in (0, 4, 8)] == [False, True, True]
    assert cache.get("other", range(4, 8)) is None


def test_joining_keeps_order() -> None:
    parts = [Comparison(np.array([True]), np.array([1.0])), Comparison(np.array([False]), np.array([2.0]))]
    assert join_comparisons(parts).divergence.tolist() == [1, 2]
