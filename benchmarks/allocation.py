"""Bit allocation of the CIFAR-10 ResNet-20 at equal bytes: uniform, by clean sensitivity, and by robust sensitivity.

    ROBUSTLAB_DATA=../shared/data python benchmarks/allocation.py --out benchmarks/allocation.json

Every allocation of a group has the bytes of the uniform network of its mean bits, or less. Sensitivities come from
training images, all figures from the deployed networks on 1,000 test images: clean, under five corruptions at severity
3, and under PGD. An image counts as robust if neither PGD on the network itself, through its surrogate gradient, nor
PGD on the float network, transferred, changes the answer to a wrong one. Differences are paired image by image, with
the percentiles of 10,000 bootstrap samples of the images as their 95 % interval.

Sensitivities and the outcomes of every network are kept in --work as soon as they are known: a run that was stopped
goes on with the same command. Times are another script's: allocation_latency.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from allocation_report import ATTACK, FAMILIES, MEANS, METRICS, MODEL, Difference, Network, compared, report
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress import compress_with
from robustlab.compress.allocation import (
    Bits,
    Budget,
    Ledger,
    Problem,
    Variants,
    allocation_spec,
    bits_text,
    make_variants,
    sensitivities,
)
from robustlab.core import Tiled
from robustlab.core.keys import sample_keys
from robustlab.deploy import fingerprint
from robustlab.evaluate.allocation import SCORES, byte_costs, make_score
from robustlab.evaluate.conditions import check_conditions


def arrays(name: str) -> tuple[Tensor, Tensor]:
    """float32 (N, 3, 32, 32) in [0, 1] and int64 (N,)."""
    folder = Path(os.environ.get("ROBUSTLAB_DATA", "../shared/data"))
    with np.load(folder / "cifar10" / name) as found:
        x, y = torch.from_numpy(found["x"]), torch.from_numpy(found["y"])
    return (x.permute(0, 3, 1, 2).float() / 255).contiguous(), y.long()


class Judge:
    """The test images as they are, corrupted, and attacked on the float network; made once."""

    def __init__(self, original: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.labels = labels
        self.clean = images
        self.corrupted = [
            condition.show(images, labels, self._keys(condition.key), None).images
            for condition in check_conditions(SCORES["corruption"])
        ]
        self.transfer = self.attacked(original)
        self.reference = [self._logs(original, shown) for shown in (images, *self.corrupted, self.transfer)]

    def attacked(self, model: nn.Module) -> Tensor:
        (attack,) = check_conditions((ATTACK,))
        return attack.show(self.clean, self.labels, self._keys(ATTACK), Tiled(model)).images

    def outcomes(self, deployed: nn.Module, corrected: nn.Module, *, attack: bool) -> dict[str, np.ndarray]:
        """By metric, one number per image: share of right answers, or KL divergence from the float network.

        corrected: the same network with statistics correction, judged clean and corrupted.
        """
        right, kl = self._answers(deployed)
        right_after, kl_after = self._answers(corrected, attacked=False)
        made = {
            "clean": right[0],
            "corrupted": torch.stack(right[1:-1]).mean(0),
            "kl": kl[0],
            "kl_corrupted": torch.stack(kl[1:-1]).mean(0),
            "kl_transfer": kl[-1],
            "transfer": right[0] * right[-1],
            "clean_after": right_after[0],
            "corrupted_after": torch.stack(right_after[1:]).mean(0),
            "kl_after": kl_after[0],
        }
        logs = self._logs(rl.optimize(deployed), self.clean)
        made["agreement"] = (logs.argmax(1) == self.reference[0].argmax(1)).double()
        if attack:
            answers = self._logs(rl.optimize(deployed), self.attacked(deployed)).argmax(1)
            made["white_box"] = right[0] * (answers == self.labels).double()
            made["robust"] = made["white_box"] * right[-1]
        return {name: values.numpy() for name, values in made.items()}

    def _answers(self, deployed: nn.Module, *, attacked: bool = True) -> tuple[list[Tensor], list[Tensor]]:
        """(whether answers are right, KL) by image: clean, under every corruption, attacked on the float network."""
        fast = rl.optimize(deployed)
        shown = (self.clean, *self.corrupted, self.transfer)[: None if attacked else -1]
        found = [self._logs(fast, images) for images in shown]
        right = [(logs.argmax(1) == self.labels).double() for logs in found]
        pairs = zip(self.reference, found, strict=False)
        return right, [(wanted.exp() * (wanted - logs)).sum(1) for wanted, logs in pairs]

    def _keys(self, purpose: str) -> Tensor:
        return sample_keys(0, purpose, range(len(self.clean)))

    @staticmethod
    def _logs(model: nn.Module, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = Tiled(model)(images)
        return logits.double().log_softmax(1)


def allocations(problems: Mapping[str, Problem], limit: int, mean: int, draws: int) -> dict[str, dict[str, Bits]]:
    """By arm: the uniform allocation, the best one by each score, and random ones."""
    clean = problems["clean"]
    (uniform,) = [found for (weights, _), found in clean.uniforms().items() if weights == mean]
    found = {"uniform": uniform}
    found |= {name: problem.solve(limit) for name, problem in problems.items()}
    return found | {f"random {seed}": clean.random(limit, seed) for seed in range(draws)}


def judged(path: Path, bits: Mapping[str, Bits], arm: str, context: Any) -> dict[str, np.ndarray]:
    """Outcomes of the network that the spec of `bits` makes, from `path` if they are there."""
    original, batches, judge = context
    plain = allocation_spec(original, bits)
    deployed = rl.deploy(compress_with(original, plain, calibration=batches))
    identity = fingerprint(deployed)
    if path.is_file():
        with np.load(path) as kept:
            if str(kept["identity"]) == identity:
                return {name: kept[name] for name in kept.files if name != "identity"}
    better = replace(plain, statistics_correction=True)
    corrected = rl.deploy(compress_with(original, better, calibration=batches))
    found = judge.outcomes(deployed, corrected, attack=not arm.startswith("random"))
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, identity=np.array(identity), **found)
    partial.replace(path)
    return found


def group(
    family: str, variants: Variants, scores: Mapping[str, Any], mean: int, options: argparse.Namespace, context: Any
) -> tuple[list[Network], dict[str, dict[str, np.ndarray]]]:
    """All networks of one family and mean, and their outcomes by arm."""
    costs = byte_costs(variants)
    problems = {}
    for name, score in scores.items():
        kept = Ledger(options.work / f"{slug(family)}-{name}.json", f"{options.images}/{options.calibration}/{MODEL}")
        problems[name] = Problem(costs.layers, sensitivities(variants, score, ledger=kept), costs.fixed, costs.unit)
    limit = Budget(mean, "bits").within(problems["clean"])
    networks, outcomes = [], {}
    for arm, bits in allocations(problems, limit, mean, options.random).items():
        began = time.process_time()
        cost = problems["clean"].cost(bits)
        found = judged(options.work / f"{slug(family)}-{mean}-{slug(arm)}.npz", bits, arm, context)
        problem = problems.get(arm, problems["clean"])
        score = scores.get(arm, scores["clean"])
        network = Network(
            family=family,
            mean=mean,
            arm=arm,
            bits={name: bits_text(pair) for name, pair in bits.items()},
            bytes=cost,
            predicted=problem.loss(bits),
            joint=score(variants.mixed(bits)),
            agreement=float(found["agreement"].mean()),
            figures={name: float(found[name].mean()) for name in METRICS if name in found},
            white_box=float(found["white_box"].mean()) if "white_box" in found else None,
            transfer=float(found["transfer"].mean()),
        )
        networks.append(network)
        outcomes[arm] = found
        figures = ", ".join(f"{name} {value:.3f}" for name, value in network.figures.items())
        print(f"{family}, {mean} bits, {arm}: {figures} ({time.process_time() - began:.0f} s)", flush=True)
    return networks, outcomes


def slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


def training_images(calibration: int, count: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Batches to calibrate with, and other images and labels to measure sensitivities on."""
    images, labels = arrays("train4000.npz")
    batches = list(images[:: len(images) // calibration][:calibration].split(64))
    step = len(images) // count
    return batches, images[step // 2 :: step][:count], labels[step // 2 :: step][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/allocation.json"))
    parser.add_argument("--work", type=Path, default=Path("allocation-work"), help="what a stopped run goes on from")
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--images", type=int, default=400, help="that sensitivities are measured on")
    parser.add_argument("--random", type=int, default=2, help="random allocations per group")
    options = parser.parse_args()
    original = rl.load(MODEL).eval()
    test, labels = arrays("test1000.npz")
    batches, shown, answers = training_images(options.calibration, options.images)
    options.work.mkdir(parents=True, exist_ok=True)
    judge = Judge(original, test, labels)
    right = [(logs.argmax(1) == labels).double() for logs in judge.reference]  # clean, corrupted, attacked
    header = {
        "command": f"python benchmarks/allocation.py --calibration {options.calibration} --images {options.images}",
        "calibration": options.calibration,
        "images": options.images,
        "test": len(labels),
        "float": 100 * float(right[0].mean()),
        "float_corrupted": 100 * float(torch.stack(right[1:-1]).mean()),
        "float_robust": 100 * float(right[-1].mean()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    networks: list[Network] = []
    differences: list[Difference] = []
    for family, choices in FAMILIES.items():
        variants = make_variants(original, batches, choices, finish=rl.deploy)
        scores = {name: make_score(name, variants.base, shown, answers) for name in SCORES}
        for mean in MEANS:
            found, outcomes = group(family, variants, scores, mean, options, (original, batches, judge))
            networks += found
            differences += compared(family, mean, outcomes)
            content = {
                "header": header,
                "networks": [asdict(n) for n in networks],
                "differences": [asdict(d) for d in differences],
            }
            options.out.write_text(json.dumps(content, indent=1) + "\n")
            options.out.with_suffix(".md").write_text(report(networks, differences, header))
    print(f"{time.process_time():.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
