"""Attacks of robustlab beside torchattacks' and foolbox': strength, time and memory, one process for each measurement.

    ROBUSTLAB_DATA=../shared/data python benchmarks/attacks.py --work runs/attacks --out benchmarks/attacks.md

The same images, threat model, number of steps and threads for both; robustlab runs as the evaluation runs it, in tiles
of 64 images, the peer with the batch size of --peer-batches that is fastest for it. Sides alternate for --rounds
rounds, each with another seed; the table has the least seconds of each side, which other work on the machine disturbs
least, mean strength and the highest peak of memory above what the process held before the attack. Strength is judged by
one function for both: robust accuracy in percent for a bounded attack, the median norm over images that were right for
a minimum-norm attack.

torchattacks builds its AutoAttack with 10 steps for APGD, APGD-T and FAB, where the paper has 100, as ours has: both
are shown. The last row is the cost of one step against a deployed binary network beside its float twin.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.attacks import parse_attack
from robustlab.core import Tiled
from robustlab.core.balls import BALLS
from robustlab.core.keys import sample_keys
from robustlab.deploy import load
from robustlab.evaluate.data import open_data


@dataclass(frozen=True)
class Case:
    """An attack of ours, the peer's of the same kind, the model, how many images, and the ratio that is wanted."""

    attack: str
    peer: str
    model: str
    images: int
    goal: float


RESNET, ROBUST = "robustlab:cifar_resnet20", "robustlab:cifar_cnn_a_mix"
CASES = (
    Case("pgd100-linf-8of255", "torchattacks:PGD", RESNET, 1000, 3.0),
    Case("pgd100-linf-2of255", "torchattacks:PGD", ROBUST, 1000, 1.0),
    Case("autoattack-linf-2of255", "torchattacks:AutoAttack with 100 steps", ROBUST, 200, 2.0),
    Case("autoattack-linf-2of255", "torchattacks:AutoAttack", ROBUST, 200, 2.0),
    Case("ddn100-l2", "foolbox:DDN", RESNET, 200, 1.0),
    Case("fmn100-l2", "foolbox:FMN", RESNET, 200, 1.0),
    Case("fmn100-linf", "foolbox:FMN", RESNET, 200, 1.0),
)
TWINS = ("robustlab:signs_w1a1", "float twin")


def run_ours(case: Case, model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """What robustlab's attack returns."""
    attack = parse_attack(case.attack)
    return attack(Tiled(model), images, labels, keys=sample_keys(seed, attack.slug, range(len(images))))


def run_peer(case: Case, model: nn.Module, images: Tensor, labels: Tensor, seed: int, batch: int) -> Tensor:
    """What the peer's attack returns, batch by batch."""
    torch.manual_seed(seed)
    library, _, name = case.peer.partition(":")
    attack: Any = parse_attack(case.attack)
    if library == "torchattacks":
        import torchattacks

        if name == "PGD":
            foreign = torchattacks.PGD(model, attack.ball.eps, 2.5 * attack.ball.eps / attack.steps, attack.steps)
        else:
            foreign = torchattacks.AutoAttack(model, eps=attack.ball.eps, seed=seed)
            for part in foreign._autoattack.attacks if name.endswith("100 steps") else ():
                if hasattr(part, "steps"):  # APGD, APGD-T and FAB: the published number; the library's own is 10.
                    part.steps = 100

        def run(x: Tensor, y: Tensor) -> Tensor:
            return foreign(x, y)  # type: ignore[no-any-return]
    else:
        import foolbox

        kinds = {
            "ddn-l2": lambda: foolbox.attacks.DDNAttack(steps=attack.steps),
            "fmn-l2": lambda: foolbox.attacks.L2FMNAttack(steps=attack.steps),
            "fmn-linf": lambda: foolbox.attacks.LInfFMNAttack(steps=attack.steps),
        }
        foreign = kinds[f"{attack.name}-{attack.ball.norm_name}"]()
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))

        def run(x: Tensor, y: Tensor) -> Tensor:
            found, _, success = foreign(wrapped, x, y, epsilons=None)
            return torch.where(success.reshape(-1, 1, 1, 1), found, x)

    parts = [slice(i, i + batch) for i in range(0, len(images), batch)]
    return torch.cat([run(images[part], labels[part]) for part in parts])


def strength(case: Case, model: nn.Module, found: Tensor, images: Tensor, labels: Tensor) -> float:
    """Robust accuracy in percent, or the median norm over what was right (infinite where nothing was found)."""
    ball = parse_attack(case.attack).ball
    with torch.no_grad():
        broken = Tiled(model)(found).argmax(dim=1) != labels
        right = Tiled(model)(images).argmax(dim=1) == labels
    if math.isfinite(ball.eps):
        outside = int((~ball.contains(found, images)).sum())
        assert outside == 0, f"{outside} images outside {ball}"
        return 100 * float((right & ~broken).float().mean())
    norms = BALLS[ball.norm_name](1.0).distance(found, images)
    return float(torch.where(broken, norms, torch.inf)[right].median())


def peak() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(case: Case, side: str, seed: int, batch: int) -> dict[str, float]:
    """One measurement, in a process of its own."""
    model = load(case.model).eval().requires_grad_(False)
    data = open_data("cifar10", [model])
    images, labels = data.batch(range(case.images))

    def run(x: Tensor, y: Tensor) -> Tensor:
        return run_ours(case, model, x, y, seed) if side == "ours" else run_peer(case, model, x, y, seed, batch)

    model(images[:64])
    before = peak()
    begin = time.perf_counter()
    found = run(images, labels)
    seconds = time.perf_counter() - begin
    memory = peak() - before
    return {"seconds": seconds, "strength": strength(case, model, found, images, labels), "memory_mb": memory}


