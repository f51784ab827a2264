"""A measurement as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustlab.bench.run import KernelBench
from robustlab.bench.tasks import Figure


def columns(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Lines of columns two spaces apart; the columns in `right` are aligned to the right."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    to_the_right = set(right)
    return [
        "  ".join(
            text.rjust(widths[i]) if i in to_the_right else text.ljust(widths[i]) for i, text in enumerate(row)
        ).rstrip()
        for row in rows
    ]


def time_text(seconds: float) -> str:
    """Such as ``92.5 us`` or ``4.21 ms``."""
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def rate_text(per_second: float, unit: str) -> str:
    """Such as ``2522 Gop/s``."""
    return f"{per_second / 1e9:.4g} G{unit}/s"


def share_text(share: float | None) -> str:
    """Such as ``97 %``; ``not measured`` for None."""
    return "not measured" if share is None else f"{100 * share:.0f} %"


def _figure_row(figure: Figure) -> list[str]:
    unit = "B" if figure.peak == "load" else "op"
    return [
        figure.name,
        time_text(figure.seconds),
        rate_text(figure.operations / figure.seconds, unit),
        share_text(figure.share),
    ]


def kernel_table(bench: KernelBench) -> str:
    """Everything that was measured, as lines for a terminal."""
    lines = ["peaks of one core"]
    rows = [
        [f"  {name}", f"{rate / 1e9:.2f} GHz" if name == "clock" else rate_text(rate, "B" if "load" in name else "op")]
        for name, rate in bench.peaks.items()
    ]
    lines += columns(rows, right=(1,)) if rows else ["  not measured"]
    lines += ["", "threads"]
    first = next(iter(bench.alternation))
    for threads, seconds in bench.alternation.items():
        fork = f"fork and join {time_text(bench.fork_join[threads])}, " if threads in bench.fork_join else ""
        ratio = bench.alternation[first] / seconds
        lines.append(f"  {threads}: {fork}torch and the kernels in turn {time_text(seconds)} ({ratio:.2f}x)")
    for threads, case in dict.fromkeys((f.threads, f.case) for f in bench.figures):
        lines += ["", f"{case}, {threads} thread{'' if threads == 1 else 's'}"]
        here = [
            ["  " + cell if i == 0 else cell for i, cell in enumerate(_figure_row(f))]
            for f in bench.figures
            if (f.threads, f.case) == (threads, case)
        ]
        lines += columns(here, right=(1, 2, 3))
    if bench.failures:
        lines += ["", "not timed"]
        lines += [f"  {f.case}: {f.name}: {f.reason}" for f in bench.failures]
    return "\n".join(lines)
