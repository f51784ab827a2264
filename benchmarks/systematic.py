"""Do RobustMQ's findings on systematic noise hold for MobileNetV2 in float, W8A8 and W4A4?

    python benchmarks/systematic.py --work runs/systematic

Makes the compressed models (once), evaluates the suites on the ImageNet samples of ROBUSTLAB_DATA, and writes
`systematic.md` beside this file. Everything is kept in the folder of --work: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import robustlab as rl
from robustlab.datasets import load_dataset
from robustlab.evaluate import Results
from robustlab.evaluate.spread import SpreadRow

CALIBRATION = 128
RECIPES: dict[str, dict[str, object]] = {
    "w8a8": {"weights": 8, "activations": 8},
    "w4a4": {"weights": 4, "activations": 4, "algorithm": "gptq", "statistics_correction": True},
}
RUNS = (("imagenet-originals", "imagenet-s"), ("imagenet1000", "imagenet-s"), ("imagenet1000", "platform"))
TABLE = Path(__file__).with_suffix(".md")


def models(work: Path, names: list[str]) -> dict[str, str]:
    """Specs by name; compressed ones are made where their file is not there yet."""
    specs = {}
    for name in names:
        if name == "float":
            specs[name] = "robustlab:mobilenet_v2"
            continue
        path = work / f"mobilenet_v2-{name}.safetensors"
        if not path.is_file():
            images, _ = load_dataset("imagenet1000", split="train").batch(range(CALIBRATION))
            small = rl.compress(rl.load("robustlab:mobilenet_v2"), calibration=images, **RECIPES[name])  # type: ignore[arg-type]
            rl.save(rl.deploy(small), path)
        specs[name] = str(path)
    return specs


def cells(results: Results) -> list[str]:
    """A line per condition: accuracy, flips and divergence of every model, in the order of the first one's flips."""
    first = results.models[0]
    order = sorted(results.conditions, key=lambda c: -(results.cell(first, c)["flip_rate"] or 0))
    lines = [
        "| condition | " + " | ".join(f"{m}: accuracy | flips | KL" for m in results.models) + " |",
        "|---|" + "---|" * (3 * len(results.models)),
    ]
    for condition in order:
        rows = [results.cell(model, condition) for model in results.models]
        texts = [f"{100 * r['accuracy']:.1f} | {100 * (r['flip_rate'] or 0):.1f} | {r['kl'] or 0:.3f}" for r in rows]
        lines.append(f"| `{condition}` | " + " | ".join(texts) + " |")
    return lines


def spreads(results: Results) -> list[str]:
    """A line per model and group."""
    lines = [
        "| model | group | conditions | mean ± std | worst | always right | flips, mean and worst | KL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {r['model']} | {r['group']} | {r['conditions']} | {100 * r['mean']:.1f} ± {100 * r['std']:.2f} | "
        f"{100 * r['worst']:.1f} (`{r['worst_condition']}`) | {100 * r['always']:.1f} | "
        f"{100 * r['flip_rate']:.1f}, {100 * r['worst_flip_rate']:.1f} | {r['kl'] or 0:.3f} |"
        for r in results.spread
    ]


def findings(results: Results) -> list[str]:
    """What RobustMQ found, model by model, in divergence: at these numbers of images accuracy cannot tell."""
    lines = []
    groups: dict[tuple[str, str], SpreadRow] = {(r["model"], r["group"]): r for r in results.spread}
    for model in results.models:
        divergence = {
            c.split("-")[2]: results.cell(model, c)["kl"] or 0.0
            for c in results.conditions
            if c.startswith("pillow-rgb-") and c.endswith("-square") and results.cell(model, c)["kl"]
        }
        ranked = sorted(divergence, key=lambda name: -divergence[name])
        nearest = all(name.endswith(".nearest") for name in ranked[:2])
        mild = list(reversed(ranked))
        decoders, resizers = groups.get((model, "decoder")), groups.get((model, "resizer"))
        small = decoders and resizers and (decoders["kl"] or 0) < (resizers["kl"] or 0)
        lines += [
            f"- {model}: both nearest neighbours are worst: **{'yes' if nearest else 'no'}** "
            f"({', '.join(ranked[:4])}); mildest first: {', '.join(mild[:5])}; decoders change less than resizers: "
            f"**{'yes' if small else 'no or not measured'}**.",
        ]
    overall = [groups[m, "all"] for m in results.models if (m, "all") in groups]
    drops = ", ".join(
        f"{r['model']} {100 * (r['reference_accuracy'] - r['mean']):+.2f} points, {100 * r['flip_rate']:.1f} % flips"
        for r in overall
    )
    lines.append(f"- Mean loss against the reference, and mean flips, by model (fewer bits should lose more): {drops}.")
    return lines


def main() -> None:
    """Evaluate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/systematic"))
    parser.add_argument("--models", default="float,w8a8,w4a4", help="of float, w8a8 and w4a4")
    parser.add_argument("--limit", type=int, default=200, help="images of imagenet1000")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    specs = models(options.work, options.models.split(","))
    lines = ["# Systematic noise and platforms: MobileNetV2", "", "Made by `python benchmarks/systematic.py`.", ""]
    for data, suite in RUNS:
        limit = None if data == "imagenet-originals" else options.limit
        out = options.work / f"{data}-{suite}"
        results = rl.evaluate(specs, data, suite, out=out, limit=limit, efficiency=False, batch_size=128)
        run = results.run
        kept = {k: v for k, v in run["versions"].items() if k not in ("robustlab", "python")}
        versions = ", ".join(f"{name} {text}" for name, text in kept.items())
        lines += [f"## {suite} on {data}, {run['configuration']['images']} images", "", f"{versions}.", ""]
        lines += [*cells(results), "", *spreads(results), ""]
        lines += [*findings(results), ""] if suite == "imagenet-s" else []
        lines += [f"- left out: `{key}`: {why}" for key, why in run["configuration"]["left_out"].items()]
        TABLE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
