"""Every post-training method on the CIFAR-10 ResNet-20, plain and with statistics correction, beside the float model.

    ROBUSTLAB_DATA=../shared/data python benchmarks/ptq.py --out benchmarks/ptq.json

Calibrated on --calibration images of the training set, without labels; judged by the deployed model on 1,000 test
images. "points" is the paired difference of accuracy to the float model, image by image, with its 95 % interval
(1.96 standard errors of the mean of the differences); "KL" is the mean divergence of the predictions from the float
ones. Weights and activations have the bits named, the first and the last layer 8. A cell is written as soon as it is
done: a run that was stopped goes on with the same command. The seconds are processor time, which other work on the
machine does not change, for `compress`, and for the correction on top.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.fold import fold_batch_norms
from robustlab.compress.observers import OBSERVERS
from robustlab.compress.ptq import METHODS as ROUNDING
from robustlab.compress.ptq import Work, correct_statistics
from robustlab.compress.structure import trace
from robustlab.core import Tiled
from robustlab.deploy import stored_bytes

MODEL = "robustlab:cifar_resnet20"
SCHEMES = ((8, 8), (4, 4), (3, 3))
METHODS = (*OBSERVERS, *ROUNDING)
GOALS = {(8, 8): -0.5, (4, 4): -2.5}
"""The least difference to float, in points, that the best method of a scheme should have."""


@dataclass(frozen=True)
class Cell:
    """One model, judged."""

    method: str
    weights: int
    activations: int
    corrected: bool
    accuracy: float
    points: float
    half_width: float
    agreement: float
    kl: float
    bytes: int
    seconds: float


def arrays(name: str) -> tuple[Tensor, Tensor]:
    """float32 (N, 3, 32, 32) in [0, 1] and int64 (N,)."""
    folder = Path(os.environ.get("ROBUSTLAB_DATA", "../shared/data"))
    with np.load(folder / "cifar10" / name) as found:
        x, y = torch.from_numpy(found["x"]), torch.from_numpy(found["y"])
    return (x.permute(0, 3, 1, 2).float() / 255).contiguous(), y.long()


def predict(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return Tiled(model)(images)


def judge(logits: Tensor, reference: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, paired difference to float with half the width of its interval, agreement and KL divergence."""
    right, before = logits.argmax(1) == labels, reference.argmax(1) == labels
    difference = right.double() - before.double()
    spread = float(difference.std()) / math.sqrt(len(labels))
    divergence = F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="batchmean", log_target=True)
    return {
        "accuracy": 100 * float(right.double().mean()),
        "points": 100 * float(difference.mean()),
        "half_width": 196 * spread,
        "agreement": 100 * float((logits.argmax(1) == reference.argmax(1)).double().mean()),
        "kl": float(divergence),
    }


def corrected(model: nn.Module, original: nn.Module, batches: list[Tensor]) -> nn.Module:
    """What ``statistics_correction=True`` would have made of `model`, without compressing again."""
    result, reference = copy.deepcopy(model), copy.deepcopy(original)
    fold_batch_norms(reference, batches[0][:4])
    correct_statistics(Work(result, reference, trace(result, batches[0][:2]).order, batches))
    return result


def cells_of(
    name: str, bits: tuple[int, int], original: nn.Module, batches: list[Tensor], test: tuple[Tensor, Tensor]
) -> list[Cell]:
    """The method at these bits, plain and corrected."""
    images, labels = test
    reference = predict(original, images)
    options = {"weights": bits[0], "activations": bits[1], "algorithm": name, "calibration": batches}
    start = time.process_time()
    plain = rl.compress(original, **options)
    middle = time.process_time()
    if name == "cle":  # its float reference is the equalized model
        better = rl.compress(original, **options, statistics_correction=True)
        seconds = time.process_time() - 2 * middle + start
    else:
        better = corrected(plain, original, batches)
        seconds = time.process_time() - middle
    found = []
    for model, spent in ((plain, middle - start), (better, seconds)):
        deployed = rl.deploy(model)
        figures = judge(predict(deployed, images), reference, labels)
        size = stored_bytes(deployed)
        found.append(Cell(name, *bits, model is better, **figures, bytes=size, seconds=round(spent, 2)))
    return found


