"""The matrix as text for a terminal and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from robustlab.bench.compressors.cells import DEFAULT_SCHEMES, POST_TRAINING, Cell, Scheme
from robustlab.bench.compressors.store import CompressorBench
from robustlab.bench.table import columns
from robustlab.compress.catalogue import ALGORITHMS

MISSING = "–"
_ORDER = list(ALGORITHMS)


@dataclass(frozen=True)
class Part:
    """One table of the matrix: what it is, its head, its rows, and the columns that are numbers."""

    title: str
    text: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: int

    @property
    def numbers(self) -> range:
        """Columns to align to the right."""
        return range(self.words, len(self.head))


_SIZE = ("bytes", "payload + scales + side + rest", "bits per weight", "ms", "speed-up")


def parts(bench: CompressorBench) -> list[Part]:
    """The tables that have rows: after training, trained, untrained, and what went wrong."""
    found = [_post_training(bench), _trained(bench), _untrained(bench), _errors(bench)]
    return [part for part in found if part.rows]


def compressor_table(bench: CompressorBench) -> str:
    """Everything, as lines for a terminal."""
    lines = [heading(bench)]
    for part in parts(bench):
        lines += ["", part.title, *([part.text] if part.text else []), ""]
        lines += columns([part.head, *part.rows], right=part.numbers)
    return "\n".join(lines)


def compressor_markdown(bench: CompressorBench, level: int = 2) -> str:
    """Everything, as Markdown with headings of this level."""
    lines = [heading(bench)]
    for part in parts(bench):
        lines += ["", f"{'#' * level} {part.title}", "", *([part.text, ""] if part.text else [])]
        lines.append("| " + " | ".join(part.head) + " |")
        lines.append("|" + "|".join("--:" if index in part.numbers else "---" for index in range(len(part.head))) + "|")
        lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in part.rows]
    return "\n".join(lines) + "\n"


def heading(bench: CompressorBench) -> str:
    """What was measured, on what, in one paragraph."""
    s = bench.settings
    text = (
        f"{s.model}, float: {bench.float_accuracy:.1f} %, {bench.float_bytes} bytes. {s.calibration} calibration "
        f"images, {s.images} test images of {s.data or 'the data given'}. robustlab {s.robustlab}, torch {s.torch}."
    )
    if s.iterations is not None:
        text += f" {s.iterations} steps per layer or block where rounding is learned."
    places = {(c.latency.cpu, c.latency.kernels, c.latency.threads) for c in bench.cells if c.latency is not None}
    for cpu, kernels, threads in sorted(places):
        text += f" Latency: {cpu}, {kernels} kernels, {threads} thread{'' if threads == 1 else 's'}."
    return text


def class_text(cell: Cell) -> str:
    """``P``, ``S 18, P 2``, or with ``X:`` in front for what had to be replaced to be deployed."""
    found = sorted(cell.classes.items(), key=lambda item: -item[1])
    text = found[0][0] if len(found) == 1 else ", ".join(f"{kind} {count}" for kind, count in found)
    return f"X: {text}" if cell.replaced else text


def points_text(cell: Cell | None) -> str:
    """``-3.2 ± 1.4``."""
    if cell is None or cell.quality is None:
        return MISSING
    return f"{cell.quality.points:+.1f} ± {cell.quality.half_width:.1f}"


def _percent(cell: Cell | None) -> str:
    return MISSING if cell is None or cell.quality is None else f"{cell.quality.accuracy:.1f}"


def _kl(cell: Cell | None) -> str:
    if cell is None or cell.quality is None:
        return MISSING
    return f"{cell.quality.kl:.3f} ± {cell.quality.kl_half_width:.3f}"


def _seconds(cell: Cell | None) -> str:
    return MISSING if cell is None or cell.seconds is None else f"{cell.seconds:.1f}"


def _size(cell: Cell) -> tuple[str, ...]:
    stored, latency = cell.stored, cell.latency
    assert stored is not None, "a cell without an error has figures"
    split = f"{stored.payload} + {stored.scales} + {stored.side} + {stored.rest}"
    times = (MISSING, MISSING)
    if latency is not None:
        times = (f"{latency.milliseconds:.3f}", f"{latency.float_milliseconds / latency.milliseconds:.1f}x")
    return f"{stored.total}", split, f"{stored.bits_per_weight:.2f}", *times


def _cells(bench: CompressorBench, *states: str) -> list[Cell]:
    """Cells with figures, scheme by scheme, algorithms in their order."""

    def place(scheme: Scheme) -> tuple[int, Scheme]:
        known = scheme in DEFAULT_SCHEMES
        return (DEFAULT_SCHEMES.index(scheme) if known else len(DEFAULT_SCHEMES), scheme)

    chosen = [cell for cell in bench.cells if cell.state in states and not cell.error]
    return sorted(chosen, key=lambda c: (place(c.scheme), _ORDER.index(c.algorithm), c.source))


def _post_training(bench: CompressorBench) -> Part:
    found = {(c.scheme, c.algorithm, c.state): c for c in _cells(bench, "raw", "corrected")}
    rows = []
    for scheme, algorithm in dict.fromkeys(key[:2] for key in found):
        one, other = (found.get((scheme, algorithm, state)) for state in ("raw", "corrected"))
        either = one or other
        assert either is not None
        figures = (_percent(one), points_text(one), _kl(one), _seconds(one))
        with_correction = (points_text(other), _kl(other), _seconds(other))
        rows.append((str(scheme), algorithm, class_text(either), *figures, *with_correction, *_size(either)))
    head = (
        "bits",
        "algorithm",
        "class",
        "accuracy %",
        "points",
        "KL",
        "s",
        "corrected: points",
        "KL",
        "s more",
        *_SIZE,
    )
    text = (
        "Points: the paired difference of accuracy to the float model, with its 95 % interval. KL: mean divergence "
        "from the float predictions, with the same. s: processor time. Corrected: with statistics correction on top."
    )
    return Part("After training, without labels", text, head, rows, 3)


def _trained(bench: CompressorBench) -> Part:
    rows = []
    for cell in _cells(bench, "trained"):
        figures = (_percent(cell), points_text(cell), _kl(cell))
        start = (str(cell.scheme), cell.algorithm, cell.source, cell.note, class_text(cell))
        rows.append((*start, *figures, *_size(cell)))
    head = ("bits", "algorithm", "file", "training", "class", "accuracy %", "points", "KL", *_SIZE)
    return Part("Trained", "Points: the paired difference of accuracy to the float model.", head, rows, 5)


def _untrained(bench: CompressorBench) -> Part:
    rows = []
    trained = {(cell.algorithm, cell.scheme) for cell in _cells(bench, "trained")}
    for cell in _cells(bench, "untrained"):
        if (cell.algorithm, cell.scheme) in trained:
            continue
        start = _percent(cell)
        if cell.constant:
            start = f"constant signs in {cell.constant} of {cell.binary} layers"
        rows.append((str(cell.scheme), cell.algorithm, class_text(cell), start, _seconds(cell), *_size(cell)))
    head = ("bits", "algorithm", "class", "untrained %", "s", *_SIZE)
    text = (
        "Not trained: classes, bytes and latency are the algorithm's; the accuracy is only that of the point where "
        "training starts. Constant signs: behind a ReLU a plain sign sees +1 only, so this network is none for it. "
        "Class X: refused as it is, deployed in the documented form that the kernels can run."
    )
    return Part("To be trained", text, head, rows, 3)


def _errors(bench: CompressorBench) -> Part:
    rows: list[tuple[str, ...]] = [(str(c.scheme), c.algorithm, c.state, c.error) for c in bench.errors]
    return Part("Errors", "", ("bits", "algorithm", "state", "error"), rows, 4)


def best_after_training(bench: CompressorBench, scheme: Scheme) -> tuple[Cell, int] | None:
    """(the post-training cell with the best accuracy at a scheme, how many there are); None without one.

    Picked on the images that it is judged on, its accuracy is a little too good.
    """
    some = [c for c in _cells(bench, "raw", "corrected") if c.scheme == scheme and c.algorithm in POST_TRAINING]
    if not some:
        return None
    return max(some, key=lambda c: c.quality.points if c.quality else 0.0), len(some)


def state_text(cell: Cell) -> str:
    """The algorithm, and what was done on top."""
    return cell.algorithm + (" + statistics correction" if cell.state == "corrected" else "")
