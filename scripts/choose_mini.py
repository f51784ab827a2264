"""Choose the cells and weights of a mini suite from the outcomes of `measure_for_mini.py`, and write the suite.

    python scripts/choose_mini.py cifar10-c            # writes robustlab/evaluate/suites/cifar10-c-mini.toml
    python scripts/choose_mini.py cifar10-c --curve    # prints the held-out error for several numbers of cells

The metric is predicted by a weighted mean of the error rates in a few cells. Cells are added greedily, with the best
weights (none negative, of a fixed sum) for each set; best is the least mean squared error that is expected of a run on
`IMAGES` images: the squared difference from the full metric, every group of networks counting alike, plus the variance
of a mean over so many images, plus what that difference varies by with the images it was measured on: without the last
term, cells are chosen that agree with the full metric by chance. Frost is not considered, so that no textures are
needed.

The stated error is that on networks and images which had no part in it: for each group of networks and each half of the
images (even and odd), cells and weights are chosen again from the other groups on the other half. It contains the
chance of half as many images, so it is rather too large.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import t

from robustlab.evaluate.natural import ALEXNET_ERROR
from robustlab.evaluate.prediction import HeldOut, held_out_error

ROOT = Path(__file__).parents[1]
Array = NDArray[np.float64]
CELLS = {"cifar10-c": 15, "imagenet-c": 15}
IMAGES = {"cifar10-c": 1000, "imagenet-c": 1000}
DATA = {"cifar10-c": (10, [32, 32]), "imagenet-c": (1000, [224, 224])}
METRICS = {"cifar10-c": ("mce_unnormalised",), "imagenet-c": ("mce_unnormalised", "mce_alexnet")}
NAMES = {"mce_unnormalised": "un-normalised mCE", "mce_alexnet": "mCE, AlexNet = 1"}


@dataclass(frozen=True)
class Outcomes:
    """wrong: bool (networks, conditions, images); the first condition is without corruption."""

    wrong: NDArray[np.bool_]
    networks: tuple[str, ...]
    groups: tuple[str, ...]
    conditions: tuple[str, ...]
    data: str

    def without(self, group: str, half: int) -> Outcomes:
        """The networks of the other groups on the images of the other half, 0 (even) or 1 (odd)."""
        kept = [i for i, name in enumerate(self.groups) if name != group]
        networks, groups = (tuple(names[i] for i in kept) for names in (self.networks, self.groups))
        return Outcomes(self.wrong[kept][..., 1 - half :: 2], networks, groups, self.conditions, self.data)


def read_outcomes(path: Path) -> Outcomes:
    """What `measure_for_mini.py` wrote."""
    with np.load(path, allow_pickle=False) as file:
        wrong = np.unpackbits(file["wrong"], axis=2, count=int(file["images"])).astype(bool)
        names = (tuple(map(str, file[key])) for key in ("networks", "groups", "conditions"))
        return Outcomes(wrong, *names, str(file["data"]))


def target(metric: str, conditions: Sequence[str]) -> Array:
    """The weight of every condition in the full metric."""
    scale = [ALEXNET_ERROR[key.rpartition("-")[0].replace("-", "_")] for key in conditions[1:]]
    each = np.ones(len(scale)) if metric == "mce_unnormalised" else 1 / np.array(scale)
    return np.concatenate([[0.0], each / len(scale)])


def loss(outcomes: Outcomes, full: Array, images: int) -> Array:
    """The matrix Q (conditions, conditions): w with the sum of `full` have the expected squared error w'Qw.

    As the sum of the weights is fixed, a network's error is a sum over conditions of w times the excess: the
    condition's error rate less the network's full metric per unit of weight.
    """
    count, measured = len(outcomes.conditions), outcomes.wrong.shape[2]
    total = np.zeros((count, count))
    groups = dict.fromkeys(outcomes.groups)
    for group in groups:
        members = [i for i, name in enumerate(outcomes.groups) if name == group]
        for member in members:
            wrong = outcomes.wrong[member].astype(np.float64)
            excess = wrong - full @ wrong / full.sum()
            mean = excess.mean(axis=1)
            expected = np.outer(mean, mean) + np.cov(wrong) / images + np.cov(excess) / measured
            total += expected / len(members) / len(groups)
    return total


def best_weights(matrix: Array, total: float) -> tuple[Array, float]:
    """(weights that minimise w'Qw, none negative, of this sum; the minimum)."""
    values, vectors = np.linalg.eigh(matrix)
    root = (vectors * np.sqrt(np.maximum(values, 0))).T
    heavy = 1e3 * np.sqrt(np.trace(matrix))  # makes the sum all but exact; the rest is scaled away
    weights, _ = nnls(np.vstack([root, np.full((1, len(matrix)), heavy)]), np.append(np.zeros(len(root)), heavy))
    weights *= total / weights.sum()
    return weights, float(weights @ matrix @ weights)


def choose_cells(outcomes: Outcomes, full: Array, cells: int, images: int) -> tuple[list[int], Array]:
    """(conditions chosen, the first of them without corruption and free of charge; their weights)."""
    matrix = loss(outcomes, full, images)
    chosen = [0]
    free = [i for i, key in enumerate(outcomes.conditions) if i and not key.startswith("frost-")]
    for _ in range(cells):
        left = [i for i in free if i not in chosen]
        found = [best_weights(matrix[np.ix_([*chosen, i], [*chosen, i])], full.sum())[1] for i in left]
        chosen.append(left[int(np.argmin(found))])
    weights, _ = best_weights(matrix[np.ix_(chosen, chosen)], full.sum())
    return chosen, weights


def weights_for(outcomes: Outcomes, chosen: Sequence[int], full: Array, images: int) -> Array:
    """The best weights of cells that were chosen for another metric."""
    return best_weights(loss(outcomes, full, images)[np.ix_(chosen, chosen)], full.sum())[0]


def hold_out(outcomes: Outcomes, suite: str, metric: str, cells: int) -> list[HeldOut]:
    """Every network on both halves of the images, predicted from what was chosen without its group and that half."""
    plain, full = (target(name, outcomes.conditions) for name in ("mce_unnormalised", metric))
    rows: list[HeldOut] = []
    for group, half in itertools.product(dict.fromkeys(outcomes.groups), (0, 1)):
        others = outcomes.without(group, half)
        chosen, _ = choose_cells(others, plain, cells, IMAGES[suite])
        weights = weights_for(others, chosen, full, IMAGES[suite])
        for i, name in enumerate(outcomes.groups):
            if name == group:
                rates = outcomes.wrong[i, :, half::2].mean(axis=1)
                rows.append(HeldOut(outcomes.networks[i], group, float(rates @ full), float(rates[chosen] @ weights)))
    return rows


def sampling_error(outcomes: Outcomes, chosen: Sequence[int], weights: Array, images: int) -> float:
    """The standard error of a prediction by the choice of so many images, root mean square over the networks."""
    values = np.einsum("k,mkn->mn", weights, outcomes.wrong[:, chosen].astype(np.float64))
    return float(np.sqrt(values.var(axis=1, ddof=1).mean() / images))


def write_suite(outcomes: Outcomes, suite: str, path: Path) -> None:
    """Choose with all networks and write the suite's file."""
    images, cells = IMAGES[suite], CELLS[suite]
    chosen, _ = choose_cells(outcomes, target("mce_unnormalised", outcomes.conditions), cells, images)
    order = sorted(chosen)
    keys = [outcomes.conditions[i] for i in order]
    classes, size = DATA[suite]
    groups = list(dict.fromkeys(outcomes.groups))
    lines = [
        "# Written by scripts/choose_mini.py",
        f'name = "{suite}-mini"',
        f'description = "{cells} cells of {suite} on {images} images that predict its mean corruption error"',
        "conditions = [",
        *(f'  "{key}",' for key in keys),
        "]",
        "",
        "[prediction]",
        f'of = "{suite}"',
        f"images = {images}",
        f"classes = {classes}",
        f"image_size = {size}",
        f'calibration = "{len(outcomes.networks)} networks in {len(groups)} groups; {outcomes.data}"',
    ]
    for metric in METRICS[suite]:
        full = target(metric, outcomes.conditions)
        weights = weights_for(outcomes, order, full, images).round(5)
        weights[np.argmax(weights)] += full.sum() - weights.sum() if metric == "mce_unnormalised" else 0.0
        rows = [
            HeldOut(r.network, r.group, round(r.full, 5), round(r.predicted, 5))
            for r in hold_out(outcomes, suite, metric, cells)
        ]
        error = held_out_error(rows)
        table = ", ".join(f'"{key}" = {weight:.5f}' for key, weight in zip(keys, weights, strict=True))
        lines += [
            "",
            "[[prediction.estimates]]",
            f'metric = "{metric}"',
            f"error = {error:.5f}",
            f"error_95 = {error * t.ppf(0.975, len(groups) - 1):.5f}",
            f"weights = {{ {table} }}",
            "held_out = [  # network, group, full and predicted, on one half of the images and on the other",
            *(f'  ["{r.network}", "{r.group}", {r.full:.5f}, {r.predicted:.5f}],' for r in rows),
            "]",
        ]
        largest = max(abs(r.predicted - r.full) for r in rows)
        print(f"{NAMES[metric]}: held-out error {error:.4f}, the largest {largest:.4f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {', '.join(keys)}")


def print_curve(outcomes: Outcomes, suite: str) -> None:
    """Cells, held-out error, and the standard error by the choice of images, for several numbers of cells."""
    full = target("mce_unnormalised", outcomes.conditions)
    print("cells  held-out error  largest  by the choice of images")
    for cells in (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20):
        rows = hold_out(outcomes, suite, "mce_unnormalised", cells)
        largest = max(abs(r.predicted - r.full) for r in rows)
        sampling = sampling_error(outcomes, *choose_cells(outcomes, full, cells, IMAGES[suite]), IMAGES[suite])
        print(f"{cells:5}  {held_out_error(rows):14.4f}  {largest:7.4f}  {sampling:.4f}", flush=True)


def main() -> None:
    """Choose, or print what more or fewer cells would give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=sorted(CELLS))
    parser.add_argument("--outcomes", type=Path, help="default: benchmarks/mini/SUITE.npz")
    parser.add_argument("--out", type=Path, help="default: robustlab/evaluate/suites/SUITE-mini.toml")
    parser.add_argument("--curve", action="store_true", help="print errors by the number of cells, and write nothing")
    options = parser.parse_args()
    outcomes = read_outcomes(options.outcomes or ROOT / "benchmarks" / "mini" / f"{options.suite}.npz")
    if options.curve:
        print_curve(outcomes, options.suite)
        return
    default = ROOT / "robustlab" / "evaluate" / "suites" / f"{options.suite}-mini.toml"
    write_suite(outcomes, options.suite, options.out or default)


if __name__ == "__main__":
    main()
