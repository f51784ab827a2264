"""PGD-20 of robustlab beside torchattacks' PGD: robust accuracy and time, same settings, same process, interleaved.

    ROBUSTLAB_DATA=../shared/data python benchmarks/attacks.py --out benchmarks/attacks.md

1,000 CIFAR-10 test images; the same ball, step size, number of steps, random start, threads and eval mode for both.
torchattacks gets the batch size, of those in --peer-batches, that is fastest for it on this machine; robustlab runs
as the evaluation runs it, in fixed tiles of --tile images with --batch images in flight. Robust accuracy is counted
on the returned images by the same function for both. robustlab takes the cross-entropy in float64; the column
"float32 loss" is its loop with torchattacks' float32 loss, so that nothing but the implementation differs. Every round
has another seed; the table has the mean robust accuracy and the median time over --rounds. (The random
start alone moves a single run of either by about half a point at 1/255.)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

from robustlab.attacks import PGD
from robustlab.attacks._goal import Goal
from robustlab.attacks._victim import Victim
from robustlab.attacks.gradient._loop import ascend
from robustlab.core import Linf, Tiled
from robustlab.core.keys import sample_keys
from robustlab.deploy import load

CASES = (
    ("robustlab:cifar_resnet20", 8, 0.5),
    ("robustlab:cifar_resnet20", 1, None),
    ("robustlab:cifar_cnn_a_mix", 2, 1.0),
)
"""Model, radius in 255ths, and the largest ratio of times that we want (None: no goal)."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    model: str
    eps_255: int
    images: int
    clean: float
    ours: float
    ours_float32: float
    peer: float
    ours_s: float
    peer_s: float
    peer_batch: int
    ratio: float
    goal: float | None


def images_and_labels(limit: int) -> tuple[Tensor, Tensor]:
    """float32 (N, 3, 32, 32) in [0, 1] and int64 (N,)."""
    folder = Path(os.environ.get("ROBUSTLAB_DATA", "../shared/data"))
    with np.load(folder / "cifar10" / "test1000.npz") as arrays:
        x, y = torch.from_numpy(arrays["x"][:limit]), torch.from_numpy(arrays["y"][:limit])
    return (x.permute(0, 3, 1, 2).float() / 255).contiguous(), y.long()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of `images` that `model` gets right, in percent."""
    with torch.no_grad():
        return 100 * float((Tiled(model)(images).argmax(dim=1) == labels).float().mean())


def ours(model: nn.Module, images: Tensor, labels: Tensor, attack: PGD, batch: int, tile: int, seed: int = 0) -> Tensor:
    """robustlab's PGD, as the evaluation calls it."""
    keys, tiled = sample_keys(seed, attack.slug, range(len(images))), Tiled(model, tile)
    parts = [slice(i, i + batch) for i in range(0, len(images), batch)]
    return torch.cat([attack(tiled, images[part], labels[part], keys=keys[part]) for part in parts])


@dataclass(frozen=True)
class _Float32(PGD):
    """PGD with the float32 loss that torchattacks has."""

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        return ascend(victim, origin, goal, keys, replace(self.schedule, loss=_cross_entropy))


def _cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    return F.cross_entropy(logits, goal.labels, reduction="none")


def peer(model: nn.Module, images: Tensor, labels: Tensor, attack: PGD, batch: int, seed: int = 0) -> Tensor:
    """torchattacks' PGD with the hyper-parameters of `attack`."""
    torch.manual_seed(seed)
    schedule = attack.schedule
    other = torchattacks.PGD(model, attack.ball.eps, schedule.step_size, schedule.steps, schedule.random_start)
    parts = [slice(i, i + batch) for i in range(0, len(images), batch)]
    return torch.cat([other(images[part], labels[part]) for part in parts])


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds and result of one call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def compare(
    spec: str, levels: int, goal: float | None, data: tuple[Tensor, Tensor], options: argparse.Namespace
) -> Row:
    """Both attacks on one model and radius."""
    images, labels = data
    model = load(spec).eval().requires_grad_(False)  # Nobody pays for gradients of parameters.
    attack = PGD(Linf(levels / 255), steps=options.steps)
    some, few = images[:500], labels[:500]
    short = PGD(attack.ball, steps=2, step_size=attack.schedule.step_size)
    ours(model, some, few, short, options.batch, options.tile)
    trials = [
        (timed(lambda b=b: peer(model, some, few, short, b))[0], b) for b in options.peer_batches * 2 for _ in range(2)
    ]
    peer_batch = min(trials)[1]
    mine, theirs, ours_robust, same_robust, peer_robust = [], [], [], [], []
    for seed in range(options.rounds):
        seconds, found = timed(lambda s=seed: ours(model, images, labels, attack, options.batch, options.tile, s))
        mine.append(seconds)
        ours_robust.append(accuracy(model, found, labels))
        same = _Float32(attack.ball, options.steps)
        found = ours(model, images, labels, same, options.batch, options.tile, seed)
        same_robust.append(accuracy(model, found, labels))
        seconds, found = timed(lambda s=seed: peer(model, images, labels, attack, peer_batch, s))
        theirs.append(seconds)
        peer_robust.append(accuracy(model, found, labels))
    ours_s, peer_s = statistics.median(mine), statistics.median(theirs)
    return Row(
        model=spec,
        eps_255=levels,
        images=len(images),
        clean=accuracy(model, images, labels),
        ours=statistics.mean(ours_robust),
        ours_float32=statistics.mean(same_robust),
        peer=statistics.mean(peer_robust),
        ours_s=ours_s,
        peer_s=peer_s,
        peer_batch=peer_batch,
        ratio=ours_s / peer_s,
        goal=goal,
    )


def table(rows: list[Row], options: argparse.Namespace) -> str:
    """Markdown."""
    head = (
        f"PGD-{options.steps}, random start, step 2.5 eps / steps; torch {torch.__version__},"
        f" {torch.get_num_threads()} threads, {platform.machine()}; robustlab in tiles of {options.tile},"
        f" median of {options.rounds} interleaved rounds.\n\n"
        "| model | eps | n | clean % | robust %, robustlab | robustlab, float32 loss | robust %, torchattacks"
        " | robustlab s | torchattacks s (batch) | time ratio | goal |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {r.model} | {r.eps_255}/255 | {r.images} | {r.clean:.1f} | {r.ours:.1f} | {r.ours_float32:.1f}"
        f" | {r.peer:.1f} | {r.ours_s:.2f} | {r.peer_s:.2f} ({r.peer_batch}) | {r.ratio:.2f}"
        f" | {'' if r.goal is None else f'<= {r.goal}'} |\n"
        for r in rows
    )


def main() -> None:
    """Run all cases, print the table, and with --out write it (.md, or .json for the numbers)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-batches", type=int, nargs="+", default=[64, 250])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = images_and_labels(options.limit)
    rows = [compare(spec, levels, goal, data, options) for spec, levels, goal in CASES]
    text = table(rows, options)
    print(text)
    if options.out:
        options.out.write_text(
            json.dumps([asdict(r) for r in rows], indent=2) if options.out.suffix == ".json" else text
        )


if __name__ == "__main__":
    main()