def step_seconds(which: str) -> dict[str, float]:
    """Seconds of one PGD step on 64 signs that stay: a deployed binary network, or its float twin."""
    from robustlab.deploy import optimize
    from robustlab.models import build, info_of

    deployed = load(TWINS[0])
    info = info_of(deployed)
    assert info is not None
    model = optimize(deployed) if which == TWINS[0] else build(info.architecture, info.arguments)
    images, _ = open_data("signs", [deployed]).batch(range(64))
    tiled = Tiled(model.eval().requires_grad_(False))
    with torch.no_grad():
        labels = tiled(images).argmax(dim=1)
    attack, short = parse_attack("pgd11-linf-1e-06-nostart-full"), parse_attack("pgd1-linf-1e-06-nostart-full")
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        short(tiled, images, labels)
        middle = time.perf_counter()
        attack(tiled, images, labels)
        times.append(((time.perf_counter() - middle) - (middle - begin)) / 10)
    return {"seconds": statistics.median(times)}


def measure(options: argparse.Namespace, arguments: list[str]) -> dict[str, float]:
    """The result of a child process, or of an earlier one that --work has kept."""
    kept = options.work / ("-".join(arguments).replace(" ", "") + ".json") if options.work else None
    if kept is not None and kept.is_file():
        earlier: dict[str, float] = json.loads(kept.read_text())
        return earlier
    command = [sys.executable, __file__, "--threads", str(options.threads), "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(result))
    return result


def compare(index: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides of a case, in turn."""
    case = CASES[index]
    trials = {}
    if len(options.peer_batches) > 1:
        trials = {b: measure(options, [str(index), "peer", "0", str(b)])["seconds"] for b in options.peer_batches}
    batch = min(trials, key=lambda b: trials[b]) if trials else options.peer_batches[0]
    ours, peer = [], []
    for seed in range(options.rounds):
        ours.append(measure(options, [str(index), "ours", str(seed), "0"]))
        peer.append(measure(options, [str(index), "peer", str(seed), str(batch)]))
    row: dict[str, Any] = {**asdict(case), "peer_batch": batch, "rounds": options.rounds}
    for name, side in (("ours", ours), ("peer", peer)):
        row[f"{name}_s"] = min(m["seconds"] for m in side)
        row[f"{name}_strength"] = statistics.mean(m["strength"] for m in side)
        row[f"{name}_memory_mb"] = max(m["memory_mb"] for m in side)
    row["ratio"] = row["peer_s"] / row["ours_s"]
    return row


def table(rows: list[dict[str, Any]], steps: dict[str, float], options: argparse.Namespace) -> str:
    """Markdown."""
    text = (
        f"`python benchmarks/attacks.py`: torch {torch.__version__}, {options.threads} threads, {platform.machine()};"
        " one process each, in turn; robust accuracy in percent, or the median norm.\n\n"
        "| attack | model | n | peer (batch) | strength, robustlab | strength, peer | robustlab s | peer s"
        " | rounds | times faster | goal | memory MB, robustlab | memory MB, peer |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    for r in rows:
        text += (
            f"| {r['attack']} | {r['model']} | {r['images']} | {r['peer']} ({r['peer_batch']})"
            f" | {r['ours_strength']:.4g} | {r['peer_strength']:.4g} | {r['ours_s']:.2f} | {r['peer_s']:.2f}"
            f" | {r['rounds']} | {r['ratio']:.2f} | >= {r['goal']:g}"
            f" | {r['ours_memory_mb']:.0f} | {r['peer_memory_mb']:.0f} |\n"
        )
    deployed, twin = (1000 * steps[name] for name in TWINS)
    return text + (
        f"\nOne step of PGD on 64 images: {deployed:.0f} ms on {TWINS[0]} (bit-packed kernels forward, surrogate"
        f" backward), {twin:.0f} ms on the same architecture in float: {deployed / twin:.2f} times (goal: at most 1).\n"
    )


def main() -> None:
    """Run all cases, print the table, and with --out write it, and the numbers beside it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--peer-batches", type=int, nargs="+", default=[64, 250])
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[c.attack for c in CASES],
        help="some of the attacks; what --out says of the others stays",
    )
    parser.add_argument("--work", type=Path, help="keep every measurement here, and go on from what is here")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        first, *rest = options.child
        result = step_seconds(rest[0]) if first == "step" else child(CASES[int(first)], rest[0], *map(int, rest[1:]))
        print(json.dumps(result))
        return
    rows = []
    earlier = options.out.with_suffix(".json") if options.out and options.only else None
    stay = json.loads(earlier.read_text())["rows"] if earlier and earlier.is_file() else []
    for index, case in enumerate(CASES):
        if options.only and case.attack not in options.only:
            rows += [row for row in stay if (row["attack"], row["peer"]) == (case.attack, case.peer)]
        else:
            rows.append(compare(index, options))
            r = rows[-1]
            print(
                f"{case.attack}: {r['ratio']:.2f} times, {r['ours_strength']:.4g} / {r['peer_strength']:.4g}",
                flush=True,
            )
    steps = {name: measure(options, ["step", name])["seconds"] for name in TWINS}
    text = table(rows, steps, options)
    print(text)
    if options.out:
        options.out.write_text(text)
        found = {"torch": torch.__version__, "threads": options.threads, "rows": rows, "step_seconds": steps}
        options.out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
