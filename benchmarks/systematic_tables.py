"""Tables of `systematic.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import systematic_findings as found

from robustlab.datasets.corruptions import COMMON
from robustlab.evaluate import Results

METRICS = (
    ("clean", "clean accuracy"),
    ("natural_robustness", "natural robustness"),
    ("mce_unnormalised", "mCE, un-normalised"),
    ("relative_mce_unnormalised", "relative mCE, un-normalised"),
    ("mce_alexnet", "mCE, AlexNet = 100"),
    ("worst_case", "right under all 75"),
)


def versions(results: Results) -> str:
    """Of what decoded, resized and computed."""
    kept = {k: v for k, v in results.run["versions"].items() if k not in ("robustlab", "python")}
    return ", ".join(f"{name} {text}" for name, text in kept.items()) + "."


def left_out(results: Results) -> list[str]:
    """Conditions that could not be had here."""
    return [f"- left out: `{key}`: {why}" for key, why in results.run["configuration"]["left_out"].items()]


def natural(results: Results, samples: found.Samples) -> list[str]:
    """Accuracy and relative loss by corruption and model, the most harmful for compressed models first; then means."""
    models = samples.models
    accuracy = {model: found.corrupted(samples, model) for model in models}
    losses = {model: found.harm(samples, [model]) for model in models}
    order = np.argsort(-found.harm(samples, models[1:])[:, 0])
    lines = [_head(["corruption", *(f"{m}: accuracy | loss, %" for m in models)])]
    lines.append("|---|" + "---|" * (2 * len(models)))
    for i in order:
        cells = [f"{found.interval(accuracy[m][i])} | {100 * losses[m][i, 0]:.1f}" for m in models]
        lines.append(f"| {COMMON[i]} | " + " | ".join(cells) + " |")
    return [*lines, "", *_metrics(results)]


def _head(titles: Sequence[str]) -> str:
    return "| " + " | ".join(titles) + " |"


def _metrics(results: Results) -> list[str]:
    rows = {(row["model"], row["metric"]): (row["value"], row["ci_low"], row["ci_high"]) for row in results.natural}
    for model in results.models:
        cell = results.cell(model, "clean")
        rows[model, "clean"] = (cell["accuracy"], cell["ci_low"], cell["ci_high"])
    lines = [_head(["metric, %", *results.models]), "|---|" + "---|" * len(results.models)]
    for metric, label in METRICS:
        texts = [
            "{:.1f} ({:.1f} to {:.1f})".format(*(100 * v for v in rows[m, metric]))
            for m in results.models
            if (m, metric) in rows
        ]
        if texts:
            lines.append(_head([label, *texts]))
    return lines


def systematic(results: Results) -> list[str]:
    """By condition, then by model and group."""
    return [*_cells(results), "", *_spreads(results)]


def _cells(results: Results) -> list[str]:
    """A line per condition: accuracy, flips and divergence of every model, in the order of the first one's flips."""
    first = results.models[0]
    order = sorted(results.conditions, key=lambda c: -(results.cell(first, c)["flip_rate"] or 0))
    lines = [
        _head(["condition", *(f"{m}: accuracy | flips | KL" for m in results.models)]),
        "|---|" + "---|" * (3 * len(results.models)),
    ]
    for condition in order:
        rows = [results.cell(model, condition) for model in results.models]
        texts = [f"{100 * r['accuracy']:.1f} | {100 * (r['flip_rate'] or 0):.1f} | {r['kl'] or 0:.3f}" for r in rows]
        lines.append(f"| `{condition}` | " + " | ".join(texts) + " |")
    return lines


def _spreads(results: Results) -> list[str]:
    """A line per model and group."""
    lines = [
        "| model | group | conditions | mean ± std | worst | always right | flips, mean and worst | KL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {r['model']} | {r['group']} | {r['conditions']} | {100 * r['mean']:.1f} ± {100 * r['std']:.2f} | "
        f"{100 * r['worst']:.1f} (`{r['worst_condition']}`) | {100 * r['always']:.1f} | "
        f"{100 * r['flip_rate']:.1f}, {100 * r['worst_flip_rate']:.1f} | {r['kl'] or 0:.3f} |"
        for r in results.spread
    ]


def findings(checks: Sequence[found.Finding]) -> list[str]:
    """A line per statement."""
    lines = ["| statement | verdict | true in | figures |", "|---|---|---|---|"]
    return lines + [f"| {c.statement} | **{c.verdict}** | {100 * c.share:.1f} % | {c.figures} |" for c in checks]
