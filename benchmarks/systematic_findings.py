"""RobustMQ's findings as statements that are true, false or undecided for per-sample outcomes.

Every statement is tried on resamples of the images (the same for all models and conditions, so that differences are
paired). It holds if it is true in at least 97.5 % of them, fails if it is true in at most 2.5 %, and otherwise these
images cannot tell.

Source: Y. Xiao et al., "RobustMQ: benchmarking robustness of quantized models", Visual Intelligence 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustlab.datasets.corruptions import COMMON, SEVERITIES
from robustlab.evaluate.conditions import Condition
from robustlab.evaluate.plan import Plan, Subject, make_plan, read_batch
from robustlab.evaluate.reference import Reference
from robustlab.evaluate.spread import BUG, group_of
from robustlab.evaluate.store import FILE_NAME, Store

RESAMPLES = 10_000
Array = NDArray[np.float64]
Statement = Callable[[Array], NDArray[np.bool_]]

# The resizers of RobustART, but its reference, by the interpolation they are named after.
KINDS = {
    "nearest": ("pillow.nearest", "opencv.nearest"),
    "bilinear": ("opencv.bilinear",),
    "cubic": ("pillow.bicubic", "opencv.cubic"),
    "area": ("opencv.area",),
    "box": ("pillow.box",),
    "hamming": ("pillow.hamming",),
    "lanczos": ("pillow.lanczos", "opencv.lanczos4"),
}


@dataclass(frozen=True)
class Samples:
    """Per-sample outcomes: (conditions, images) by model; divergence and flips are empty without a reference.

    `groups` says what differs from the reference, by condition.
    """

    models: tuple[str, ...]
    conditions: tuple[str, ...]
    correct: Mapping[str, Array]
    divergence: Mapping[str, Array]
    flipped: Mapping[str, Array]
    groups: Mapping[str, str]
    reference: str | None

    @property
    def count(self) -> int:
        """Images."""
        return next(iter(self.correct.values())).shape[1]

    def rows(self, wanted: Sequence[str]) -> list[int]:
        """Of these conditions in the arrays."""
        return [self.conditions.index(key) for key in wanted]


@dataclass(frozen=True)
class Finding:
    """A statement, the share of the resamples in which it is true, and figures that go with it."""

    statement: str
    share: float
    figures: str

    @property
    def verdict(self) -> str:
        """In words."""
        return "holds" if self.share >= 0.975 else "does not hold" if self.share <= 0.025 else "cannot be told"


def read_samples(specs: Mapping[str, str], data: str, suite: str, out: Path, limit: int) -> Samples:
    """The outcomes of a finished evaluation, from its store."""
    plan = make_plan(dict(specs), data, suite, out=out, limit=limit, batch_size=128, tile=64, seed=0, device="cpu")
    compared = tuple(c for c in plan.conditions if plan.suite.reference is not None and c.key != plan.suite.reference)
    with Store(out / FILE_NAME) as store:
        reference = Reference(plan, store, {}, lambda ids: read_batch(plan.data, ids))
        divergence, flipped = {}, {}
        for subject in plan.subjects if compared else ():
            divergence[subject.name], flipped[subject.name] = _compared(plan, reference, subject)
        return Samples(
            models=tuple(s.name for s in plan.subjects),
            conditions=tuple(c.key for c in plan.conditions),
            correct={s.name: _correct(plan, store, s) for s in plan.subjects},
            divergence=divergence,
            flipped=flipped,
            groups={c.key: group_of(c, reference.condition) for c in compared if reference.condition is not None},
            reference=plan.suite.reference,
        )


def _correct(plan: Plan, store: Store, subject: Subject) -> Array:
    def row(condition: Condition) -> Array:
        parts = [store.get(plan.key(subject, condition, shard), shard.ids) for shard in plan.shards()]
        return np.concatenate([part[0].correct for part in parts if part is not None]).astype(np.float64)

    return np.stack([row(condition) for condition in plan.conditions])


def _compared(plan: Plan, reference: Reference, subject: Subject) -> tuple[Array, Array]:
    """Divergence from the reference and whether the prediction is another one, (conditions, images) each."""
    rows = [[reference.stored(condition, subject, shard) for shard in plan.shards()] for condition in plan.conditions]
    divergence = [np.concatenate([part.divergence for part in parts if part is not None]) for parts in rows]
    flipped = [np.concatenate([part.flipped for part in parts if part is not None]) for parts in rows]
    return np.stack(divergence).astype(np.float64), np.stack(flipped).astype(np.float64)


def resampled(values: Array) -> Array:
    """Means over resampled images of values (..., images): (..., resamples); the first column is of all images."""
    count = values.shape[-1]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).T / count
    weights = np.concatenate([np.full((count, 1), 1 / count), drawn], axis=1)
    means: Array = values @ weights
    return means


def interval(values: Array, *, scale: float = 100.0, digits: int = 1, sign: bool = False) -> str:
    """``mean (low to high)`` of resampled means (resamples,), 95 %."""
    low, high = np.quantile(values[1:], (0.025, 0.975)) * scale
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    return f"{form.format(values[0] * scale)} ({form.format(low)} to {form.format(high)})"


def finding(statement: str, true: NDArray[np.bool_], figures: str) -> Finding:
    """From whether it is true in each resample (the first column is of all images)."""
    return Finding(statement, float(true[1:].mean()), figures)


def corruption_keys(name: str) -> list[str]:
    """The keys of a corruption's severities."""
    return [f"{name.replace('_', '-')}-{severity}" for severity in SEVERITIES]


