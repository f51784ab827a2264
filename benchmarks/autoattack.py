"""AutoAttack of robustlab beside torchattacks' on robustly and certifiably trained networks, image by image.

    python benchmarks/autoattack.py --work runs/autoattack --out benchmarks/autoattack.json

Every network and attack is judged in parts of 200 images, each kept in --work when it ends, so that a stopped run goes
on where it was; the reference alone takes minutes for each part. `--only` names networks, `--side` does one of the two,
and --out is written, with a table beside it, once both are there. An image counts as robust if the network still gives
its label on what the attack returned, judged by the same function for both, and what was returned is checked against
the threat model.

torchattacks builds its AutoAttack with 10 steps for APGD, APGD-T and FAB; the paper and its authors' code have 100.
Side ``reference`` is the library as it comes, ``published`` the same objects with 100 steps, with which ours is to be
compared. Side ``again`` is the library as it comes with another seed: how much of what one run breaks another breaks is
the luck that any comparison has. Seconds are process time of one thread of torch (--threads).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

from robustlab.core import Linf, Tiled
from robustlab.core.keys import sample_keys
from robustlab.deploy import load
from robustlab.evaluate.data import open_data

PART = 200
SIDES = ("reference", "published", "again", "ours")
PUBLISHED_STEPS = 100


@dataclass(frozen=True)
class Case:
    """A network, the radius it is judged at, and how many images."""

    model: str
    data: str
    eps: float
    images: int
    pgd: float  # Accuracy under PGD, in percent, where these networks were collected.
    certified: float | None = None  # Certified accuracy as published, in percent.


CASES = (
    Case("cifar_cnn_a_mix", "cifar10", 2 / 255, 1000, 57.1),
    Case("mnist_cnn_a_adv", "mnist", 0.3, 1000, 77.8),
    Case("cifar_resnet2b_adv", "cifar10", 2 / 255, 1000, 57.0, 26.88),
    Case("cifar_cnn_a_adv", "cifar10", 2 / 255, 200, 51.9),
    Case("cifar_cnn_a_adv4", "cifar10", 2 / 255, 200, 49.0),
    Case("cifar_cnn_a_adv_alt", "cifar10", 2 / 255, 200, 56.1),
    Case("cifar_oval_base", "cifar10", 2 / 255, 200, 52.0),
    Case("cifar_oval_wide", "cifar10", 2 / 255, 200, 55.6),
    Case("cifar_oval_deep", "cifar10", 2 / 255, 200, 48.8),
    Case("mnist_convex_adv", "mnist", 0.1, 200, 95.6, 94.2),
)


def read(case: Case, part: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and images and labels of one part; MNIST has one channel here."""
    model = load(f"robustlab:{case.model}").eval().requires_grad_(False)
    data = open_data(case.data, [model])
    images, labels = data.batch(range(part * PART, min((part + 1) * PART, case.images)))
    return model, images[:, :1].contiguous() if case.data == "mnist" else images, labels


def reference(case: Case, model: nn.Module, images: Tensor, labels: Tensor, steps: int | None, seed: int = 0) -> Tensor:
    """What torchattacks' AutoAttack, standard, returns; with `steps` for all its gradient attacks, or its own 10."""
    attack = torchattacks.AutoAttack(model, norm="Linf", eps=case.eps, version="standard", n_classes=10, seed=seed)
    for part in attack._autoattack.attacks:
        if steps is not None and hasattr(part, "steps"):
            part.steps = steps
    adversarial: Tensor = attack(images, labels)
    return adversarial


def ours(case: Case, model: nn.Module, images: Tensor, labels: Tensor, first: int) -> Tensor:
    """What robustlab's AutoAttack, standard, returns."""
    from robustlab.attacks import AutoAttack

    attack = AutoAttack(Linf(case.eps))
    keys = sample_keys(0, attack.slug, range(first, first + len(images)))
    return attack(Tiled(model), images, labels, keys=keys)


def judge(case: Case, side: str, part: int) -> dict[str, object]:
    """Which images of a part are right without and under attack, whether the threat model held, and seconds."""
    model, images, labels = read(case, part)
    begin = time.process_time()
    if side == "ours":
        adversarial = ours(case, model, images, labels, part * PART)
    else:
        steps = PUBLISHED_STEPS if side == "published" else None
        adversarial = reference(case, model, images, labels, steps, seed=int(side == "again"))
    seconds = time.process_time() - begin
    inside = Linf(case.eps).contains(adversarial, images)
    with torch.no_grad():
        clean = Tiled(model)(images).argmax(dim=1) == labels
        robust = Tiled(model)(adversarial).argmax(dim=1) == labels
    return {
        "clean": "".join(str(int(b)) for b in clean),
        "robust": "".join(str(int(b)) for b in robust & clean),
        "outside": int((~inside).sum()),
        "cpu_seconds": round(seconds, 1),
    }


def kept(case: Case, side: str, part: int, work: Path) -> dict[str, object]:
    """A part from --work, or judged and kept there."""
    path = work / f"{case.model}-{side}-{part}.json"
    if path.is_file():
        found: dict[str, object] = json.loads(path.read_text())
        return found
    result = judge(case, side, part)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result))
    temporary.replace(path)
    print(case.model, side, part, result["clean"].count("1"), result["robust"].count("1"), result["cpu_seconds"])  # type: ignore[attr-defined]
    return result


