"""The report: one self-contained HTML file, the same bytes for the same results."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from robustlab.core.errors import invalid
from robustlab.report import figures, format
from robustlab.report.examples import read_examples
from robustlab.report.style import heat, series_colour
from robustlab.report.verdict import verdict
from robustlab.report.view import Cell, View, build_view, natural_table

# A tab per condition would repeat the heat map: attacks are the ones a person compares costs for.
_PLOTTED_KINDS = ("clean", "attack")


@dataclass(frozen=True)
class _Plot:
    label: str
    alternative: str
    panels: tuple[Markup, ...]


def render(results: object, *, command: str = "") -> str:
    """The report of `results` as HTML text; see `robustlab.report.view` for what results are.

    `command` is shown as the way to make the same results again.
    """
    view = build_view(results, read_examples(results))
    return _template().render(
        view=view,
        verdict=[sentence.replace(" %", "\N{NO-BREAK SPACE}%") for sentence in verdict(view)],
        plots=_plots(view),
        facts=_facts(view),
        environment=list(_flatten(view.run)),
        attacked=[key for key in view.conditions if format.condition_kind(key) == "attack"],
        examples=_by_condition(view),
        natural=natural_table(view),
        command=command,
        surrogates=sorted({c.gradient for c in view.cells if c.gradient.startswith("surrogate")}),
        style=Markup(_package_text("report.css")),
        series=series_colour,
        heat=heat,
        interval=_interval,
        png=_png,
        f=format,
    )


def write_report(results: object, path: str | os.PathLike[str], *, command: str = "") -> Path:
    """Write the report to `path` (atomically) and return it; see `render`.

    Raises `ArgumentError` where it cannot be written.
    """
    target = Path(path)
    # A path on a command line can hold bytes that are no text.
    text = render(results, command=command).encode("utf-8", errors="backslashreplace")
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=target.parent, prefix=f".{target.name}.", delete=False) as handle:
            temporary = handle.name
            handle.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise invalid("report path", str(target), f"a file that can be written ({error.strerror})") from error
    return target


def hero(results: object) -> bytes:
    """The picture for a README, a PNG's bytes: accuracy under the worst attack against cost, and the heat map."""
    return figures.hero(build_view(results))


def _package_text(name: str) -> str:
    return resources.files("robustlab.report").joinpath("templates", name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_package_text("report.html"))


def _png(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _interval(cell: Cell) -> str:
    if cell.low is None or cell.high is None:
        return ""
    return f"95 % interval {format.percent_text(cell.low)} to {format.percent_text(cell.high)} %"


def _plots(view: View) -> list[_Plot]:
    plots = []
    attacks = [key for key in view.conditions if format.condition_kind(key) == "attack"]
    for index, (metric, label) in enumerate(figures.metrics(view)):
        kind = format.condition_kind(metric)
        if metric not in ("worst", "corruption") and kind not in _PLOTTED_KINDS:
            continue
        if kind == "attack" and len(attacks) == 1:  # it is the worst attack
            continue
        panels = []
        for cost, _, _ in figures.COSTS:
            figure = figures.pareto_figure(view, metric, label, cost)
            if figure is not None:
                panels.append(Markup(figures.svg(figure, f"p{index}-{cost}")))
        plots.append(_Plot(label, figures.alternative(view, metric, label), tuple(panels)))
    return plots


def _by_condition(view: View) -> list[tuple[str, list[Any]]]:
    groups: dict[str, list[Any]] = {}
    for example in view.examples:
        groups.setdefault(example.condition, []).append(example)
    return list(groups.items())


def _flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A run's settings as (dotted name, text), in the order they are stored."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)) and not any(isinstance(v, (Mapping, list, tuple)) for v in value):
        yield prefix, ", ".join(str(v) for v in value)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _flatten(inner, f"{prefix}.{index}")
    elif value is not None:
        yield prefix, str(value)


def _find(run: Mapping[str, Any], *names: str) -> str:
    """The first of the dotted names that the run has, as text."""
    flat = dict(_flatten(run))
    return next((flat[name] for name in names if flat.get(name)), "")


def _facts(view: View) -> list[tuple[str, str]]:
    """What stands in the header: (name, text), only what is known."""
    counts = sorted({cell.n for cell in view.cells if cell.n})
    images = format.count_text(counts[-1]) if counts else ""
    facts = [
        ("data", _find(view.run, "configuration.data.name")),
        ("suite", _find(view.run, "configuration.suite")),
        ("images per cell", images),
        ("seed", _find(view.run, "seed")),
        ("made", _find(view.run, "created").replace("T", " ").replace("+00:00", " UTC")),
        ("robustlab", _find(view.run, "versions.robustlab")),
        ("torch", _find(view.run, "versions.torch")),
        ("kernels", _find(view.run, "hardware.kernels")),
        ("processor", _find(view.run, "hardware.gpu", "hardware.cpu")),
        ("threads", _find(view.run, "hardware.threads")),
    ]
    return [(name, text) for name, text in facts if text]
