"""`robustlab audit` on masked models (benchmarks/masked.py) and on honest ones, beside what is true of them.

    python benchmarks/audit.py --work runs/audit --out benchmarks/audit.json --markdown benchmarks/audit.md

Truth of a masked model is AutoAttack (torchattacks, standard) on its twin, which gives the same answers and an honest
gradient; for the binary network of signs, the audit of that twin. Where there is no twin it is whatever an attack that
knows the mask leaves of what the audit left: PGD with 8 averaged gradients where the model is random or jumps, 100
steps and two losses, through a gradient written for this mask, and Square. Of honest models it is AutoAttack, where
that has been run.

Every audit and every truth is kept in --work when it ends, so that a stopped run goes on where it was; rows of an
earlier version of the audit are made again, and marked in the table until then. `--autoattack`
names the --work folder of benchmarks/autoattack.py, whose judgements of the same images are then used.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from masked import MASKED, adaptive, make
from torch import Tensor, nn

from robustlab.attacks import PGD, Square
from robustlab.compress import compress
from robustlab.core import Linf
from robustlab.core.keys import sample_keys
from robustlab.deploy import deploy, load
from robustlab.evaluate.audit import Audit, audit, below
from robustlab.evaluate.audit.api import VERSION
from robustlab.evaluate.audit.sources import Borrowed
from robustlab.evaluate.audit.target import Target, is_random, logits_in_batches, seeded
from robustlab.evaluate.data import open_data

IMAGES, SLOW_IMAGES = 100, 50
SLOW = ("cifar_resnet20", "signs_")
TRAINING_IMAGES = 256


@dataclass(frozen=True)
class Subject:
    """A model of the table, and what to attack in its place to learn the truth."""

    name: str
    kind: str
    text: str
    data: str
    eps: float
    base: str
    images: int
    model: nn.Module
    twin: nn.Module | None


def _images(base: str) -> int:
    return SLOW_IMAGES if base.startswith(SLOW) else IMAGES


def _training(base: str, data: str) -> Tensor:
    return open_data(data, [load(f"robustlab:{base}")], split="train").batch(range(TRAINING_IMAGES))[0]


def masked(name: str) -> Subject:
    entry = MASKED[name]
    model, twin = make(name, _training(entry.base, entry.data))
    return Subject(name, "masked", entry.text, entry.data, entry.eps, entry.base, _images(entry.base), model, twin)


def honest(name: str, data: str, eps: float) -> Subject:
    model = load(f"robustlab:{name}").eval().requires_grad_(False)
    return Subject(name, "honest", "as trained", data, eps, name, _images(name), model, model)


def deployed(name: str, bits: int) -> Subject:
    network = load(f"robustlab:{name}")
    model = deploy(compress(network, weights=bits, activations=bits, calibration=[_training(name, "cifar10")]))
    return Subject(
        f"{name}-w{bits}a{bits}", "honest", "compressed and deployed", "cifar10", 2 / 255, name, _images(name), model,
        model,
    )  # fmt: skip


HONEST = {
    **{f"cifar_cnn_a_{part}": ("cifar10", 2 / 255) for part in ("mix", "adv", "adv4", "adv_alt")},
    "cifar_resnet2b_adv": ("cifar10", 2 / 255),
    **{f"cifar_oval_{part}": ("cifar10", 2 / 255) for part in ("base", "wide", "deep")},
    "cifar_conv_small_pgd": ("cifar10", 2 / 255),
    "mnist_cnn_a_adv": ("mnist", 0.3),
    "mnist_convex_adv": ("mnist", 0.1),
    "cifar_resnet20": ("cifar10", 2 / 255),
    **{f"signs_{part}": ("signs", 2 / 255) for part in ("w8a8", "w4a4", "w1a1", "w8a8_adv")},
}
DEPLOYED = {"cifar_cnn_a_mix-w8a8": ("cifar_cnn_a_mix", 8), "cifar_cnn_a_mix-w4a4": ("cifar_cnn_a_mix", 4)}
SUBJECTS: dict[str, Callable[[], Subject]] = {
    **{name: (lambda name=name: masked(name)) for name in MASKED},
    **{name: (lambda name=name, row=row: honest(name, *row)) for name, row in HONEST.items()},
    **{name: (lambda row=row: deployed(*row)) for name, row in DEPLOYED.items()},
}


def reference(twin: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """bool (N,): right without attack and under torchattacks' AutoAttack."""
    import torchattacks

    attack = torchattacks.AutoAttack(twin, norm="Linf", eps=eps, version="standard", n_classes=10, seed=0)
    adversarial = attack(images, labels)
    if not bool(Linf(eps).contains(adversarial, images).all()):
        raise RuntimeError("AutoAttack left the threat model")
    return (twin(images).argmax(1) == labels) & (twin(adversarial).argmax(1) == labels)


