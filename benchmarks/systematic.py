"""Do RobustMQ's findings on natural corruptions and systematic noise hold for compressed models here?

    python benchmarks/systematic.py --work runs/systematic

Makes the compressed models (once), evaluates the suites on ResNet-20 (CIFAR-10) and MobileNetV2 (ImageNet samples),
both of ROBUSTLAB_DATA, and writes `systematic.md` beside this file. Everything is kept in the folder of --work: a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import systematic_findings as found
import systematic_tables as tables

import robustlab as rl
from robustlab.datasets import load_dataset

TABLE = Path(__file__).with_suffix(".md")
CORRECTED_GPTQ: dict[str, object] = {"algorithm": "gptq", "statistics_correction": True}


@dataclass(frozen=True)
class Family:
    """A float model, the data that its compressed copies are calibrated with, and how those are made."""

    model: str
    data: str
    calibration: int
    recipes: dict[str, dict[str, object]]


MOBILENET = Family(
    "mobilenet_v2",
    "imagenet1000",
    32,
    {"w8a8": {"weights": 8, "activations": 8}, "w4a4": {"weights": 4, "activations": 4, **CORRECTED_GPTQ}},
)
RESNET = Family(
    "cifar_resnet20",
    "cifar10",
    256,
    {
        "w8a8": {"weights": 8, "activations": 8},
        "w4a4": {"weights": 4, "activations": 4, **CORRECTED_GPTQ},
        "w3a3": {"weights": 3, "activations": 3, **CORRECTED_GPTQ},
    },
)


@dataclass(frozen=True)
class Run:
    """One evaluation; at most `limit` images."""

    name: str
    family: Family
    data: str
    suite: str
    limit: int


RUNS = (
    Run("cifar10-c", RESNET, "cifar10", "cifar10-c", 1000),
    Run("imagenet-c", MOBILENET, "imagenet1000", "imagenet-c", 100),
    Run("originals-imagenet-s", MOBILENET, "imagenet-originals", "imagenet-s", 125),
    Run("imagenet-s", MOBILENET, "imagenet1000", "imagenet-s", 100),
    Run("platform", MOBILENET, "imagenet1000", "platform", 100),
)


def models(work: Path, family: Family) -> dict[str, str]:
    """Specs by name, widest first; compressed ones are made where their file is not there yet."""
    specs = {"float": f"robustlab:{family.model}"}
    for name, recipe in family.recipes.items():
        path = work / f"{family.model}-{name}.safetensors"
        if not path.is_file():
            images, _ = load_dataset(family.data, split="train").batch(range(family.calibration))
            small = rl.compress(rl.load(specs["float"]), calibration=images, **recipe)  # type: ignore[arg-type]
            rl.save(rl.deploy(small), path)
        specs[name] = str(path)
    return specs


def report(run: Run, work: Path, limit: int | None) -> list[str]:
    """Evaluate, and the section of the page that says what was found."""
    count = run.limit if limit is None else min(limit, run.limit)
    specs = models(work, run.family)
    out = work / run.name
    results = rl.evaluate(specs, run.data, run.suite, out=out, limit=count, efficiency=False, batch_size=128)
    samples = found.read_samples(specs, run.data, run.suite, out, count)
    natural = run.suite.endswith("-c")
    text = tables.natural(results, samples) if natural else tables.systematic(results)
    checks = found.natural_findings(samples) if natural else found.systematic_findings(samples)
    return [
        f"## {run.suite} on {run.data}, {run.family.model}, {samples.count} images",
        "",
        tables.versions(results),
        "",
        *text,
        "",
        *tables.findings(checks),
        "",
        *tables.left_out(results),
    ]


def main() -> None:
    """Evaluate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/systematic"))
    parser.add_argument("--runs", default=",".join(r.name for r in RUNS), help="which of them, with commas")
    parser.add_argument("--limit", type=int, help="at most so many images of each")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    chosen = options.runs.split(",")
    lines = ["# Corruptions, systematic noise and platforms", "", "Made by `python benchmarks/systematic.py`.", ""]
    for run in RUNS:
        if run.name in chosen:
            lines += report(run, options.work, options.limit)
            TABLE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
