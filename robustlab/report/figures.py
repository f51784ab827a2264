"""Figures: the Pareto plot (inline SVG) and the picture for a README. Object-oriented matplotlib, no pyplot."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from robustlab.report.format import bytes_text, condition_title, milliseconds_text, percent_text, short_name
from robustlab.report.style import INK, LINE, MUTED, heat, series_colour, series_marker
from robustlab.report.view import View, pareto_front

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "robustlab",
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#eef1f4",
    "axes.axisbelow": True,
}
_FRONT = "front"
# Pixels from which on a thin line leads from a marker to its label.
_LEADER = 26
# What a label costs that stands nearer to another marker than to its own, in square pixels of overlap.
_MISLEADING = 150.0
_Pixel = tuple[float, float]
# Where a label may stand: so many pixels from its marker, in these directions, the first that is free.

_REACHES = (13, 20, 28, 38, 50)
_DIRECTIONS = ((1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (-1, 0), (0, 1), (0, -1))
# name of the column in an efficiency row, label of the axis, how its ticks are written
COSTS = (
    ("latency_p50_ms", "latency at batch 1, median", milliseconds_text),
    ("bytes", "size of the model file's tensors", bytes_text),
)


@dataclass(frozen=True)
class _Point:
    name: str
    order: int
    x: float
    y: float
    low: float
    high: float


def metrics(view: View) -> list[tuple[str, str]]:
    """(metric, label) of what can be plotted against cost: worst attack, mean corruption, then every condition."""
    named = [("worst", "worst attack"), ("corruption", "mean of corruptions")]
    named += [(key, condition_title(key)) for key in view.conditions]
    costly = [row for row in view.models if any(row.cost(name) for name, _, _ in COSTS)]
    return [(key, label) for key, label in named if any(view.robustness(row, key) for row in costly)]


def _points(view: View, metric: str, cost: str) -> list[_Point]:
    points = []
    for order, row in enumerate(view.models):
        x, score = row.cost(cost), view.robustness(row, metric)
        if x is not None and x > 0 and score is not None:
            y, low, high = score
            points.append(_Point(row.name, order, x, 100 * y, *(100 * (y if v is None else v) for v in (low, high))))
    return points


def pareto_figure(
    view: View, metric: str, label: str, cost: str, *, width: float = 5.6, height: float = 4.2
) -> Figure | None:
    """Accuracy against one cost with the Pareto front; None when no model has both.

    `metric` is ``worst``, ``corruption`` or a condition's key; `cost` a name in `COSTS`. Sizes are in inches.
    """
    points = _points(view, metric, cost)
    if not points:
        return None
    _, title, ticks = next(row for row in COSTS if row[0] == cost)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        _draw_panel(ax, points, title, ticks)
        ax.set_ylabel(f"accuracy, {label} (%)", parse_math=False)
        figure.draw_without_rendering()
        _place_labels(ax, points)
    return figure


def _draw_panel(ax: Axes, points: Sequence[_Point], title: str, ticks: object) -> None:
    ax.set_xscale("log")
    front = pareto_front([(p.x, p.y) for p in points])
    xs = [p.x for p in points]
    span = max(max(xs) / min(xs), 1.6)
    left, right = min(xs) / span**0.22, max(xs) * span**0.34
    ax.set_xlim(left, right)
    top = max(p.high for p in points)
    ax.set_ylim(-max(top, 8) * 0.13, min(105.0, max(top, 8) * 1.18))
    if front:
        stair_x, stair_y = [points[front[0]].x], [ax.get_ylim()[0]]
        for index in front:
            stair_x += [points[index].x, points[index].x]
            stair_y += [stair_y[-1], points[index].y]
        stair_x.append(right)
        stair_y.append(stair_y[-1])
        ax.plot(stair_x[1:], stair_y[1:], color="#9aa7b4", linewidth=1.4, linestyle=(0, (5, 3)), zorder=1, gid=_FRONT)
        ax.fill_between(stair_x[1:], stair_y[1:], ax.get_ylim()[0], color="#0072B2", alpha=0.045, linewidth=0, zorder=0)
    for index, p in enumerate(points):
        colour = series_colour(p.order)
        ax.vlines(p.x, p.low, p.high, color=colour, linewidth=1.5, alpha=0.55, zorder=2)
        ax.plot(
            [p.x],
            [p.y],
            marker=series_marker(p.order),
            color=colour,
            markersize=9.5,
            markeredgecolor=INK if index in front else "white",
            markeredgewidth=1.6 if index in front else 1.0,
            linestyle="none",
            zorder=3,
        )
    ax.set_xlabel(f"{title}  (left is better)")
    decades = math.log10(right / left)
    subs = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.8 else (1.0, 2.0, 5.0)
    # Less than a decade has too few round powers, and the log locator's own choice there crowds the labels.
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]) if decades < 1 else LogLocator(subs=subs))
    assert callable(ticks)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: str(ticks(value))))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="both", length=0)
    ax.spines["left"].set_visible(False)


def _place_labels(ax: Axes, points: Sequence[_Point]) -> None:
    """Write each model's name beside its marker, at the first place that overlaps nothing, else where it does least."""
    renderer = ax.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    to_data = ax.transData.inverted()
    taken = _occupied(ax, points)
    centres = {p.order: _pixel(ax, p.x, p.y) for p in points}
    frame = ax.get_window_extent(renderer)
    for p in sorted(points, key=lambda p: (-p.y, p.x, p.name)):
        x, y = centres[p.order]
        others = [centre for order, centre in centres.items() if order != p.order]
        text = ax.text(p.x, p.y, short_name(p.name), fontsize=9, parse_math=False, color=INK, va="center", zorder=4)
        size = text.get_window_extent(renderer)
        spot = _free_spot((x, y), others, (size.width, size.height), taken, frame)
        taken.append(spot)
        middle = (spot.y0 + spot.y1) / 2
        corner = to_data.transform((spot.x0, middle))
        text.set_position((float(corner[0]), float(corner[1])))
        if math.hypot(max(spot.x0 - x, 0, x - spot.x1), middle - y) > _LEADER:
            ends = to_data.transform([(x, y), (min(max(x, spot.x0), spot.x1), middle)])
            ax.plot(ends[:, 0], ends[:, 1], color="#b4bec8", linewidth=0.8, zorder=1)