def compare(case: Case, work: Path) -> dict[str, object] | None:
    """One row: accuracies in percent with standard errors, and who breaks what; None if a part of ours is missing."""
    sides = {}
    for side in SIDES:
        found = [work / f"{case.model}-{side}-{part}.json" for part in range(-(-case.images // PART))]
        if all(path.is_file() for path in found):
            sides[side] = [json.loads(path.read_text()) for path in found]
    if "ours" not in sides or len(sides) < 2:
        return None
    row: dict[str, object] = {
        "model": case.model,
        "data": case.data,
        "eps": case.eps,
        "images": case.images,
        "clean": percent(bits(sides["ours"], "clean"))[0],
        "pgd": case.pgd,
        "certified": case.certified,
    }
    broken = {side: bits(parts, "clean") & ~bits(parts, "robust") for side, parts in sides.items()}
    for side, parts in sides.items():
        robust, error = percent(bits(parts, "robust"))
        row[side] = {
            "robust": robust,
            "standard_error": error,
            "outside": sum(part["outside"] for part in parts),
            "cpu_seconds": round(sum(part["cpu_seconds"] for part in parts), 1),
        }
        if side != "ours":
            both = int((broken[side] & broken["ours"]).sum())
            row[side] |= {  # type: ignore[operator]
                "breaks": int(broken[side].sum()),
                "also_broken_by_ours": both,
                "broken_by_ours_alone": int((broken["ours"] & ~broken[side]).sum()),
            }
        if side == "again" and "reference" in sides:
            row[side]["also_broken_by_reference"] = int((broken[side] & broken["reference"]).sum())  # type: ignore[index]
    return row


def bits(parts: list[dict[str, str]], name: str) -> Tensor:
    """bool (images,): a string of ones and zeros of every part."""
    return torch.tensor([c == "1" for part in parts for c in part[name]])


def percent(right: Tensor) -> tuple[float, float]:
    """An accuracy and its standard error, in percent."""
    share = float(right.double().mean())
    return round(100 * share, 2), round(100 * math.sqrt(share * (1 - share) / len(right)), 2)


def table(rows: list[dict[str, Any]], versions: dict[str, str]) -> str:
    """The rows for people."""
    lines = [
        "# AutoAttack beside torchattacks'",
        "",
        f"`benchmarks/autoattack.py`, robustlab {versions['robustlab']}, torchattacks {versions['torchattacks']},"
        f" torch {versions['torch']}, one thread, {versions['machine']}.",
        "",
        "Robust accuracy in percent, with its standard error. *10 steps* is torchattacks' AutoAttack as it comes;"
        " *100 steps* is the same with the published steps, as ours has; empty: not run. *Of theirs* is how many of the"
        " images that it breaks ours breaks too, *of its own* how many of them it breaks with another seed. How fast:"
        " benchmarks/attacks.md.",
        "",
        "| model | eps | images | clean | PGD | 10 steps | 100 steps | ours | of theirs, 10 | of its own"
        " | of theirs, 100 | certified |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        eps = f"{row['eps'] * 255:g}/255" if row["data"] == "cifar10" else f"{row['eps']:g}"
        ours, sides = row["ours"], [row.get(side) for side in ("reference", "published")]
        robust = [f"{s['robust']:.1f}" if s else "" for s in sides]
        shared = [f"{s['also_broken_by_ours']}/{s['breaks']}" if s else "" for s in sides]
        again = row.get("again", {}).get("also_broken_by_reference")
        shared.insert(1, "" if again is None else f"{again}/{sides[0]['breaks']}")
        certified = "" if row["certified"] is None else f"{row['certified']:.1f}"
        mine = f"{ours['robust']:.1f} ± {ours['standard_error']:.1f}"
        start = [row["model"], eps, row["images"], f"{row['clean']:.1f}", f"{row['pgd']:.1f}"]
        lines.append("| " + " | ".join(map(str, [*start, *robust, mine, *shared, certified])) + " |")
    return "\n".join(lines) + "\n"


def write(out: Path, work: Path) -> None:
    """The result file and the table beside it, of all networks that both sides have judged."""
    versions = {name: metadata.version(name) for name in ("robustlab", "torchattacks", "torch")}
    versions["machine"] = platform.machine()
    rows = [row for case in CASES if (row := compare(case, work)) is not None]
    out.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2) + "\n")
    out.with_suffix(".md").write_text(table(rows, versions))


def main() -> None:
    """Judge what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=[c.model for c in CASES])
    parser.add_argument("--side", choices=SIDES, nargs="*", default=list(SIDES))
    parser.add_argument("--parts", type=int, default=5, help="of each network, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the comparison of what --work holds, and a table beside it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if options.only and case.model not in options.only:
            continue
        for part in range(min(options.parts, -(-case.images // PART))):
            for side in options.side:
                kept(case, side, part, options.work)
    if options.out is not None:
        write(options.out, options.work)


if __name__ == "__main__":
    main()
