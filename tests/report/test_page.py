"""The HTML report, made from results that were made up by hand: they look like a run and are nobody's measurement."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from robustlab.core import RobustlabError
from robustlab.report import hero, render, write_report
from robustlab.report.examples import ATTACKED_SAMPLES, SHARED_SAMPLES, read_examples
from robustlab.report.figures import metrics, pareto_figure, svg
from robustlab.report.style import contrast, heat
from robustlab.report.verdict import verdict
from robustlab.report.view import build_view

CONDITIONS = (
    "clean",
    "fgsm-linf-2of255",
    "pgd20-linf-1of255",
    "pgd20-linf-8of255",
    "gaussian-noise-3",
    "brightness-3",
    "contrast-3",
    "pixelate-3",
    "jpeg-compression-3",
)
MODELS = {
    "toy_float": (0.962, 0.41, 0.52, 0.0, (0.81, 0.93, 0.84, 0.91, 0.92)),
    "toy_w8a8": (0.960, 0.40, 0.51, 0.0, (0.80, 0.93, 0.84, 0.91, 0.92)),
    "toy_w4a4": (0.951, 0.38, 0.47, 0.002, (0.77, 0.90, 0.80, 0.89, 0.90)),
    "toy_w1a1": (0.918, 0.30, 0.36, 0.004, (0.66, 0.84, 0.61, 0.82, 0.83)),
    "toy_w8a8_adv": (0.884, 0.80, 0.84, 0.372, (0.83, 0.80, 0.55, 0.86, 0.87)),
}
COSTS = {
    "toy_float": (1_240_000, 2.1, 610.0),
    "toy_w8a8": (318_000, 1.35, 980.0),
    "toy_w4a4": (171_000, 1.31, 990.0),
    "toy_w1a1": (62_400, 0.92, 1530.0),
    "toy_w8a8_adv": (318_000, 1.36, 975.0),
}


@dataclass
class FixtureResults:
    """The parts of results that a report reads."""

    cells: list[dict[str, Any]] = field(default_factory=list)
    efficiency: list[dict[str, Any]] = field(default_factory=list)
    parity: list[dict[str, Any]] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    examples: list[Any] = field(default_factory=list)
    class_names: tuple[str, ...] = ()
    spread: list[dict[str, Any]] = field(default_factory=list)
    natural: list[dict[str, Any]] = field(default_factory=list)


def cell(model: str, condition: str, accuracy: float, n: int = 500) -> dict[str, Any]:
    """One row of results.json with a Wilson interval."""
    z, correct = 1.959964, round(accuracy * n)
    p = correct / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return {
        "model": model,
        "condition": condition,
        "metric": "accuracy",
        "n": n,
        "value": p,
        "ci_low": (middle - half) / scale,
        "ci_high": (middle + half) / scale,
        "correct": correct,
        "accuracy": p,
        "gradient": "none" if "linf" not in condition else "exact" if model == "toy_float" else "surrogate:ste",
        "status": "done",
        "seconds": 1.25,
    }


def png(seed: int) -> bytes:
    """A small deterministic picture."""
    y, x = np.mgrid[0:64, 0:64]
    r = np.hypot(x - 32, y - 32)
    image = np.stack([128 + 100 * np.sin(x / 9 + seed), 90 + y * 2, np.where(r < 20 + seed, 220, 60)], -1)
    buffer = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class ShownExample:
    """The fields of `robustlab.evaluate.Example`."""

    condition: str
    model: str | None
    sample: int
    label: int
    predictions: dict[str, int]
    png: bytes
    images: str = ""


def examples() -> list[ShownExample]:
    """Three samples under each condition: one picture for all models, or one per model under an attack."""
    rows = []
    for c, condition in enumerate(CONDITIONS):
        for sample in (0, 1, 2):
            said = {m: 1 if (i + c + sample) % 3 else 2 for i, m in enumerate(MODELS)}
            if "linf" in condition:
                for i, (model, number) in enumerate(said.items()):
                    rows.append(ShownExample(condition, model, sample, 1, {model: number}, png(c + i)))
            else:
                rows.append(ShownExample(condition, None, sample, 1, said, png(c + sample)))
    return rows


def full() -> FixtureResults:
    """Five models, nine conditions, every part there."""
    cells = []
    for condition in CONDITIONS:
        for name, (clean, fgsm, pgd1, pgd8, corrupted) in MODELS.items():
            accuracy = dict(zip(CONDITIONS, (clean, fgsm, pgd1, pgd8, *corrupted), strict=True))[condition]
            cells.append(cell(name, condition, accuracy))
    efficiency = [
        {
            "model": name,
            "bytes": size,
            "latency_p50_ms": latency,
            "latency_p95_ms": latency * 1.2,
            "images_per_s": rate,
            "peak_memory_bytes": 412_000_000,
            "macs": 20_400_000,
            "bit_operations": 20_400_000 * {"toy_float": 1024, "toy_w4a4": 16, "toy_w1a1": 2}.get(name, 64),
        }
        for name, (size, latency, rate) in COSTS.items()
    ]
    schemes = dict(zip(MODELS, ("float32", "w8a8", "w4a4", "w1a1 (first/last w8a8)", "w8a8"), strict=True))
    run = {
        "versions": {"robustlab": "0.1.0", "python": "3.11.2", "torch": "2.15.0"},
        "seed": 0,
        "hardware": {"cpu": "An invented processor", "threads": 2, "kernels": "avx512"},
        "configuration": {
            "models": {name: {"source": f"toys:{name}", "scheme": scheme} for name, scheme in schemes.items()},
            "data": {"name": "signs", "images": 2000, "image_size": [64, 64]},
            "suite": "quick",
            "limit": 500,
            "tile": 64,
        },
        "created": "2026-01-01T12:00:00+00:00",
    }
    parity = [{"model": name, "logits": 8000, "different": 0} for name in MODELS if name != "toy_float"]
    return FixtureResults(cells, efficiency, parity, run, list(examples()), ("yield", "stop", "speed_limit_30"))


def small() -> FixtureResults:
    """Three conditions: a page that is quickly made."""
    results = full()
    few = ("clean", "pgd20-linf-8of255", "contrast-3")
    results.cells = [row for row in results.cells if row["condition"] in few]
    results.examples = [e for e in results.examples if e.condition in few]
    return results


def compared() -> FixtureResults:
    """A suite with a reference: flips and divergence beside accuracy, and means over corruptions."""
    results = small()
    for row in results.cells:
        same = row["condition"] == "clean"
        row |= {
            "reference": "clean",
            "flip_rate": 0.0 if same else 0.128,
            "flip_low": 0.0 if same else 0.101,
            "flip_high": 0.0076 if same else 0.160,
            "kl": 0.0 if same else 0.4321,
        }
    results.spread = [
        {
            "model": name,
            "reference": "clean",
            "group": group,
            "conditions": 7,
            "n": 500,
            "reference_accuracy": 0.961,
            "mean": 0.903,
            "std": 0.0123,
            "worst": 0.877,
            "worst_condition": "platform-webp-5",
            "always": 0.742,
            "always_low": 0.70,
            "always_high": 0.78,
            "flip_rate": 0.0555,
            "worst_flip_rate": 0.1666,
            "kl": 0.1234 if group == "all" else None,
        }
        for name in MODELS
        for group in ("all", "platform-webp")
    ]
    bounds = {"ci_low": 0.6, "ci_high": 0.7, "n": 500}
    results.natural = [{"model": "toy_float", "metric": "mce_alexnet", "value": 0.6543, **bounds}]
    return results


VOID = {"meta", "img", "input", "br", "hr", "path", "use", "rect", "circle", "line", "stop"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data.replace("\N{NO-BREAK SPACE}", " ")

    def count(self, tag: str, **attributes: str) -> int:
        return sum(t == tag and all(a.get(k) == v for k, v in attributes.items()) for t, a in self.tags)


@pytest.fixture(scope="module")
def html() -> str:
    return render(full(), command="robustlab evaluate --out 'a b'")


def test_the_page_is_well_formed_and_has_every_part(html: str) -> None:
    page = Page(html)
    assert page.open == []
    for heading in ("Models", "Robustness against cost", "Accuracy per condition", "Examples", "How to read this"):
        assert heading in page.text
    assert page.count("svg") == 2 * 6  # worst, corruptions, clean and three attacks; against latency and size
    for name in MODELS:
        assert name in page.text
    assert "robustlab evaluate --out 'a b'" in page.text
    assert "surrogate:ste" in page.text and "avx512" in page.text and "An invented processor" in page.text
    shared, attacked = 6 * 3, 3 * ATTACKED_SAMPLES * len(MODELS)
    assert SHARED_SAMPLES >= 3 and page.count("img") == shared + attacked


def test_numbers_are_those_of_the_results(html: str) -> None:
    text = re.sub(r"[ \n]+", " ", Page(html).text)
    assert "37.2 ± 4.2" in text and "62.4 kB" in text and "20.4 MMAC" in text and "1.31 GBOP" in text
    assert "0 of 32\u202f000 logits differ" in text
    cells = re.findall(r'title="toy_w1a1, contrast 3: ([^"]*)"', html)
    assert cells == ["61.0 %, 95 % interval 56.7 to 65.2 %, n = 500"]


def test_comparisons_with_a_reference_are_shown() -> None:
    page = Page(render(compared()))
    text = " ".join(page.text.split())
    assert "Against the reference" in text and "compared with those under clean" in text
    assert "90.3 ± 1.2" in text and "platform webp 5" in text and "5.5 / 16.7" in text and "0.123" in text
    assert "12.8 (10.1 … 16.0)" in text and "0.432" in text  # of one cell
    assert "mCE, AlexNet = 100" in text and "65.4 (60.0 … 70.0)" in text
    assert "relative mCE" not in text  # it was not measured
    assert not page.open


def test_without_a_reference_there_is_no_word_of_one() -> None:
    text = Page(render(small())).text
    assert "Against the reference" not in text and "flips" not in text and "Corruption errors" not in text


def test_nothing_is_requested_from_outside(html: str) -> None:
    assert "http://" not in html and "https://" not in html and "@import" not in html
    for tag, attributes in Page(html).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "a")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert value is not None and value.startswith(("data:image/png;base64,", "#"))
    assert set(re.findall(r"url\(([^)]{1,2})", html)) <= {"#p"}


def test_ids_are_unique_and_every_reference_exists(html: str) -> None:
    ids = [a["id"] for _, a in Page(html).tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = {a["href"] for t, a in Page(html).tags if t == "use"} | set(re.findall(r"url\((#[^)]*)\)", html))
    assert used and {str(u)[1:] for u in used} <= set(ids)


def test_names_are_escaped_everywhere() -> None:
    results = small()
    evil = "<script>alert(1)</script>$x_1$&\"'"
    for row in (*results.cells, *results.efficiency, *results.parity):
        row["model"] = evil if row["model"] == "toy_w4a4" else row["model"]
    models = results.run["configuration"]["models"]
    models[evil] = {**models.pop("toy_w4a4"), "scheme": "<marquee>w4a4"}
    results.class_names = ("<q>", "<img src=x>", '"')
    results.examples = [
        ShownExample(e.condition, e.model, e.sample, e.label, {evil: 1, **e.predictions}, e.png)
        for e in results.examples
    ]
    page = Page(render(results, command="robustlab evaluate --model '<script>'"))
    assert page.count("script") == page.count("marquee") == 0
    assert page.count("img", src="x") == page.count("q") == 0
    assert evil in page.text and "<marquee>w4a4" in page.text and "<img src=x>" in page.text


def test_the_same_results_give_the_same_bytes() -> None:
    assert render(small(), command="c") == render(small(), command="c")
    assert hero(small()) == hero(small())


@pytest.mark.parametrize(
    ("missing", "absent"),
    [
        ("efficiency", "Robustness against cost"),
        ("parity", "The deployed kernels equal"),
        ("examples", "Under an attack every model gets its own image"),
        ("run", "Versions, hardware"),
        ("cells", "Accuracy per condition"),
    ],
)
def test_a_missing_part_is_left_out(missing: str, absent: str) -> None:
    assert absent in Page(render(small())).text
    results = small()
    setattr(results, missing, type(getattr(results, missing))())
    page = Page(render(results))
    assert absent not in page.text and page.open == []


def test_results_of_nothing_give_a_page() -> None:
    page = Page(render(FixtureResults()))
    assert "Nothing was measured" in page.text and page.open == []


def test_one_model_under_one_condition() -> None:
    results = small()
    results.cells = [c for c in results.cells if c["model"] == "toy_float" and c["condition"] == "clean"]
    results.efficiency, results.parity, results.examples = results.efficiency[:1], [], []
    page = Page(render(results))
    assert page.count("svg") == 2
    assert "Without attack toy_float is right on 96.2 %." in page.text


def test_cells_that_were_not_attacked_are_marked() -> None:
    results = small()
    results.cells[6] |= {"status": "not_attacked"}
    results.cells[11] |= {"accuracy": None, "value": None, "ci_low": None, "ci_high": None, "n": 0, "status": "budget"}
    text = render(results)
    assert "not attacked" in text and "–" in Page(text).text and "n = 500, not attacked" in text


def test_numbers_that_are_not_finite_are_left_out() -> None:
    results = small()
    results.efficiency[0] |= {"latency_p50_ms": float("nan"), "bytes": None}
    results.efficiency[1] |= {"latency_p50_ms": 0.0}
    page = Page(render(results))
    assert "nan" not in page.text and page.open == []


def test_the_verdict_names_the_most_robust_and_does_not_claim_ties() -> None:
    assert verdict(build_view(small()))[0] == (
        "toy_w8a8_adv keeps 37.2 % accuracy under its worst attack (PGD-20 ℓ∞ 8/255); the other 4 keep at most 0.4 %."
    )
    tied = small()
    for row in tied.cells:
        if row["condition"] == "pgd20-linf-8of255" and row["model"] == "toy_w8a8":
            row |= cell("toy_w8a8", row["condition"], 0.35)
    assert "the 95 % interval of toy_w8a8 overlaps" in verdict(build_view(tied))[0]


def test_the_verdict_calls_an_undefended_set_undefended() -> None:
    results = small()
    results.cells = [c for c in results.cells if c["model"] != "toy_w8a8_adv"]
    assert verdict(build_view(results))[0] == (
        "None of the 4 models keeps more than 0.4 % accuracy under the worst attack (PGD-20 ℓ∞ 8/255): undefended."
    )


def test_the_verdict_warns_of_different_logits() -> None:
    results = small()
    results.parity[1]["different"] = 3
    assert "WARNING: deployed kernels and simulation differ in 3 of" in verdict(build_view(results))[-1]
    assert "✗ 3" in Page(render(results)).text


def test_the_hero_is_a_picture_with_and_without_costs() -> None:
    for results in (small(), FixtureResults(cells=small().cells)):
        with Image.open(io.BytesIO(hero(results))) as image:
            assert image.format == "PNG" and image.width > 1200


def test_figures_leave_the_global_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    render(small())
    hero(small())
    assert dict(matplotlib.rcParams) == before


def test_labels_do_not_overlap() -> None:
    view = build_view(full())
    for metric, label in metrics(view):
        for cost in ("latency_p50_ms", "bytes"):
            figure = pareto_figure(view, metric, label, cost)
            assert figure is not None
            ax = figure.axes[0]
            renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
            boxes = [t.get_window_extent(renderer) for t in ax.texts]
            assert len(boxes) == len(MODELS)
            crossed = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
            assert crossed == [], f"{metric} {cost}"
            assert "<text" in svg(figure, "x")


def test_examples_are_the_first_samples() -> None:
    assert {e.sample for e in read_examples(small()) if "linf" in e.condition} == {0, 1}
    assert {e.label for e in read_examples(small())} == {"stop"}
    names = {p.name for e in read_examples(small()) for picture in e.pictures for p in picture.predictions}
    assert names == {"stop", "speed limit 30"}


def test_the_heat_maps_numbers_can_be_read() -> None:
    for step in range(101):
        assert contrast(*heat(step / 100)) >= 4.5


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_report(FixtureResults(), tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == render(FixtureResults())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(RobustlabError, match=r"report path is .*nowhere"):
        write_report(FixtureResults(), tmp_path / "nowhere" / "report.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RobustlabError, match="a file that can be written"):
        write_report(FixtureResults(), tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "report.html"]
