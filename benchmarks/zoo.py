"""The bundled traffic-sign models side by side: accuracy, PGD, corruptions, latency and size.

    python benchmarks/zoo.py --limit 500            # resumable; what it needs is kept in --work
    python benchmarks/zoo.py --latency-only         # times again, on a machine that does nothing else

Accuracies are those of `robustlab.evaluate`, so of the optimized deployed models on the first --limit test images, with
95 % Wilson intervals. "corruptions" is the mean over five corruptions at severities 1, 3 and 5; its interval is that
of as many independent images, which is never too narrow: an image's own mean varies no more than a yes or no.
Latency is of one image on one thread, --rounds times `RUNS` runs of each model in turn, after as many that do not
count; a latency once written stays until the model's file changes or --latency-only asks again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import robustlab as rl
from robustlab.core import frozen
from robustlab.deploy import fingerprint, scheme, stored_bytes
from robustlab.evaluate.metrics import CellRow, wilson
from robustlab.evaluate.results import Results
from robustlab.kernels import backend
from robustlab.models import BUNDLED
from robustlab.models.zoo import bundled_path

PGD = {"pgd_2of255": "pgd20-linf-2of255", "pgd_8of255": "pgd20-linf-8of255"}
SEVERITIES = (1, 3, 5)
# One of each kind that needs no photographs.
CORRUPTIONS = ("gaussian_noise", "brightness", "contrast", "pixelate", "jpeg_compression")
CORRUPTED = tuple(f"{name.replace('_', '-')}-{severity}" for name in CORRUPTIONS for severity in SEVERITIES)
RUNS = 20
Row = dict[str, Any]


def share(value: float, low: float, high: float) -> dict[str, float]:
    """A share in percent with its interval."""
    return {"value": 100 * value, "low": 100 * low, "high": 100 * high}


def of_cell(cell: CellRow) -> dict[str, float]:
    """Accuracy of a cell."""
    return share(cell["accuracy"], cell["ci_low"], cell["ci_high"])


def corruption_mean(cells: list[CellRow]) -> dict[str, float]:
    """Mean accuracy of cells over the same images, with the interval of the docstring above."""
    count = cells[0]["n"]
    mean = sum(cell["accuracy"] for cell in cells) / len(cells)
    return share(mean, *wilson(round(mean * count), count))


def judged(name: str, results: Results) -> Row:
    """The row of a model, but for its latency."""
    model = rl.load(f"robustlab:{name}")
    return {
        "model": name,
        "scheme": scheme(model),
        "fingerprint": fingerprint(model),
        "accuracy": of_cell(results.cell(name, "clean")),
        **{field: of_cell(results.cell(name, key)) for field, key in PGD.items()},
        "corruptions": corruption_mean([results.cell(name, key) for key in CORRUPTED]),
        "file_bytes": bundled_path(name).stat().st_size,
        "tensor_bytes": stored_bytes(model),
        "latency_ms": None,
    }


def latencies(rounds: int) -> dict[str, Row]:
    """Milliseconds per image by model: median and shortest of `rounds` times `RUNS`, the models in turn."""
    models = {name: rl.optimize(rl.load(f"robustlab:{name}")) for name in BUNDLED}
    image, _ = rl.datasets.load_dataset("signs").batch([0])
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(-1, rounds):
        for name, model in models.items():
            with frozen(model), torch.no_grad():
                for _ in range(RUNS):
                    begin = time.perf_counter()
                    model(image)
                    if number >= 0:
                        times[name].append(time.perf_counter() - begin)
    return {
        name: {"median": round(1000 * float(np.median(found)), 4), "shortest": round(1000 * min(found), 4)}
        for name, found in times.items()
    }


def table(document: Mapping[str, Any]) -> str:
    """The Markdown page."""
    header = document["header"]
    lines = [
        "# The bundled models",
        "",
        f"Command: `{header['command']}`. First {header['images']} test images; torch {header['torch']}, "
        f"{header['machine']}, {header['kernels']} kernels, one thread.",
        "",
        "Percent of images classified right, with half of the 95 % interval: clean; under PGD-20 (`Linf`, the deployed "
        "model, straight-through gradient); mean over "
        + ", ".join(name.replace("_", " ") for name in CORRUPTIONS)
        + f" at severities {', '.join(map(str, SEVERITIES))}. Latency of one image, optimized, median (shortest).",
        "",
        "| model | weights, activations | clean | PGD 2/255 | PGD 8/255 | corruptions | latency ms | file | tensors |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        columns = (row["accuracy"], row["pgd_2of255"], row["pgd_8of255"], row["corruptions"])
        figures = " | ".join(f"{c['value']:.1f} ± {(c['high'] - c['low']) / 2:.1f}" for c in columns)
        latency = row["latency_ms"]
        timed = "" if latency is None else f"{latency['median']:.3f} ({latency['shortest']:.3f})"
        lines.append(
            f"| `{row['model']}` | {row['scheme']} | {figures} | {timed} | {row['file_bytes']:,} B | "
            f"{row['tensor_bytes']:,} B |"
        )
    return "\n".join(lines) + "\n"


def write(path: Path, document: Mapping[str, Any]) -> None:
    """The JSON file whole or not at all, and the page beside it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(path)
    path.with_suffix(".md").write_text(table(document))


class Lines:
    """A `Progress` of a line per tenth."""

    def start(self, task: str, total: int) -> None:
        self.task, self.total, self.done = task, total, 0

    def advance(self, units: int = 1, note: str = "") -> None:
        before, self.done = self.done, self.done + units
        if self.done * 10 // self.total > before * 10 // self.total:
            print(f"{self.task} {self.done}/{self.total} {note}", flush=True)

    def finish(self) -> None:
        pass


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/zoo.json"))
    parser.add_argument("--work", type=Path, default=Path("build/zoo"), help="what is done already")
    parser.add_argument("--limit", type=int, default=500, help="test images")
    parser.add_argument("--rounds", type=int, default=50, help=f"rounds of {RUNS} timed runs of each model")
    parser.add_argument("--latency-only", action="store_true", help="only time again what --out has")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; allowed: a whole number from 1 on")
    torch.set_num_threads(1)
    document = json.loads(options.out.read_text()) if options.out.is_file() else {"header": {}, "rows": []}
    known = {row["fingerprint"]: row["latency_ms"] for row in document["rows"]}
    if options.latency_only and not known:
        parser.error(f"--latency-only needs the rows of {options.out}; allowed: a run without it first")
    if not options.latency_only:
        models = {name: f"robustlab:{name}" for name in BUNDLED}
        conditions = ["clean", *PGD.values(), *CORRUPTED]
        results = rl.evaluate(
            models, "signs", conditions, out=options.work, limit=options.limit, progress=Lines(), efficiency=False
        )
        rows = [judged(name, results) for name in BUNDLED]
        for row in rows:
            row["latency_ms"] = known.get(row["fingerprint"])
        document = {
            "header": {
                "command": f"python benchmarks/zoo.py --limit {options.limit}",
                "images": results.cell(BUNDLED[0], "clean")["n"],
                "torch": torch.__version__,
                "machine": platform.machine(),
                "kernels": backend(),
            },
            "rows": rows,
        }
        write(options.out, document)
    if options.latency_only or any(row["latency_ms"] is None for row in document["rows"]):
        timed = latencies(options.rounds)
        for row in document["rows"]:
            row["latency_ms"] = timed[row["model"]]
        write(options.out, document)
    print(options.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