def corrupted(samples: Samples, model: str) -> Array:
    """Resampled accuracy under every corruption, mean over severities: (corruptions, resamples)."""
    values = [samples.correct[model][samples.rows(corruption_keys(name))].mean(axis=0) for name in COMMON]
    return resampled(np.stack(values))


def clean(samples: Samples, model: str) -> Array:
    """Resampled accuracy on clean images."""
    return resampled(samples.correct[model][samples.rows(["clean"])[0]])


def harm(samples: Samples, models: Sequence[str]) -> Array:
    """Relative loss of accuracy (A - A_c) / A under every corruption, mean over models: (corruptions, resamples)."""
    losses: Array = np.mean([1 - corrupted(samples, m) / np.maximum(clean(samples, m), 1e-9) for m in models], axis=0)
    return losses


def natural_findings(samples: Samples) -> list[Finding]:
    """On the fifteen corruptions."""
    means = {model: corrupted(samples, model).mean(axis=0) for model in samples.models}
    relative = {model: means[model] / np.maximum(clean(samples, model), 1e-9) for model in samples.models}
    losses = harm(samples, samples.models[1:])
    order = np.argsort(-losses, axis=0)
    places = np.argsort(order, axis=0)
    where = {name: places[COMMON.index(name)] for name in COMMON}
    ranked = [f"{COMMON[i]} {interval(losses[i])}" for i in order[:, 0]]
    impulse, brightness = (interval(losses[COMMON.index(name)]) for name in ("impulse_noise", "brightness"))
    return [
        *_fewer_bits(samples, means, "natural robustness"),
        *_fewer_bits(samples, relative, "natural robustness as a share of clean accuracy"),
        finding(
            "impulse noise and glass blur are among the three most harmful",
            (where["impulse_noise"] < 3) & (where["glass_blur"] < 3),
            f"relative loss, %: {'; '.join(ranked[:4])}; glass blur is number {where['glass_blur'][0] + 1}, "
            f"impulse noise number {where['impulse_noise'][0] + 1}",
        ),
        finding(
            "brightness is the least harmful",
            where["brightness"] == len(COMMON) - 1,
            f"least first: {'; '.join(ranked[:-4:-1])}",
        ),
        finding(
            "impulse noise costs about half of the accuracy, brightness about a tenth (within 10 and 5 points)",
            (np.abs(losses[COMMON.index("impulse_noise")] - 0.5) < 0.1)
            & (np.abs(losses[COMMON.index("brightness")] - 0.1) < 0.05),
            f"impulse noise {impulse} %, brightness {brightness} %",
        ),
    ]