def stronger(subject: Subject, images: Tensor, labels: Tensor, left: Tensor) -> Tensor:
    """What an attack that knows the mask leaves of the samples `left` (bool, (N,))."""
    target = Target(subject.model, Linf(subject.eps), images, labels, 1, is_random(subject.model, images[:8], 1))
    helper = adaptive(subject.name, subject.model)
    network = subject.model if helper is None else Borrowed(subject.model, helper)
    draws = 8 if target.random or subject.name == "k-wta" else 1
    plans = [(network, PGD(target.ball, steps=100, loss=loss, eot=draws)) for loss in ("margin", "ce")] + [
        (subject.model, Square(target.ball, steps=2000))
    ]
    left = left.clone()
    for number, (attacked, attack) in enumerate(plans):
        rows = torch.nonzero(left).flatten()
        if len(rows):
            keys = sample_keys(1, attack.slug, rows)
            with seeded(1, attack.slug):
                adversarial = attack(attacked, images[rows], labels[rows], keys=keys)
            left[rows[target.broken(adversarial, rows, f"truth/{number}")]] = False
    return left


def _from_autoattack(folder: Path | None, subject: Subject) -> Tensor | None:
    """The first images' judgement by benchmarks/autoattack.py, if the twin is a network that it has judged."""
    if folder is None or subject.twin is None:
        return None
    plain = load(f"robustlab:{subject.base}")
    path = folder / f"{subject.base}-reference-0.json"
    if not path.is_file() or not _same(plain, subject.twin):
        return None
    return torch.tensor([c == "1" for c in json.loads(path.read_text())["robust"][: subject.images]])


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules are the same network: class and weights."""
    if type(one) is not type(other):
        return False
    here, there = one.state_dict(), other.state_dict()
    return here.keys() == there.keys() and all(torch.equal(here[k], there[k]) for k in here)


def judge(name: str, work: Path, autoattack: Path | None) -> dict[str, Any]:
    """One row of the table."""
    subject = SUBJECTS[name]()
    data = open_data(subject.data, [load(f"robustlab:{subject.base}")])
    begin = time.process_time()
    found = audit(subject.model, data, ball=Linf(subject.eps), limit=subject.images, out=work / f"{name}-parts", seed=0)
    seconds = time.process_time() - begin
    images, labels = data.batch(range(subject.images))
    truth = kept(work / f"{name}-truth.json", lambda: _truth(subject, found, images, labels, work, autoattack))
    searched = [a for a in found.attempts if a.name == "square"]
    row = {
        "model": name,
        "version": VERSION,
        "kind": subject.kind,
        "what": subject.text,
        "eps": subject.eps,
        "images": subject.images,
        "clean": found.clean.value,
        "naive": None if found.naive is None else found.naive.value,
        "white_box": None if found.white_box is None else found.white_box.value,
        "square_flag": bool(searched and searched[0].broken),
        "grade": found.grade,
        "flagged": below(found.grade, "B"),
        "audited": found.robust.value,
        "audited_ci": [found.robust.low, found.robust.high],
        "achieved_by": found.achieved_by,
        "truth": truth["robust"],
        "truth_by": truth["by"],
        "reasons": list(found.reasons),
        "cpu_seconds": None if found.run["parts_from_store"] else round(seconds, 1),
    }
    print(
        json.dumps({key: row[key] for key in ("model", "naive", "grade", "audited", "truth", "cpu_seconds")}),
        flush=True,
    )
    return row


def kept(path: Path, make: Callable[[], dict[str, Any]], version: int | None = None) -> dict[str, Any]:
    """What `path` holds, if it is of this version, or what `make` gives, which is then kept there."""
    if not path.is_file() or (version is not None and json.loads(path.read_text()).get("version") != version):
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(make()))
        partial.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _row(robust: Tensor, by: str) -> dict[str, Any]:
    return {"robust": round(float(robust.double().mean()), 6), "by": by}


def _truth(
    subject: Subject, found: Audit, images: Tensor, labels: Tensor, work: Path, autoattack: Path | None
) -> dict[str, Any]:
    judged = _from_autoattack(autoattack, subject)
    if judged is not None:
        return _row(judged, "AutoAttack" if subject.kind == "honest" else "AutoAttack on the twin")
    if subject.kind == "honest":
        return {"robust": None, "by": "not judged"}
    if subject.base in HONEST and subject.base.startswith("signs_"):
        return {"robust": judge(subject.base, work, None)["audited"], "by": "the audit of the twin"}
    if subject.twin is not None:
        here, there = (logits_in_batches(m, images).argmax(1) for m in (subject.model, subject.twin))
        if not torch.equal(here, there):
            raise RuntimeError(f"{subject.name} and its twin answer differently")
        return _row(reference(subject.twin, images, labels, subject.eps), "AutoAttack on the twin")
    left = torch.zeros(len(images), dtype=torch.bool)
    broken = {index for attempt in found.attempts for index in attempt.broken}
    target = Target(subject.model, Linf(subject.eps), images, labels, 0, bool(found.run["random"]))
    left[[i for i in torch.nonzero(target.right(images, labels, "clean")).flatten().tolist() if i not in broken]] = True
    return _row(stronger(subject, images, labels, left), "an attack that knows the mask")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    lines = [
        "# `robustlab audit` on masked and honest models",
        "",
        "`python benchmarks/audit.py`; percent of images, linf. *PGD*: PGD-20 through the gradient as given (none: the "
        "model has no gradient, so no white-box library runs). *Square flag*: AutoAttack's sign of masking, Square "
        "breaks an image that the white-box attacks left. *Flagged*: grade C or worse. *Truth*: see the script.",
        "",
        "| model | | images | eps x 255 | clean | PGD | Square flag | grade | audited | truth | by |",
        "|---|---|---:|---:|---:|---:|---|:---:|---:|---:|---|",
    ]
    for row in rows:
        flag = "yes" if row["square_flag"] else "no"
        old = "" if row.get("version") == VERSION else r" \*"
        lines.append(
            f"| {row['model']}{old} | {row['kind']}: {row['what']} | {row['images']} | {row['eps'] * 255:g} | "
            f"{percent(row['clean'])} | {percent(row['naive']) or 'none'} | {flag} | **{row['grade']}** | "
            f"{percent(row['audited'])} | {percent(row['truth'])} | {row['truth_by']} |"
        )
    bad = [row for row in rows if row["kind"] == "masked"]
    good = [row for row in rows if row["kind"] == "honest"]
    near = sum(abs(row["audited"] - row["truth"]) <= max(0.01, 1 / row["images"]) + 1e-9 for row in bad)
    lines += [
        "",
        f"Masked models flagged: {sum(r['flagged'] for r in bad)} of {len(bad)} by the audit, "
        f"{sum(r['square_flag'] for r in bad)} by the Square flag. Honest models flagged: "
        f"{sum(r['flagged'] for r in good)} of {len(good)} by the audit, {sum(r['square_flag'] for r in good)} by the "
        f"Square flag. Audited robust accuracy within 1 point, or one image, of the truth on {near} of "
        f"{len(bad)} masked models.",
        "",
    ]
    if any(row.get("version") != VERSION for row in rows):
        lines += [r"\* by an earlier version of the audit, whose attacks with the given gradient were fewer.", ""]
    return "\n".join(lines)


def main() -> None:
    """Judge what is wanted and write the table of everything that is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SUBJECTS))
    parser.add_argument("--autoattack", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.getLogger("robustlab").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.only or SUBJECTS:
        kept(options.work / f"{name}.json", lambda name=name: judge(name, options.work, options.autoattack), VERSION)
    known = [options.work / f"{name}.json" for name in SUBJECTS]
    rows = [json.loads(path.read_text()) for path in known if path.is_file()]
    if options.out is not None:
        options.out.write_text(json.dumps({"schema": 1, "rows": rows}, indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(table(rows))


if __name__ == "__main__":
    main()
