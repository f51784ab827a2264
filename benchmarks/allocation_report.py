"""What `benchmarks/allocation.py` measured, as paired differences and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MODEL = "robustlab:cifar_resnet20"
WIDTHS = (2, 3, 4, 5, 6, 8)
FAMILIES = {
    "weights and activations": tuple((w, w) for w in WIDTHS),
    "weights, 8-bit activations": tuple((w, 8) for w in WIDTHS),
}
MEANS = (4, 3)
ATTACK = "pgd10-linf-1of255"
ROBUST = ("corruption", "pgd")
METRICS = {
    "clean": "accuracy, clean",
    "corrupted": "accuracy, corrupted",
    "robust": "accuracy, PGD",
    "kl": "KL, clean",
    "kl_corrupted": "KL, corrupted",
    "kl_transfer": "KL, PGD on float",
    "clean_after": "corrected: accuracy, clean",
    "corrupted_after": "corrected: accuracy, corrupted",
    "kl_after": "corrected: KL, clean",
}
RESAMPLES = 10_000
CLAIMS = {
    "accuracy": {"corruption": "corrupted", "pgd": "robust"},
    "KL": {"corruption": "kl_corrupted", "pgd": "kl_transfer"},
}
"""What a robust allocation should be better in than the clean one."""


@dataclass(frozen=True)
class Network:
    """One allocation, deployed and judged."""

    family: str
    mean: int
    arm: str
    bits: dict[str, str]
    bytes: int
    predicted: float
    joint: float
    agreement: float
    figures: dict[str, float]
    white_box: float | None
    transfer: float


@dataclass(frozen=True)
class Difference:
    """The paired difference `arm` - `against`, in points of accuracy or in KL."""

    family: str
    mean: int
    arm: str
    against: str
    metric: str
    value: float
    low: float
    high: float
    low_all: float
    high_all: float


def difference(a: np.ndarray, b: np.ndarray, comparisons: int) -> tuple[float, float, float, float, float]:
    """Mean of a - b, its 95 % bootstrap interval, and the one that holds for all `comparisons` at once (Bonferroni)."""
    paired = a - b
    generator = np.random.default_rng(0)
    means = np.concatenate(
        [paired[generator.integers(len(paired), size=(500, len(paired)))].mean(1) for _ in range(RESAMPLES // 500)]
    )
    outer = 0.05 / comparisons
    low, high, low_all, high_all = np.quantile(means, [0.025, 0.975, outer / 2, 1 - outer / 2])
    return float(paired.mean()), float(low), float(high), float(low_all), float(high_all)


def compared(family: str, mean: int, outcomes: Mapping[str, Mapping[str, np.ndarray]]) -> list[Difference]:
    """Clean against uniform, and both robust ones against clean and against uniform."""
    pairs = [("clean", "uniform")]
    pairs += [(arm, against) for against in ("clean", "uniform") for arm in ROBUST]
    claims = len(FAMILIES) * len(MEANS) * len(CLAIMS) * len(ROBUST)
    return [
        Difference(family, mean, arm, against, name, *difference(outcomes[arm][name], outcomes[against][name], claims))
        for arm, against in pairs
        for name in METRICS
    ]


def value_text(metric: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}" if metric.startswith("kl") else f"{100 * value:{sign}.1f}"


def interval(d: Difference) -> str:
    ends = f"{value_text(d.metric, d.low, '+')} to {value_text(d.metric, d.high, '+')}"
    return f"{value_text(d.metric, d.value, '+')} ({ends})"


def verdict(differences: list[Difference]) -> list[str]:
    """The question, answered from the intervals that hold for all claims at once."""
    against = [d for d in differences if d.against == "clean"]
    lines = []
    for kind, wanted in CLAIMS.items():
        claims = [d for d in against if wanted.get(d.arm) == d.metric]
        sign = -1 if kind == "KL" else 1
        better = [d for d in claims if min(sign * d.low_all, sign * d.high_all) > 0]
        worse = [d for d in claims if max(sign * d.low_all, sign * d.high_all) < 0]
        lines.append(
            f"- {kind} under what it was made for, allocation by robust sensitivity against the clean one: better in "
            f"{len(better)} of {len(claims)} comparisons, worse in {len(worse)}, undecided in "
            f"{len(claims) - len(better) - len(worse)}."
        )
        for word, found in (("better", better), ("worse", worse)):
            lines += [f"  - {word}: {d.arm}, {d.family}, mean {d.mean} bits: {interval(d)}" for d in found]
    count = len(FAMILIES) * len(MEANS) * len(CLAIMS) * len(ROBUST)
    return [
        f"Decided by intervals that hold for all {count} comparisons at once (Bonferroni); shown are 95 % intervals of "
        "single ones.",
        "",
        *lines,
    ]


def report(networks: list[Network], differences: list[Difference], header: Mapping[str, Any]) -> str:
    columns = list(METRICS)
    lines = [
        f"# Bit allocation of {MODEL} at equal bytes",
        "",
        f"Command: `{header['command']}`. {header['calibration']} calibration images and {header['images']} images for "
        f"sensitivities from the training set, {header['test']} test images; float accuracy {header['float']:.1f} %, "
        f"under corruption {header['float_corrupted']:.1f} %, PGD {header['float_robust']:.1f} % ({ATTACK}); torch "
        f"{header['torch']}, {header['threads']} thread(s), {header['machine']}. Round to nearest with ranges by mse; "
        "statistics correction only where a column says corrected; the first and the last layer have 8 bits.",
        "",
        "## Does a robustness-aware allocation beat the clean one?",
        "",
        *verdict(differences),
        "",
        "## Networks",
        "",
        "Accuracies in percent; KL from the float network's answer to the same image. Predicted is the sum of the "
        "sensitivities, joint the score of the whole network on the same training images, for an allocation by a score "
        "in that score, else in the clean one. PGD counts an image as right if it is so without attack, under PGD on "
        "the network through its surrogate gradient, and under PGD on the float network; no attack without gradients "
        "was run.",
    ]
    for family in FAMILIES:
        for mean in MEANS:
            some = [n for n in networks if (n.family, n.mean) == (family, mean)]
            if not some:
                continue
            lines += [
                "",
                f"### {family}, mean {mean} bits",
                "",
                "| allocation | bytes | bits of the weights | "
                + " | ".join(METRICS.values())
                + " | PGD on the network / transferred | agreement | predicted | joint |",
                "|---" * (len(columns) + 7) + "|",
            ]
            for n in some:
                cells = [value_text(name, n.figures[name]) if name in n.figures else "–" for name in columns]
                figures = " | ".join(cells)
                bits = "".join(text[1] for text in n.bits.values())
                white = "–" if n.white_box is None else f"{100 * n.white_box:.1f}"
                lines.append(
                    f"| {n.arm} | {n.bytes} | {bits} | {figures} | {white} / {100 * n.transfer:.1f} | "
                    f"{100 * n.agreement:.1f} | {n.predicted:.4f} | {n.joint:.4f} |"
                )
            here = [d for d in differences if (d.family, d.mean) == (family, mean)]
            pairs = list(dict.fromkeys((d.arm, d.against) for d in here))
            lines += [
                "",
                "| difference, 95 % interval | " + " | ".join(f"{arm} - {against}" for arm, against in pairs) + " |",
                "|---" * (len(pairs) + 1) + "|",
            ]
            for name, title in METRICS.items():
                row = {(d.arm, d.against): interval(d) for d in here if d.metric == name}
                lines.append(f"| {title} | " + " | ".join(row[pair] for pair in pairs) + " |")
    return "\n".join(lines) + "\n"
