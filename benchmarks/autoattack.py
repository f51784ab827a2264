"""AutoAttack of robustlab beside torchattacks' on robustly and certifiably trained networks, image by image.

    python benchmarks/autoattack.py --work runs/autoattack --out benchmarks/autoattack.json

Every network and attack is judged in parts of 200 images, each kept in --work when it ends, so that a stopped run goes
on where it was. The reference alone takes 20 to 45 minutes for 1,000 images; `--only` names networks, `--side` does one
of the two. An image counts as robust if the network still gives its label on what the attack returned, judged by the
same function for both, and what was returned is checked against the threat model.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torchattacks
from torch import Tensor, nn

from robustlab.core import Linf, Tiled
from robustlab.core.keys import sample_keys
from robustlab.deploy import load
from robustlab.evaluate.data import open_data

PART = 200


@dataclass(frozen=True)
class Case:
    """A network, the radius it is judged at, and how many images."""

    model: str
    data: str
    eps: float
    images: int


CASES = (
    Case("cifar_cnn_a_mix", "cifar10", 2 / 255, 1000),
    Case("mnist_cnn_a_adv", "mnist", 0.3, 1000),
    Case("cifar_resnet2b_adv", "cifar10", 2 / 255, 1000),
    Case("cifar_cnn_a_adv", "cifar10", 2 / 255, 200),
    Case("cifar_cnn_a_adv4", "cifar10", 2 / 255, 200),
    Case("cifar_cnn_a_adv_alt", "cifar10", 2 / 255, 200),
    Case("cifar_oval_base", "cifar10", 2 / 255, 200),
    Case("cifar_oval_wide", "cifar10", 2 / 255, 200),
    Case("cifar_oval_deep", "cifar10", 2 / 255, 200),
    Case("mnist_convex_adv", "mnist", 0.1, 200),
)


def read(case: Case, part: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and images and labels of one part; MNIST has one channel here."""
    model = load(f"robustlab:{case.model}").eval().requires_grad_(False)
    data = open_data(case.data, [model])
    images, labels = data.batch(range(part * PART, min((part + 1) * PART, case.images)))
    return model, images[:, :1].contiguous() if case.data == "mnist" else images, labels


def reference(case: Case, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """What torchattacks' AutoAttack, standard, returns."""
    attack = torchattacks.AutoAttack(model, norm="Linf", eps=case.eps, version="standard", n_classes=10, seed=0)
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
    if side == "reference":
        adversarial = reference(case, model, images, labels)
    else:
        adversarial = ours(case, model, images, labels, part * PART)
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


def main() -> None:
    """Judge what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[c.model for c in CASES])
    parser.add_argument("--side", choices=("reference", "ours"), nargs="+", default=["reference", "ours"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if options.only and case.model not in options.only:
            continue
        for part in range(-(-case.images // PART)):
            for side in options.side:
                kept(case, side, part, options.work)


if __name__ == "__main__":
    main()