def _pixel(ax: Axes, x: float, y: float) -> _Pixel:
    left, up = ax.transData.transform((x, y))
    return float(left), float(up)


def _occupied(ax: Axes, points: Sequence[_Point]) -> list[Bbox]:
    """Pixels that labels stay away from: markers, intervals and the front."""
    taken = []
    for p in points:
        x, y = ax.transData.transform((p.x, p.y))
        (_, low), (_, high) = ax.transData.transform([(p.x, p.low), (p.x, p.high)])
        taken += [Bbox.from_extents(x - 8, y - 8, x + 8, y + 8), Bbox.from_extents(x - 2, low, x + 2, high)]
    for line in ax.get_lines():
        if line.get_gid() == _FRONT:
            for (x0, y0), (x1, y1) in pairwise(ax.transData.transform(line.get_xydata())):
                taken.append(Bbox.from_extents(min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    return taken


def _free_spot(centre: _Pixel, others: Sequence[_Pixel], size: _Pixel, taken: Sequence[Bbox], frame: Bbox) -> Bbox:
    """Where a label of this size goes beside the marker at `centre`, in pixels; not nearer to one of the `others`."""
    (x, y), (width, height) = centre, size
    best: tuple[float, Bbox] | None = None
    for reach, (side, up) in product(_REACHES, _DIRECTIONS):
        left = x + side * reach * (0.75 if up else 1) - {1: 0.0, 0: width / 2, -1: width}[side]
        middle = y + up * reach
        spot = Bbox.from_extents(left - 1, middle - height / 2, left + width + 1, middle + height / 2)
        cost = sum(_shared(spot, other) for other in taken) + 4 * (_area(spot) - _shared(spot, frame))
        own = _distance(spot, centre)
        cost += _MISLEADING * sum(_distance(spot, other) <= own for other in others)
        if cost <= 0:
            return spot
        if best is None or cost < best[0]:
            best = cost, spot
    assert best is not None
    return best[1]


def _distance(box: Bbox, point: _Pixel) -> float:
    x, y = point
    return math.hypot(max(box.x0 - x, 0.0, x - box.x1), max(box.y0 - y, 0.0, y - box.y1))


def _area(box: Bbox) -> float:
    return float(box.width * box.height)


def _shared(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(width * height) if width > 0 and height > 0 else 0.0


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an inline ``<svg>``: text as text, every id under `prefix`, the same bytes for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href=", "href=")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text).replace("url(#", f"url(#{prefix}-")
    text = re.sub(r"font: ([0-9.]+px) [^;\"]*", rf"font: \1 {_FONT}".replace("'", "&#39;"), text)
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1).strip()


def hero(view: View, metric: str = "worst") -> bytes:
    """The picture for a README: Pareto panels above the heat map of accuracy per condition. A PNG's bytes."""
    label = dict(metrics(view)).get(metric, condition_title(metric))
    panels = [(cost, _points(view, metric, cost[0])) for cost in COSTS]
    panels = [(cost, points) for cost, points in panels if points]
    rows, columns = len(view.models), len(view.conditions)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        low = 1.2 + 0.36 * rows
        figure = Figure(figsize=(10.6, (4.0 if panels else 0) + low), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        ratios = ([4.0] if panels else []) + [low]
        parts = figure.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
        if panels:
            axes = parts[0].subplots(1, len(panels), squeeze=False, sharey=True)[0]
            for ax, ((_, title, ticks), points) in zip(axes, panels, strict=True):
                _draw_panel(ax, points, title, ticks)
            axes[0].set_ylabel(f"accuracy, {label} (%)", parse_math=False)
        _draw_heat_map(parts[-1].subplots(), view, rows, columns)
        figure.draw_without_rendering()
        if panels:
            for ax, (_, points) in zip(axes, panels, strict=True):
                _place_labels(ax, points)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def _draw_heat_map(ax: Axes, view: View, rows: int, columns: int) -> None:
    ax.grid(visible=False)
    ax.set_xlim(0, max(columns, 1))
    ax.set_ylim(max(rows, 1), 0)
    for (r, row), (c, key) in product(enumerate(view.models), enumerate(view.conditions)):
        score = view.robustness(row, key)
        back, ink = ("#f3f5f7", MUTED) if score is None else heat(score[0])
        ax.fill(
            [c + 0.02, c + 0.98, c + 0.98, c + 0.02], [r + 0.04, r + 0.04, r + 0.96, r + 0.96], color=back, linewidth=0
        )
        ax.text(
            c + 0.5, r + 0.5, percent_text(score[0] if score else None), ha="center", va="center", color=ink, fontsize=9
        )
    ax.set_xticks(
        [c + 0.5 for c in range(columns)],
        [_two_lines(condition_title(k)) for k in view.conditions],
        fontsize=8,
        parse_math=False,
    )
    ax.set_yticks(
        [r + 0.5 for r in range(rows)],
        [short_name(row.name) for row in view.models],
        fontsize=9,
        color=INK,
        parse_math=False,
    )
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_xlabel("accuracy in %, one row per model", fontsize=9)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _two_lines(title: str) -> str:
    head, _, tail = title.partition(" ")
    return f"{head}\n{tail}"


def alternative(view: View, metric: str, label: str) -> str:
    """The plot in words, for readers who do not see it."""
    parts = []
    for row in view.models:
        score = view.robustness(row, metric)
        if score is not None:
            costs = ", ".join(text(row.cost(name)) for name, _, text in COSTS if row.cost(name))
            parts.append(f"{row.name}: {percent_text(score[0])} % ({costs or 'cost not measured'})")
    return f"Accuracy, {label}, against cost. " + "; ".join(parts)
