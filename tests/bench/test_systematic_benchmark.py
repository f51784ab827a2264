"""benchmarks/systematic_findings.py on made-up outcomes: statements hold, fail or stay open as they were made to."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from robustlab.datasets.corruptions import COMMON
from robustlab.evaluate import load_suite
from robustlab.evaluate.spread import group_of

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("float", "w8a8", "w4a4")


@pytest.fixture(scope="module")
def found() -> ModuleType:
    path = ROOT / "benchmarks" / "systematic_findings.py"
    spec = importlib.util.spec_from_file_location("systematic_findings", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.RESAMPLES = 300
    return module


def natural(found: ModuleType, shares: Mapping[str, float], models: tuple[float, ...], images: int = 200) -> Any:
    """Outcomes in which a share of the clean accuracy is left under each corruption."""
    keys = ("clean", *(key for name in COMMON for key in found.corruption_keys(name)))
    left = [1.0, *(shares.get(name, 0.7) for name in COMMON for _ in range(5))]
    rng = np.random.default_rng(0)
    correct = {
        model: (rng.random((len(keys), images)) < clean * np.array(left)[:, None]).astype(float)
        for model, clean in zip(MODELS, models, strict=True)
    }
    return found.Samples(MODELS, keys, correct, {}, {}, {}, None)


def verdicts(findings: list[Any]) -> dict[str, str]:
    return {f.statement: f.verdict for f in findings}


def test_statements_on_corruptions(found: ModuleType) -> None:
    shares = {"impulse_noise": 0.5, "glass_blur": 0.4, "brightness": 0.9}
    said = verdicts(found.natural_findings(natural(found, shares, (0.95, 0.75, 0.55))))
    assert said["natural robustness: falls with every step to fewer bits"] == "holds"
    assert said["natural robustness as a share of clean accuracy: w8a8 is below float"] == "cannot be told"
    assert said["impulse noise and glass blur are among the three most harmful"] == "holds"
    assert said["brightness is the least harmful"] == "holds"
    other = {"impulse_noise": 0.95, "brightness": 0.3}
    said = verdicts(found.natural_findings(natural(found, other, (0.5, 0.9, 0.7))))
    assert said["natural robustness: w8a8 is below float"] == "does not hold"
    assert said["natural robustness: falls with every step to fewer bits"] == "does not hold"
    assert said["impulse noise and glass blur are among the three most harmful"] == "does not hold"
    assert said["brightness is the least harmful"] == "does not hold"


def pipelines(found: ModuleType, divergence: Mapping[str, float]) -> Any:
    """Outcomes of the suite imagenet-s with these mean divergences; the rest have 0.5."""
    suite = load_suite("imagenet-s")
    assert suite.reference_condition is not None
    keys = tuple(condition.key for condition in suite.conditions)
    groups = {c.key: group_of(c, suite.reference_condition) for c in suite.conditions if c.key != suite.reference}
    rng = np.random.default_rng(0)
    values = np.array([divergence.get(key, 0.5) for key in keys])[:, None] * rng.uniform(0.9, 1.1, (len(keys), 100))
    same = dict.fromkeys(MODELS, values)
    right = {model: np.ones_like(values) for model in MODELS}
    flips = {model: (rng.random(values.shape) < 0.1).astype(float) for model in MODELS}
    return found.Samples(MODELS, keys, right, same, flips, groups, suite.reference)


def test_statements_on_pipelines(found: ModuleType) -> None:
    mild = {"opencv.bilinear": 0.1, "pillow.bicubic": 0.2, "opencv.cubic": 0.2, "opencv.area": 0.1}
    strong = {"pillow.nearest": 0.9, "opencv.nearest": 0.8}
    made = {f"pillow-rgb-{name}-square": value for name, value in (mild | strong).items()}
    decoders = dict.fromkeys(("ffmpeg-rgb-pillow.bilinear-square", "simplejpeg.fast-rgb-pillow.bilinear-square"), 0.01)
    said = verdicts(found.systematic_findings(pipelines(found, made | decoders)))
    assert said["w4a4: both nearest neighbours diverge most"] == "holds"
    assert said["w4a4: bilinear, cubic and area diverge least"] == "holds"
    assert said["w4a4: decoders diverge less than resizers"] == "holds"
    assert said["mean accuracy: w4a4 is below float"] == "does not hold"
    made["pillow-rgb-pillow.box-square"] = made["pillow-rgb-opencv.area-square"] / 2
    made["pillow-rgb-pillow.nearest-square"] = 0.3
    said = verdicts(found.systematic_findings(pipelines(found, made)))
    assert said["w4a4: both nearest neighbours diverge most"] == "does not hold"
    assert said["w4a4: bilinear, cubic and area diverge least"] == "does not hold"