def table(cells: list[Cell], header: dict[str, object]) -> str:
    lines = [
        f"# Post-training quantization of {MODEL}",
        "",
        f"Command: `{header['command']}`. {header['calibration']} calibration images, {header['images']} test images, "
        f"float accuracy {header['float']:.1f} %, torch {header['torch']}, {header['threads']} thread(s), "
        f"{header['machine']}.",
        "",
        "Paired difference of accuracy to float in points, with its 95 % interval; KL divergence from the float "
        "predictions; seconds of processor time.",
        "",
        "| scheme | method | plain | KL | s | with statistics correction | KL | s more | bytes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for weights, activations in SCHEMES:
        for name in METHODS:
            pair = [c for c in cells if (c.method, c.weights, c.activations) == (name, weights, activations)]
            if len(pair) != 2:
                continue
            pair.sort(key=lambda c: c.corrected)
            figures = " | ".join(f"{c.points:+.1f} ± {c.half_width:.1f} | {c.kl:.3f} | {c.seconds:.1f}" for c in pair)
            lines.append(f"| W{weights}A{activations} | {name} | {figures} | {pair[0].bytes} |")
    lines += [
        "",
        f"The best below is picked on the images it is judged on, out of {2 * len(METHODS)} models per scheme, so its "
        "figure is a little too good.",
        "",
        "| goal | best | reached |",
        "|---|---|---|",
    ]
    for (weights, activations), goal in GOALS.items():
        some = [c for c in cells if (c.weights, c.activations) == (weights, activations)]
        if some:
            best = max(some, key=lambda c: c.points)
            label = best.method + (" + statistics correction" if best.corrected else "")
            verdict = "yes" if best.points >= goal else "no"
            lines.append(
                f"| W{weights}A{activations} within {-goal} points | {label}: {best.points:+.1f} | {verdict} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/ptq.json"))
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    original = rl.load(MODEL).eval()
    images, labels = arrays("test1000.npz")
    training, _ = arrays("train4000.npz")
    step = len(training) // options.calibration
    batches = list(training[::step][: options.calibration].split(64))
    header = {
        "command": f"python benchmarks/ptq.py --calibration {options.calibration}",
        "calibration": options.calibration,
        "images": len(labels),
        "float": 100 * float((predict(original, images).argmax(1) == labels).double().mean()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    cells: list[Cell] = []
    if options.out.is_file():
        stored = json.loads(options.out.read_text())
        if stored["header"]["calibration"] == options.calibration:
            cells = [Cell(**cell) for cell in stored["cells"]]
    for bits in SCHEMES[1:] + SCHEMES[:1]:  # the telling ones first
        for name in options.methods:
            if any((c.method, c.weights, c.activations) == (name, *bits) for c in cells):
                continue
            made = cells_of(name, bits, original, batches, (images, labels))
            for cell in made:
                print(
                    f"W{bits[0]}A{bits[1]} {name}{' corrected' if cell.corrected else ''}: {cell.points:+.1f} ± "
                    f"{cell.half_width:.1f} points, KL {cell.kl:.3f}, {cell.seconds:.1f} s",
                    flush=True,
                )
            cells += made
            text = json.dumps({"header": header, "cells": [asdict(cell) for cell in cells]}, indent=1)
            partial = options.out.with_suffix(".partial")
            partial.write_text(text + "\n")
            partial.replace(options.out)
            options.out.with_suffix(".md").write_text(table(cells, header))
    options.out.with_suffix(".md").write_text(table(cells, header))
    print(table(cells, header))


if __name__ == "__main__":
    main()
