"""Time as the budget of a bit allocation: every layer timed, and the networks that the budgets give timed themselves.

    ROBUSTLAB_DATA=../shared/data python benchmarks/allocation_latency.py --out benchmarks/allocation_latency.json

For a machine that does nothing else: on one that is disturbed the figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from allocation import training_images
from allocation_report import FAMILIES, MODEL
from torch import nn

import robustlab as rl
from robustlab.compress.allocation import Problem, bits_text, make_variants, parse_budget, sensitivities
from robustlab.evaluate.allocation import latency_costs, make_score, network_nanoseconds
from robustlab.evaluate.environment import hardware

BUDGETS = ("4bits", "1x", "0.98x", "0.95x")


def measured(variants: Any, problem: Problem, score: Any, images: Any, rounds: int) -> list[dict[str, Any]]:
    """The uniform networks and those of the budgets, with predicted and measured time; or why a budget is refused."""
    rows: list[dict[str, Any]] = []
    for bits, found in problem.uniforms().items():
        rows.append({"network": f"uniform {bits_text(bits)}", "layers": found})
    for text in BUDGETS:
        try:
            limit = parse_budget(text).within(problem)
        except rl.RobustlabError as error:
            rows.append({"network": f"budget {text}", "refused": str(error)})
            continue
        rows.append({"network": f"budget {text}", "limit": limit, "layers": problem.solve(limit)})
    allowed = [row for row in rows if "layers" in row]
    models: dict[str, nn.Module] = {row["network"]: variants.mixed(row["layers"]) for row in allowed}
    times = network_nanoseconds(models, images, rounds=rounds)
    for row in allowed:
        name = row["network"]
        row |= {"predicted": problem.cost(row["layers"]), "timed": times[name], "kl": score(models[name])}
        row["layers"] = {layer: bits_text(bits) for layer, bits in row["layers"].items()}
    return rows


def report(content: dict[str, Any]) -> str:
    machine = content["machine"]
    lines = [
        f"# Time as the budget: {MODEL}, batch 1, optimized",
        "",
        f"Command: `python benchmarks/allocation_latency.py --rounds {content['rounds']}`. {machine['cpu']}, "
        f"{machine['threads']} thread(s), kernels {machine['kernels']}. Predicted: the sum of the layers' times and of "
        "what the network costs besides them. KL from the float network on training images.",
        "",
        "| network | bits of the layers | predicted, µs | timed, µs | off | KL |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["networks"]:
        if "refused" in row:
            lines.append(f"| {row['network']} | refused: {row['refused']} | | | | |")
            continue
        off = 100 * (row["predicted"] / row["timed"] - 1)
        label = row["network"] + (f" ({row['limit'] / 1e3:.1f} µs)" if "limit" in row else "")
        both = f"{row['predicted'] / 1e3:.1f} | {row['timed'] / 1e3:.1f}"
        bits = " ".join(row["layers"].values())
        lines.append(f"| {label} | {bits} | {both} | {off:+.1f} % | {row['kl']:.4f} |")
    widths = [bits_text(bits) for bits in FAMILIES["weights and activations"]]
    lines += ["", "Microseconds of a layer by itself:", "", "| layer | " + " | ".join(widths) + " |"]
    lines.append("|---" * (len(widths) + 1) + "|")
    for name, layer in content["layers"].items():
        cells = " | ".join(f"{layer[width] / 1e3:.1f}" if width in layer else "" for width in widths)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/allocation_latency.json"))
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--images", type=int, default=400, help="that sensitivities are measured on")
    parser.add_argument("--rounds", type=int, default=41, help="of the timing")
    options = parser.parse_args()
    batches, images, labels = training_images(options.calibration, options.images)
    variants = make_variants(rl.load(MODEL).eval(), batches, FAMILIES["weights and activations"], finish=rl.deploy)
    score = make_score("clean", variants.base, images, labels)
    costs = latency_costs(variants, images, rounds=options.rounds)
    problem = Problem(costs.layers, sensitivities(variants, score), costs.fixed, costs.unit)
    content = {
        "machine": hardware("cpu"),
        "rounds": options.rounds,
        "networks": measured(variants, problem, score, images, options.rounds),
        "layers": {name: {bits_text(b): ns for b, ns in layer.items()} for name, layer in costs.layers.items()},
        "fixed": costs.fixed,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(report(content))
    print(report(content))


if __name__ == "__main__":
    main()
