"""Speed of the kernels, goal beside measurement: layers against the machine's peaks and other libraries, and networks.

    pip install '.[bench]'                                  # in the checkout: the peers ONNX Runtime and OpenVINO
    python benchmarks/kernels.py --out benchmarks/kernels.md

Every ratio is of times from one run: all candidates of a row take turns, and the shortest of many runs of each counts.
What a peer computes is checked before it is timed. `--quick` takes one layer shape and short runs. Layers "float to
float" are programs of one layer, called from Python; "bits to bits" and "codes to codes" are layers inside a network,
timed as the difference between a program with several of them and one with one. Whole networks run on one thread, whose
processor time counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from networks import NetworkFigures, measure_networks

from robustlab.bench import Figure, KernelBench, bench_kernels, kernel_table
from robustlab.bench.table import columns, time_text

MIDDLE = "conv 3x3 256@14²"
FLOAT, BITS = "robustlab binary, float to float", "robustlab binary, bits to bits"
TORCH = ("torch fp32", "torch fp32, channels last")


@dataclass(frozen=True)
class Row:
    """One line of the table: what, the goal, what was measured, and whether that meets it."""

    what: str
    goal: str
    measured: str
    met: bool | None


def at_least(what: str, goal: float, found: float | None, unit: str, detail: str = "") -> Row:
    """A row whose figure should be at least the goal; a missing figure is said."""
    text = {"%": f"{{:.0f}} %{' of peak' if unit == '%' else ''}", "x": "{:.3g}x"}[unit]
    factor = 100 if unit == "%" else 1
    wanted = f">= {text.format(goal * factor)}"
    if found is None:
        return Row(what, wanted, "not measured", None)
    shown = f"{100 * found:.1f} %" if unit == "%" else f"{found:.3g}x"
    return Row(what, wanted, f"{shown}{f' ({detail})' if detail else ''}", found >= goal)


class Figures:
    """Look-up of what was measured."""

    def __init__(self, bench: KernelBench) -> None:
        self._by = {(f.case, f.name, f.threads): f for f in bench.figures}
        self.cases = list(dict.fromkeys(f.case for f in bench.figures))

    def get(self, case: str, name: str, threads: int = 1) -> Figure | None:
        return self._by.get((case, name, threads))

    def best(self, case: str, names: Iterable[str]) -> float | None:
        found = [figure.seconds for name in names if (figure := self.get(case, name)) is not None]
        return min(found, default=None)

    def share(self, what: str, goal: float, case: str, name: str) -> Row:
        figure = self.get(case, name)
        if figure is None:
            return at_least(what, goal, None, "%")
        return at_least(what, goal, figure.share, "%", time_text(figure.seconds))

    def ratio(self, what: str, goal: float, case: str, name: str, peers: Iterable[str]) -> Row:
        ours, theirs = self.best(case, (name,)), self.best(case, peers)
        if ours is None or theirs is None:
            return at_least(what, goal, None, "x")
        return at_least(what, goal, theirs / ours, "x", f"{time_text(ours)}, they {time_text(theirs)}")


def layer_rows(bench: KernelBench) -> Iterator[Row]:
    """Everything about single layers."""
    figures = Figures(bench)
    convs = [case for case in figures.cases if case.startswith("conv")]
    for case in convs:
        yield figures.share(f"binary {case}, bits to bits", 0.95, case, BITS)
    for case in convs:
        yield figures.share(f"binary {case}, float to float", 0.80 if "64@56" in case else 0.85, case, FLOAT)
    for name, goal, peer in (
        (BITS, 20, "ONNX Runtime fp32"),
        (BITS, 5, "ONNX Runtime int8"),
        (BITS, 1.1, "OpenVINO binary, BinaryConvolution alone"),
    ):
        what = f"{name.removeprefix('robustlab ').replace(',', ' 256@14²,')}, against {peer}"
        yield figures.ratio(what, goal, MIDDLE, name, [peer])
    for batch, goal in ((1, 100), (64, 20)):
        case = f"linear 4096, batch {batch}"
        yield figures.ratio(f"binary {case}, against torch fp32", goal, case, FLOAT, TORCH)
    for scheme in ("w8a8", "w4a8"):
        name = f"robustlab {scheme}, codes to codes"
        yield figures.share(f"{scheme} 256@14²", 0.94, MIDDLE, name)
        yield figures.ratio(f"{scheme} 256@14², against ONNX Runtime int8", 1, MIDDLE, name, ["ONNX Runtime int8"])
    for scheme, goal in (("w1a2", 10), ("w2a2", 5)):
        yield figures.ratio(
            f"{scheme} 256@14², against torch fp32", goal, MIDDLE, f"robustlab {scheme}, codes to codes", TORCH
        )
    yield figures.ratio("binary 256@14², AVX2 only, against torch fp32", 6.5, MIDDLE, f"{BITS}, AVX2", TORCH)


def thread_rows(bench: KernelBench) -> Iterator[Row]:
    """Two threads against one."""
    figures = Figures(bench)
    for case in (case for case in figures.cases if case.startswith("conv")):
        one, two = figures.get(case, BITS), figures.get(case, BITS, 2)
        gain = None if one is None or two is None else one.seconds / two.seconds
        yield at_least(f"binary {case}, two threads against one", 1.8, gain, "x")
    if 2 in bench.fork_join:
        taken = bench.fork_join[2]
        yield Row("fork and join of two threads", "< 3 us", time_text(taken), taken < 3e-6)
    one_turn, two_turns = bench.alternation.get(1), bench.alternation.get(2)
    gain = None if one_turn is None or two_turns is None else one_turn / two_turns
    yield at_least("a torch operation and a binary layer in turn, two threads against one", 1.6, gain, "x")


def network_rows(found: NetworkFigures) -> Iterator[Row]:
    """Whole networks."""
    for network in found.networks:
        for peer, goal in network.goals.items():
            theirs = network.peers.get(peer)
            gain = None if theirs is None else theirs / network.seconds
            detail = "" if theirs is None else f"{time_text(network.seconds)}, they {time_text(theirs)}"
            yield at_least(f"{network.name}, against {peer}", goal, gain, "x", detail)
        excess = network.resident_bytes / network.packed_bytes - 1
        found_text = f"+ {100 * excess:.1f} % ({network.resident_bytes / 1e6:.2f} MB)"
        yield Row(
            f"{network.name}, resident weights",
            "<= packed size + 5 %",
            found_text,
            excess <= 0.05,
        )


def network_table(found: NetworkFigures) -> str:
    """Times of whole networks as text."""
    lines = []
    for network in found.networks:
        times = {"optimized": network.seconds, "deployed": network.unoptimized_seconds, **network.peers}
        rows = [[f"  {name}", time_text(seconds)] for name, seconds in times.items()]
        lines += ["", f"{network.name}, batch 1, 1 thread", *columns(rows, right=(1,))]
        lines += [f"  {line}" for line in network.fused.splitlines()]
    return "\n".join(lines)


def markdown(bench: KernelBench, networks: NetworkFigures, rows: list[Row]) -> str:
    """The table, and below it everything that was measured."""
    hardware, versions = bench.machine.hardware, bench.machine.versions
    mark = {True: "yes", False: "no", None: "–"}
    lines = [
        f"{hardware['cpu']}, {hardware['cores']} cores, kernels {hardware['kernels']}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ". One thread unless said; the shortest of many interleaved runs; `python benchmarks/kernels.py`.",
        "",
        "| | goal | measured | met |",
        "|---|---|---|---|",
        *(f"| {row.what} | {row.goal} | {row.measured} | {mark[row.met]} |" for row in rows),
        "",
        "```text",
        kernel_table(bench),
        network_table(networks),
        "```",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="markdown file; a JSON file with all figures lies next to it")
    parser.add_argument("--quick", action="store_true", help="one layer shape and short runs")
    arguments = parser.parse_args()

    def progress(line: str) -> None:
        print(f"... {line}", file=sys.stderr, flush=True)

    bench = bench_kernels((1, 2), quick=arguments.quick, progress=progress)
    networks = measure_networks(quick=arguments.quick, progress=progress)
    rows = [*layer_rows(bench), *thread_rows(bench), *network_rows(networks)]
    text = markdown(bench, networks, rows)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
        figures = {**bench.as_dict(), "networks": asdict(networks), "rows": [asdict(row) for row in rows]}
        arguments.out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
