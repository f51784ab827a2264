"""A network whose activations are rounded in the graph looks robust to a white-box attack, and is not.

    python benchmarks/round_export.py --out benchmarks/round_export.json

CIFAR-10 ResNet-20 with 4-bit activations through `torch.round`, as an export of a quantized network has it, linf
2/255: PGD-10 of torchattacks, `robustlab.evaluate`, and `robustlab.audit`. The same network with a straight-through
estimator, which gives exactly the same logits, shows that nothing but the gradient is different.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import torch
import torchattacks
from masked import Quantized
from torch import Tensor, nn

import robustlab as rl
from robustlab.core.subgradients import round_ste
from robustlab.datasets import load_dataset

EPS = 2 / 255
CONDITION = "pgd10-linf-2of255"


def robust(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent right under PGD-10 of torchattacks, images that are wrong without attack counted as wrong."""
    torch.manual_seed(0)
    adversarial = torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=10)(images, labels)
    return 100 * float((model(adversarial).argmax(1) == labels).float().mean())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--work", type=Path, help="folder that keeps finished parts of the audit")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("robustlab").setLevel(logging.ERROR)
    training, _ = load_dataset("cifar10", split="train").batch(range(256))
    data = load_dataset("cifar10")
    images, labels = data.batch(range(options.images))
    exported = Quantized(rl.load("robustlab:cifar_resnet20"), training).eval().requires_grad_(False)
    straight = Quantized(rl.load("robustlab:cifar_resnet20"), training, round_ste).eval().requires_grad_(False)
    same = bool(torch.equal(exported(images), straight(images)))
    with tempfile.TemporaryDirectory() as folder:
        evaluated = rl.evaluate(exported, data, [CONDITION], limit=options.images, out=folder, efficiency=False).cells[
            0
        ]
    found = rl.audit(exported, data, ball=rl.Linf(EPS), limit=options.images, out=options.work)
    result = {
        "images": options.images,
        "clean": round(100 * found.clean.value, 1),
        "logits_equal": same,
        "torchattacks_pgd10_round": round(robust(exported, images, labels), 1),
        "torchattacks_pgd10_straight_through": round(robust(straight, images, labels), 1),
        "evaluate_pgd10_round": round(100 * evaluated["accuracy"], 1),
        "evaluate_gradient": evaluated["gradient"],
        "audit_grade": found.grade,
        "audit_first": None if found.naive is None else round(100 * found.naive.value, 1),
        "audit_lowest": round(100 * found.robust.value, 1),
        "audit_achieved_by": found.achieved_by,
    }
    print(json.dumps(result, indent=1))
    print("\n".join(found.lines()))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
