"""Every compressor on the CIFAR-10 ResNet-20: the matrix, the goals, and both of them in docs/compressors.md.

    ROBUSTLAB_DATA=../shared/data python benchmarks/compressors.py [--models FOLDER]

This is `robustlab bench compressors` with fixed settings: 256 calibration images of the training set, without labels,
and 1,000 test images. What it found lies in benchmarks/compressors.json; a run that was stopped goes on with the same
command. Models are kept in runs/compressors, so that ``--latency only`` can time them again on a quiet machine.
The exit status is 1 where a cell has an error or a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import robustlab as rl
from robustlab.bench.compressors import (
    LATENCIES,
    Cell,
    CompressorBench,
    Scheme,
    best_after_training,
    compressor_markdown,
    read,
    state_text,
)
from robustlab.cli.app import run
from robustlab.datasets import load_dataset

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "compressors.json"
DOCS = ROOT / "docs" / "compressors.md"
MODEL = "robustlab:cifar_resnet20"
CALIBRATION = 256
LAYER = "layer3.1.conv1"
"""The layer of 576 inputs and 64 outputs that GPTQ is timed on."""
POINTS = {Scheme(8, 8): 0.5, Scheme(4, 4): 2.5}
"""How many points below the float model the best algorithm of a scheme may be."""


@dataclass(frozen=True)
class Goal:
    """What was to be reached, and what was."""

    text: str
    found: str
    reached: bool


def within(bench: CompressorBench, scheme: Scheme, limit: float) -> Goal:
    """The best post-training model of a scheme."""
    text = f"best after training at {scheme} within {limit} points of float"
    best = best_after_training(bench, scheme)
    if best is None or best[0].quality is None:
        return Goal(text, "not measured", False)
    cell, count = best
    found = f"{state_text(cell)}: {cell.quality.points:+.1f} ± {cell.quality.half_width:.1f}, of {count} models"
    return Goal(text, found, cell.quality.points >= -limit)


def slowest(bench: CompressorBench, algorithm: str, limit: float) -> Goal:
    """The scheme at which an algorithm took longest on the whole network."""
    text = f"{algorithm} of the whole network in less than {limit:g} s"
    some = [c for c in bench.cells if c.algorithm == algorithm and c.state == "raw" and c.seconds is not None]
    if not some:
        return Goal(text, "not measured", False)
    cell: Cell = max(some, key=lambda c: c.seconds or 0.0)
    assert cell.seconds is not None
    return Goal(text, f"{cell.seconds:.1f} s at {cell.scheme}", cell.seconds < limit)


def gptq_of_a_layer(limit: float) -> Goal:
    """GPTQ of one layer of the network on all calibration images, calibration of the others included."""
    model = rl.load(MODEL)
    training = load_dataset("cifar10", split="train")
    images, _ = training.batch([i * len(training) // CALIBRATION for i in range(CALIBRATION)])
    layers = [n for n, m in model.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    others = [name for name in layers if name != LAYER]
    start = time.process_time()
    rl.compress(
        model, weights=4, activations=4, algorithm="gptq", calibration=list(images.split(128)), keep_float=others
    )
    seconds = time.process_time() - start
    return Goal(f"gptq of a layer of 576 x 64 in less than {limit:g} s", f"{seconds:.1f} s", seconds < limit)


def goals(bench: CompressorBench) -> list[Goal]:
    """All of them."""
    return [
        *(within(bench, scheme, limit) for scheme, limit in POINTS.items()),
        slowest(bench, "minmax", 5),
        gptq_of_a_layer(10),
        slowest(bench, "brecq", 15 * 60),
    ]


def goal_table(found: list[Goal]) -> str:
    """As Markdown."""
    lines = [
        "The best of a scheme is picked on the images it is judged on, so its figure is a little too good. Seconds are",
        "processor time.",
        "",
        "| goal | measured | reached |",
        "|---|---|---|",
    ]
    lines += [f"| {goal.text} | {goal.found} | {'yes' if goal.reached else 'no'} |" for goal in found]
    return "\n".join(lines) + "\n"


def paste(page: Path, block: str, text: str) -> None:
    """Put `text` between the comments that begin and end `block`."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {block}: benchmarks/compressors.py -->\n")
    _, end, after = rest.partition(f"<!-- end of {block} -->")
    if not begin or not end:
        raise SystemExit(f"{page} has no block {block}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with the files of trained models")
    parser.add_argument("--keep", type=Path, default=ROOT / "runs" / "compressors", help="folder for the models made")
    parser.add_argument("--latency", choices=LATENCIES, default="with")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    arguments = ["bench", "compressors", MODEL, "--data", "cifar10", "--calibration", str(CALIBRATION)]
    arguments += ["--out", str(OUT), "--keep", str(options.keep), "--latency", options.latency]
    arguments += ["--threads", str(options.threads)]
    options.keep.mkdir(parents=True, exist_ok=True)
    if options.models is not None:
        arguments += ["--models", str(options.models)]
    code = run(arguments)
    if code not in (0, 3):
        return code
    bench = read(OUT)
    found = goals(bench)
    paste(DOCS, "matrix", compressor_markdown(bench, level=3))
    paste(DOCS, "goals", goal_table(found))
    print(goal_table(found))
    return int(bool(bench.errors) or not all(goal.reached for goal in found))


if __name__ == "__main__":
    sys.exit(main())
