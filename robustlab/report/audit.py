"""The page of an audit: the verdict, what was measured, and accuracy and loss against the radius."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import resources
from pathlib import Path

import matplotlib
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robustlab.core.errors import invalid
from robustlab.evaluate.audit import Audit
from robustlab.evaluate.audit.result import percent
from robustlab.report.figures import STYLE, svg
from robustlab.report.style import series_colour, series_marker

_NAMES = {
    "given": "gradient as given",
    "best": "best other gradient",
    "square": "search without a gradient",
}


def render_audit(audit: Audit, *, command: str = "") -> str:
    """An audit as HTML text, in one file. `command` is shown as the way to make it again."""
    texts = {attempt.name: attempt.text for attempt in audit.attempts}
    achieved = sorted(audit.achieved.items(), key=lambda item: -item[1])
    return _template().render(
        audit=audit,
        accuracy=Markup(svg(accuracy_figure(audit), "accuracy")),
        growth=Markup(svg(growth_figure(audit), "growth")) if audit.curve.margin else "",
        achieved=[(name, count, texts[name]) for name, count in achieved],
        percent=percent,
        command=command,
        style=Markup(_package_text("report.css")),
    )


def write_audit_report(audit: Audit, path: str | os.PathLike[str], *, command: str = "") -> Path:
    """Write `render_audit` to `path`, atomically, and return it. Raises `ArgumentError` where it cannot be written."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_bytes(render_audit(audit, command=command).encode("utf-8", errors="backslashreplace"))
        partial.replace(target)
    except OSError as error:
        raise invalid("report path", str(target), f"a file that can be written ({error.strerror})") from error
    return target


def _radius(eps: float) -> str:
    return f"{eps * 255:.3g}/255" if eps < 0.2 else f"{eps:.3g}"


def accuracy_figure(audit: Audit) -> Figure:
    """Robust accuracy against the radius, one line per kind of attack."""
    curve = audit.curve
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        for index, (name, values) in enumerate(curve.accuracy.items()):
            shown = [100 * value for value in values]
            colour, marker = series_colour(index), series_marker(index)
            ax.plot(curve.eps, shown, label=_NAMES.get(name, name), color=colour, marker=marker)
        ax.set_xscale("log")
        ax.set_xticks(curve.eps, [_radius(eps) for eps in curve.eps])
        ax.minorticks_off()
        ax.set_ylim(-3, 103)
        ax.set_xlabel(f"radius of the ball ({audit.ball.partition('-')[0]})")
        ax.set_ylabel("still right (%)")
        ax.legend(frameon=False)
    return figure


def growth_figure(audit: Audit) -> Figure:
    """The margin after one step of growing length along the gradient as given."""
    curve = audit.curve
    lengths = (0.0, *curve.eps)[: len(curve.margin)]
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        ax.plot(lengths, curve.margin, color=series_colour(0), marker=series_marker(0))
        ax.set_xticks(lengths, [_radius(eps) for eps in lengths])
        ax.set_xlabel("length of one step along the gradient as given")
        ax.set_ylabel("mean margin to another class, at most 0", parse_math=False)
    return figure


def _package_text(name: str) -> str:
    return resources.files("robustlab.report").joinpath("templates", name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_package_text("audit.html"))
