"""Bit allocation of the CIFAR-10 ResNet-20 at equal bytes: uniform, by clean sensitivity, and by robust sensitivity.

    ROBUSTLAB_DATA=../shared/data python benchmarks/allocation.py --out benchmarks/allocation.json
    ROBUSTLAB_DATA=../shared/data python benchmarks/allocation.py --latency --out benchmarks/allocation_latency.json

Every allocation of a group has the bytes of the uniform network of its mean bits, or less. Sensitivities come from
training images, all figures from the deployed networks on 1,000 test images: clean, under five corruptions at severity
3, and under PGD. An image counts as robust if neither PGD on the network itself, through its surrogate gradient, nor
PGD on the float network, transferred, changes the answer to a wrong one. Differences are paired image by image, with
the percentiles of 4,000 bootstrap samples of the images as their 95 % interval.

Sensitivities and the outcomes of every network are kept in --work as soon as they are known: a run that was stopped
goes on with the same command. Seconds are processor time. The second command needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
    parse_budget,
    sensitivities,
)
from robustlab.core import Tiled
from robustlab.core.keys import sample_keys
from robustlab.deploy import fingerprint
from robustlab.evaluate.allocation import (
    SCORES,
    byte_costs,
    latency_costs,
    make_score,
    network_nanoseconds,
)
from robustlab.evaluate.conditions import check_conditions

MODEL = "robustlab:cifar_resnet20"
WIDTHS = (2, 3, 4, 5, 6, 8)
FAMILIES = {
    "weights and activations": tuple((w, w) for w in WIDTHS),
    "weights, 8-bit activations": tuple((w, 8) for w in WIDTHS),
}
MEANS = (4, 3)
ATTACK = "pgd10-linf-1of255"
ROBUST = ("corruption", "pgd")
METRICS = {
    "clean": "accuracy, clean",
    "corrupted": "accuracy, corrupted",
    "robust": "accuracy, PGD",
    "kl": "KL, clean",
    "kl_corrupted": "KL, corrupted",
    "kl_transfer": "KL, PGD on float",
    "clean_after": "corrected: accuracy, clean",
    "corrupted_after": "corrected: accuracy, corrupted",
    "kl_after": "corrected: KL, clean",
}
RESAMPLES = 4000
CLAIMS = {"corruption": "corrupted", "pgd": "robust"}
"""The accuracy that a robust allocation is made for."""


@dataclass(frozen=True)
class Network:
    """One allocation, deployed and judged."""

    family: str
    mean: int
    arm: str
    bits: dict[str, str]
    bytes: int
    predicted: float | None
    joint: float | None
    agreement: float
    figures: dict[str, float]
    white_box: float | None
    transfer: float


@dataclass(frozen=True)
class Difference:
    """The paired difference `arm` - `against`, in points of accuracy or in KL."""

    family: str
    mean: int
    arm: str
    against: str
    metric: str
    value: float
    low: float
    high: float
    low_all: float
    high_all: float


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


def difference(a: np.ndarray, b: np.ndarray, comparisons: int) -> tuple[float, float, float, float, float]:
    """Mean of a - b, its 95 % bootstrap interval, and the one that holds for all `comparisons` at once (Bonferroni)."""
    paired = a - b
    generator = np.random.default_rng(0)
    means = np.concatenate(
        [paired[generator.integers(len(paired), size=(500, len(paired)))].mean(1) for _ in range(RESAMPLES // 500)]
    )
    outer = 0.05 / comparisons
    low, high, low_all, high_all = np.quantile(means, [0.025, 0.975, outer / 2, 1 - outer / 2])
    return float(paired.mean()), float(low), float(high), float(low_all), float(high_all)


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


def compared(family: str, mean: int, outcomes: Mapping[str, Mapping[str, np.ndarray]]) -> list[Difference]:
    """Clean against uniform, and both robust ones against clean and against uniform."""
    pairs = [("clean", "uniform")]
    pairs += [(arm, against) for against in ("clean", "uniform") for arm in ROBUST]
    claims = len(FAMILIES) * len(MEANS) * len(CLAIMS)
    return [
        Difference(family, mean, arm, against, name, *difference(outcomes[arm][name], outcomes[against][name], claims))
        for arm, against in pairs
        for name in METRICS
    ]


def value_text(metric: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}" if metric.startswith("kl") else f"{100 * value:{sign}.1f}"


def interval(d: Difference) -> str:
    ends = f"{value_text(d.metric, d.low, '+')} to {value_text(d.metric, d.high, '+')}"
    return f"{value_text(d.metric, d.value, '+')} ({ends})"


def verdict(differences: list[Difference]) -> list[str]:
    """The question, answered from the intervals that hold for all claims at once."""
    claims = [d for d in differences if d.against == "clean" and CLAIMS.get(d.arm) == d.metric]
    better = [d for d in claims if d.low_all > 0]
    worse = [d for d in claims if d.high_all < 0]

    def listed(found: list[Difference]) -> str:
        return "; ".join(f"{d.arm}, {d.family}, {d.mean} bits: {interval(d)} points" for d in found)

    lines = [
        f"{len(claims)} claims were tested: the allocation by sensitivity under corruption has a higher accuracy on "
        "corrupted images than the clean one, and the one under PGD a higher robust accuracy, at either mean in either "
        f"family. With intervals that hold for all {len(claims)} at once, {len(better)} of them are confirmed and "
        f"{len(worse)} are reversed.",
    ]
    lines += [f"Confirmed: {listed(better)}."] if better else []
    lines += [f"Reversed: {listed(worse)}."] if worse else []
    return lines


def report(networks: list[Network], differences: list[Difference], header: Mapping[str, Any]) -> str:
    columns = list(METRICS)
    lines = [
        f"# Bit allocation of {MODEL} at equal bytes",
        "",
        f"Command: `{header['command']}`. {header['calibration']} calibration images and {header['images']} images for "
        f"sensitivities from the training set, {header['test']} test images; float accuracy {header['float']:.1f} %, "
        f"under corruption {header['float_corrupted']:.1f} %, PGD {header['float_robust']:.1f} % ({ATTACK}); torch "
        f"{header['torch']}, {header['threads']} thread(s), {header['machine']}. Round to nearest with ranges by mse; "
        "statistics correction only where a column says corrected; the first and the last layer have 8 bits.",
        "",
        "## Does a robustness-aware allocation beat the clean one?",
        "",
        *verdict(differences),
        "",
        "## Networks",
        "",
        "Accuracies in percent; KL from the float network's answer to the same image. Predicted is the sum of the "
        "sensitivities, joint the score of the whole network on the same training images, for an allocation by a score "
        "in that score, else in the clean one.",
    ]
    for family in FAMILIES:
        for mean in MEANS:
            some = [n for n in networks if (n.family, n.mean) == (family, mean)]
            if not some:
                continue
            lines += [
                "",
                f"### {family}, mean {mean} bits",
                "",
                "| allocation | bytes | bits of the weights | "
                + " | ".join(METRICS.values())
                + " | agreement | predicted | joint |",
                "|---" * (len(columns) + 6) + "|",
            ]
            for n in some:
                cells = [value_text(name, n.figures[name]) if name in n.figures else "–" for name in columns]
                figures = " | ".join(cells)
                bits = "".join(text[1] for text in n.bits.values())
                lines.append(
                    f"| {n.arm} | {n.bytes} | {bits} | {figures} | {100 * n.agreement:.1f} | {n.predicted:.4f} | "
                    f"{n.joint:.4f} |"
                )
            here = [d for d in differences if (d.family, d.mean) == (family, mean)]
            pairs = list(dict.fromkeys((d.arm, d.against) for d in here))
            lines += [
                "",
                "| difference, 95 % interval | " + " | ".join(METRICS.values()) + " |",
                "|---" * (len(columns) + 1) + "|",
            ]
            for arm, against in pairs:
                row = {d.metric: interval(d) for d in here if (d.arm, d.against) == (arm, against)}
                lines.append(f"| {arm} - {against} | " + " | ".join(row[name] for name in columns) + " |")
    return "\n".join(lines) + "\n"


def bytes_part(options: argparse.Namespace) -> None:
    original = rl.load(MODEL).eval()
    test, labels = arrays("test1000.npz")
    training, truth = arrays("train4000.npz")
    batches = list(training[:: len(training) // options.calibration][: options.calibration].split(64))
    options.work.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    judge = Judge(original, test, labels)
    print(f"test images made, {time.process_time() - began:.0f} s", flush=True)
    step = len(training) // options.images
    some = slice(step // 2, None, step)
    shown, answers = training[some][: options.images], truth[some][: options.images]
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


def latency_part(options: argparse.Namespace) -> None:
    """Times of every layer, and the networks that time budgets give, timed themselves."""
    from robustlab.evaluate.environment import hardware

    original = rl.load(MODEL).eval()
    training, truth = arrays("train4000.npz")
    batches = list(training[:: len(training) // options.calibration][: options.calibration].split(64))
    step = len(training) // options.images
    some = slice(step // 2, None, step)
    variants = make_variants(original, batches, FAMILIES["weights and activations"], finish=rl.deploy)
    score = make_score("clean", variants.base, training[some][: options.images], truth[some][: options.images])
    options.work.mkdir(parents=True, exist_ok=True)
    kept = Ledger(options.work / "latency-clean.json", f"{options.images}/{options.calibration}/{MODEL}")
    losses = sensitivities(variants, score, ledger=kept)
    costs = latency_costs(variants, training, rounds=options.rounds)
    problem = Problem(costs.layers, losses, costs.fixed, costs.unit)
    rows: list[dict[str, Any]] = []
    models: dict[str, nn.Module] = {}
    for text in ("4bits", "1x", "0.98x", "0.95x"):
        try:
            limit = parse_budget(text).within(problem)
        except rl.RobustlabError as error:
            rows.append({"budget": text, "error": str(error)})
            continue
        bits = problem.solve(limit)
        models[text] = variants.mixed(bits)
        rows.append(
            {
                "budget": text,
                "limit": limit,
                "predicted": problem.cost(bits),
                "bits": {name: bits_text(pair) for name, pair in bits.items()},
                "kl": score(models[text]),
            }
        )
    uniform = {bits_text(bits): variants.mixed(found) for bits, found in problem.uniforms().items()}
    times = network_nanoseconds({**models, **uniform}, training, rounds=4 * options.rounds)
    for row in rows:
        if "predicted" in row:
            row["timed"] = times[row["budget"]]
    kinds = {}
    for bits, found in problem.uniforms().items():
        name = bits_text(bits)
        kinds[name] = {"predicted": problem.cost(found), "timed": times[name], "kl": score(uniform[name])}
    machine = hardware("cpu")
    content = {
        "machine": machine,
        "rounds": options.rounds,
        "budgets": rows,
        "uniform": kinds,
        "layers": {name: {bits_text(b): v for b, v in layer.items()} for name, layer in costs.layers.items()},
        "fixed": costs.fixed,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    widths = [bits_text(bits) for bits in FAMILIES["weights and activations"]]
    lines = [
        f"# Time as the budget: {MODEL}, batch 1, optimized",
        "",
        f"Command: `python benchmarks/allocation.py --latency --rounds {options.rounds}`. {machine['cpu']}, "
        f"{machine['threads']} thread(s), kernels {machine['kernels']}. Predicted: the sum of the layers' times.",
        "",
        "| network | predicted, µs | timed, µs | off | KL, training images |",
        "|---|---|---|---|---|",
    ]
    for name, kind in kinds.items():
        off = 100 * (kind["predicted"] / kind["timed"] - 1)
        both = f"{kind['predicted'] / 1e3:.1f} | {kind['timed'] / 1e3:.1f}"
        lines.append(f"| uniform {name} | {both} | {off:+.1f} % | {kind['kl']:.4f} |")
    for row in rows:
        if "error" in row:
            lines.append(f"| budget {row['budget']} | refused: {row['error']} | | | |")
            continue
        off = 100 * (row["predicted"] / row["timed"] - 1)
        bits = " ".join(row["bits"].values())
        lines.append(
            f"| budget {row['budget']} ({row['limit'] / 1e3:.1f} µs): {bits} | {row['predicted'] / 1e3:.1f} | "
            f"{row['timed'] / 1e3:.1f} | {off:+.1f} % | {row['kl']:.4f} |"
        )
    lines += ["", "Microseconds of a layer by itself:", "", "| layer | " + " | ".join(widths) + " |"]
    lines.append("|---" * (len(widths) + 1) + "|")
    for name, layer in content["layers"].items():
        cells = " | ".join(f"{layer[w] / 1e3:.1f}" if w in layer else "" for w in widths)
        lines.append(f"| {name} | {cells} |")
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=Path("allocation-work"), help="what a stopped run goes on from")
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--random", type=int, default=3, help="random allocations per group")
    parser.add_argument("--latency", action="store_true", help="the part that times; on a quiet machine")
    parser.add_argument("--rounds", type=int, default=41, help="of the timing")
    options = parser.parse_args()
    name = "allocation_latency.json" if options.latency else "allocation.json"
    options.out = options.out or Path("benchmarks") / name
    (latency_part if options.latency else bytes_part)(options)


if __name__ == "__main__":
    main()
