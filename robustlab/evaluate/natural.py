"""Robustness to natural corruptions, from per-sample outcomes: corruption errors, their means, the worst case.

Sources: D. Hendrycks, T. Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019 (CE, mCE); Y. Xiao et al., "RobustMQ: benchmarking robustness of quantized models", Visual
Intelligence 2023 (natural robustness: mean accuracy over the fifteen corruptions and five severities).

Every mean here is a mean over samples of one number per sample, so that its interval counts each image once, however
many of its corrupted copies were looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from robustlab.datasets.corruptions import COMMON, CORRUPTIONS, SEVERITIES
from robustlab.evaluate.metrics import Z95, wilson

Correct = NDArray[np.bool_]
MADE_FROST = "frost_procedural"
IMAGENET_CLASSES, IMAGENET_SIDE = 1000, 224

# Errors of AlexNet on ImageNet-C, mean over the severities, as published by its authors with the benchmark.
ALEXNET_ERROR: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


# Of the means over all corruptions, how tables name them.
MEAN_LABELS = (
    ("mce_unnormalised", "mCE, un-normalised"),
    ("relative_mce_unnormalised", "relative mCE, un-normalised"),
    ("mce_alexnet", "mCE, AlexNet = 100"),
    ("worst_case", "right under all corruptions"),
    ("predicted_mce_unnormalised", "predicted mCE, un-normalised"),
    ("predicted_mce_alexnet", "predicted mCE, AlexNet = 100"),
)


class NaturalRow(TypedDict):
    """One row of `results.json`'s ``natural``: a metric of one model with its 95 % interval.

    ``ce_unnormalised:NAME`` is the mean error under one corruption over its five severities, and
    ``mce_unnormalised`` its mean over the fifteen common ones; ``natural_robustness`` is one minus that;
    ``relative_mce_unnormalised`` is the mean increase of the error over that without corruption;
    ``ce_alexnet:NAME`` and ``mce_alexnet`` are divided by AlexNet's published errors (1 is as bad as AlexNet);
    ``worst_case`` is the share of samples that are right under all of the 75.
    """

    model: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int


def _mean(model: str, metric: str, values: NDArray[np.float64], low: float, high: float) -> NaturalRow:
    """The mean of one number per sample; its normal interval, clipped to [low, high]."""
    n = len(values)
    value, half = float(values.mean()), half_width(values, low, high)
    return NaturalRow(
        model=model, metric=metric, value=value, ci_low=max(low, value - half), ci_high=min(high, value + half), n=n
    )


def half_width(values: NDArray[np.float64], low: float, high: float) -> float:
    """Half of the 95 % interval of the mean of `values` (n,), n >= 1, which lie in [low, high]."""
    n = len(values)
    half = Z95 * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else high - low
    if half == 0.0:
        # All samples alike says less than an interval of no width: as for a proportion of none.
        half = wilson(0, n)[1] * (high - low)
    return half


def natural_rows(
    correct: Mapping[tuple[str, str], Correct], *, classes: int, image_size: tuple[int, ...]
) -> list[NaturalRow]:
    """The metrics of every model, from bool (n,) per (model, condition key), the samples in one order.

    A corruption counts where all of its five severities were measured, the means where all fifteen common ones were.
    Errors relative to AlexNet's are given for 1000 classes at 224 x 224 pixels, and its mean only with the original
    frost textures: for other data there is nothing to compare with.
    """
    rows: list[NaturalRow] = []
    imagenet = classes == IMAGENET_CLASSES and image_size == (IMAGENET_SIDE, IMAGENET_SIDE)
    for model in dict.fromkeys(name for name, _ in correct):
        mine = {key: value for (name, key), value in correct.items() if name == model}
        errors = {name: error for name in CORRUPTIONS if (error := _error(mine, name)) is not None}
        for name, error in errors.items():
            rows.append(_mean(model, f"ce_unnormalised:{name}", error, 0.0, 1.0))
            if imagenet and name in ALEXNET_ERROR:
                scale = ALEXNET_ERROR[name]
                rows.append(_mean(model, f"ce_alexnet:{name}", error / scale, 0.0, 1 / scale))
        rows += _means(model, mine, errors, imagenet)
    return rows


def _keys(name: str) -> list[str]:
    return [f"{name.replace('_', '-')}-{severity}" for severity in SEVERITIES]


def _error(mine: Mapping[str, Correct], name: str) -> NDArray[np.float64] | None:
    """Mean error of each sample over the severities of a corruption; None where one was not measured."""
    keys = _keys(name)
    if not all(key in mine and len(mine[key]) for key in keys):
        return None
    error: NDArray[np.float64] = np.mean([~mine[key] for key in keys], axis=0, dtype=np.float64)
    return error


def _means(
    model: str, mine: Mapping[str, Correct], errors: Mapping[str, NDArray[np.float64]], imagenet: bool
) -> list[NaturalRow]:
    """What is computed over all fifteen; the made textures of frost stand in for the photographed ones."""
    chosen = [MADE_FROST if name == "frost" and name not in errors else name for name in COMMON]
    if not all(name in errors for name in chosen):
        return []
    error: NDArray[Any] = np.mean([errors[name] for name in chosen], axis=0)
    rows = [
        _mean(model, "mce_unnormalised", error, 0.0, 1.0),
        _mean(model, "natural_robustness", 1 - error, 0.0, 1.0),
    ]
    if "clean" in mine:
        rows.append(_mean(model, "relative_mce_unnormalised", error - ~mine["clean"], -1.0, 1.0))
    if imagenet and "frost" in chosen:
        scaled: NDArray[Any] = np.mean([errors[name] / ALEXNET_ERROR[name] for name in chosen], axis=0)
        rows.append(_mean(model, "mce_alexnet", scaled, 0.0, 1 / min(ALEXNET_ERROR.values())))
    always = np.logical_and.reduce([mine[key] for name in chosen for key in _keys(name)])
    low, high = wilson(int(always.sum()), len(always))
    rows.append(
        NaturalRow(
            model=model,
            metric="worst_case",
            value=float(always.mean()),
            ci_low=low,
            ci_high=high,
            n=len(always),
        )
    )
    return rows