def _fewer_bits(samples: Samples, values: Mapping[str, Array], what: str) -> list[Finding]:
    """Compressed below float, one by one; and each narrower model below the next wider one."""
    first, *compressed = samples.models
    rows = []
    for model in compressed:
        gap = values[model] - values[first]
        rows.append(finding(f"{what}: {model} is below {first}", gap < 0, f"{interval(gap, sign=True)} points"))
    steps = [values[b] - values[a] for a, b in zip(samples.models, compressed, strict=False)]
    rows.append(
        finding(
            f"{what}: falls with every step to fewer bits",
            np.logical_and.reduce([step < 0 for step in steps]),
            ", ".join(f"{model} {interval(values[model])}" for model in samples.models),
        )
    )
    return rows


def systematic_findings(samples: Samples) -> list[Finding]:
    """On pipelines, or on platforms, compared with the reference."""
    kept = [key for key, group in samples.groups.items() if group != BUG]
    rows = samples.rows(kept)
    accuracy = {model: resampled(samples.correct[model][rows].mean(axis=0)) for model in samples.models}
    reference = {
        model: resampled(samples.correct[model][samples.rows([str(samples.reference)])[0]]) for model in samples.models
    }
    kept_share = {model: accuracy[model] / np.maximum(reference[model], 1e-9) for model in samples.models}
    steady = {model: 1 - resampled(samples.flipped[model][rows].mean(axis=0)) for model in samples.models}
    findings = [
        *_fewer_bits(samples, accuracy, "mean accuracy"),
        *_fewer_bits(samples, kept_share, "mean accuracy as a share of that under the reference"),
        *_fewer_bits(samples, steady, "share of predictions that stay"),
    ]
    resizers = [key for key in kept if samples.groups[key] == "resizer"]
    if resizers:
        for model in samples.models:
            findings += _resizers(samples, model)
    return findings


def _resizer_keys() -> dict[str, list[str]]:
    return {kind: [f"pillow-rgb-{name}-square" for name in names] for kind, names in KINDS.items()}


def _resizers(samples: Samples, model: str) -> list[Finding]:
    """Which resizers change a model's answers most and least, in divergence; accuracy only for the nearest ones."""
    keys = _resizer_keys()
    every = [key for names in keys.values() for key in names]
    rows = samples.rows(every)
    divergence, accuracy = resampled(samples.divergence[model][rows]), resampled(samples.correct[model][rows])
    nearest = [every.index(key) for key in keys["nearest"]]
    # Where a picture is enlarged, Pillow's box filter is its nearest neighbour.
    rivals = [i for i in range(len(every)) if not any((divergence[i] == divergence[j]).all() for j in nearest)]
    kinds = np.stack([divergence[[every.index(key) for key in names]].mean(axis=0) for names in keys.values()])
    order = np.argsort(kinds, axis=0)
    mild = np.sort(order[:3], axis=0) == np.sort([list(keys).index(k) for k in ("bilinear", "cubic", "area")])[:, None]
    ranked = ", ".join(f"{list(keys)[i]} {interval(kinds[i], scale=1.0, digits=3)}" for i in order[:, 0])
    worst = divergence[nearest].min(axis=0) > divergence[rivals].max(axis=0)
    loss = accuracy[nearest].mean(axis=0) - accuracy[rivals].mean(axis=0)
    decoders = samples.rows([key for key, group in samples.groups.items() if group == "decoder"])
    rows_found = [
        finding(f"{model}: both nearest neighbours diverge most", worst, f"KL, mildest first: {ranked}"),
        finding(
            f"{model}: nearest neighbours cost more accuracy than the mean of other resizers",
            loss < 0,
            f"{interval(loss, sign=True)} points",
        ),
        finding(f"{model}: bilinear, cubic and area diverge least", mild.all(axis=0), "as above"),
    ]
    if decoders:
        decoding = resampled(samples.divergence[model][decoders].mean(axis=0))
        gap = decoding - divergence.mean(axis=0)
        text = (
            f"KL {interval(decoding, scale=1.0, digits=3)} and {interval(divergence.mean(axis=0), scale=1.0, digits=3)}"
        )
        rows_found.append(finding(f"{model}: decoders diverge less than resizers", gap < 0, text))
    return rows_found
