"""The 24 sign classes: shape, colours and pictogram of each, drawn once as RGBA images of several sizes."""

from __future__ import annotations

from functools import cache

from PIL import Image

from robustlab.datasets.signs import pictograms as p
from robustlab.datasets.signs.drawing import Canvas, Point, regular_polygon
from robustlab.datasets.signs.pictograms import BLACK, BLUE, RED, WHITE, YELLOW, Draw

DRAWN_SIZE = 192
# Sizes a template is kept at, so that warping never shrinks it by much more than two and does not alias.
LEVELS = (64, 48, 32, 24)


def _prohibition(pictogram: Draw) -> Draw:
    def draw(canvas: Canvas) -> None:
        canvas.disc((0, 0), 0.98, WHITE)
        canvas.disc((0, 0), 0.95, RED)
        canvas.disc((0, 0), 0.72, WHITE)
        pictogram(canvas)

    return draw


def _speed_limit(number: str) -> Draw:
    narrow = len(number) > 2
    return _prohibition(
        p.text(
            number,
            BLACK,
            height=0.72 if narrow else 0.84,
            width=0.36 if narrow else 0.47,
            gap=0.06 if narrow else 0.1,
            stroke=0.11 if narrow else 0.14,
        )
    )


def _warning(pictogram: Draw) -> Draw:
    outer: list[Point] = [(0, -0.76), (0.86, 0.72), (-0.86, 0.72)]

    def draw(canvas: Canvas) -> None:
        canvas.polygon(outer, WHITE, rounding=0.13)
        canvas.polygon(outer, RED, rounding=0.1)
        canvas.polygon([(0, -0.5), (0.64, 0.6), (-0.64, 0.6)], WHITE, rounding=0.05)
        pictogram(canvas)

    return draw


def _mandatory(pictogram: Draw) -> Draw:
    def draw(canvas: Canvas) -> None:
        canvas.disc((0, 0), 0.98, WHITE)
        canvas.disc((0, 0), 0.93, BLUE)
        pictogram(canvas)

    return draw


def _no_entry(canvas: Canvas) -> None:
    canvas.disc((0, 0), 0.98, WHITE)
    canvas.disc((0, 0), 0.95, RED)
    canvas.polygon([(-0.66, -0.14), (0.66, -0.14), (0.66, 0.14), (-0.66, 0.14)], WHITE, rounding=0.03)


def _stop(canvas: Canvas) -> None:
    canvas.polygon(regular_polygon(8, 1.0, 22.5), WHITE)
    canvas.polygon(regular_polygon(8, 0.93, 22.5), RED)
    p.text("STOP", WHITE, height=0.62, width=0.34, gap=0.07, stroke=0.11)(canvas)


def _yield(canvas: Canvas) -> None:
    outer: list[Point] = [(0, 0.76), (0.86, -0.72), (-0.86, -0.72)]
    canvas.polygon(outer, WHITE, rounding=0.13)
    canvas.polygon(outer, RED, rounding=0.1)
    canvas.polygon([(0, 0.46), (0.6, -0.57), (-0.6, -0.57)], WHITE, rounding=0.05)


def _priority_road(canvas: Canvas) -> None:
    canvas.polygon(regular_polygon(4, 0.9), BLACK, rounding=0.08)
    canvas.polygon(regular_polygon(4, 0.9), WHITE, rounding=0.06)
    canvas.polygon(regular_polygon(4, 0.6), YELLOW, rounding=0.04)


def _parking(canvas: Canvas) -> None:
    square: list[Point] = [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]
    canvas.polygon(square, WHITE, rounding=0.12)
    canvas.polygon(square, BLUE, rounding=0.06)
    p.text("P", WHITE, height=1.2, width=0.72, gap=0, stroke=0.2)(canvas)


_TURN_RIGHT: list[Point] = [(-0.28, 0.5), (-0.28, -0.05), (-0.2, -0.14), (0.55, -0.14)]
_KEEP_RIGHT: list[Point] = [(-0.4, -0.4), (0.46, 0.46)]

SIGNS: dict[str, Draw] = {
    "speed-limit-30": _speed_limit("30"),
    "speed-limit-50": _speed_limit("50"),
    "speed-limit-60": _speed_limit("60"),
    "speed-limit-80": _speed_limit("80"),
    "speed-limit-100": _speed_limit("100"),
    "no-overtaking": _prohibition(p.together(p.car(RED, -0.29), p.car(BLACK, 0.29))),
    "no-entry": _no_entry,
    "stop": _stop,
    "yield": _yield,
    "priority-road": _priority_road,
    "danger": _warning(p.exclamation),
    "curve-left": _warning(p.curve(left=True)),
    "curve-right": _warning(p.curve(left=False)),
    "bumpy-road": _warning(p.bumps),
    "road-works": _warning(p.road_works),
    "pedestrians": _warning(p.pedestrian),
    "bicycles": _warning(p.bicycle),
    "ahead-only": _mandatory(p.arrow([(0, 0.62), (0, -0.64)], WHITE, stroke=0.22, head=0.32)),
    "turn-left": _mandatory(p.arrow(p.mirrored(_TURN_RIGHT), WHITE, stroke=0.22, head=0.3)),
    "turn-right": _mandatory(p.arrow(_TURN_RIGHT, WHITE, stroke=0.22, head=0.3)),
    "keep-left": _mandatory(p.arrow(p.mirrored(_KEEP_RIGHT), WHITE, stroke=0.22, head=0.3)),
    "keep-right": _mandatory(p.arrow(_KEEP_RIGHT, WHITE, stroke=0.22, head=0.3)),
    "roundabout": _mandatory(p.roundabout),
    "parking": _parking,
}
CLASS_NAMES = tuple(SIGNS)


@cache
def drawn(name: str) -> Image.Image:
    """RGBA image of a sign, `DRAWN_SIZE` pixels square, seen from the front in even light."""
    canvas = Canvas(DRAWN_SIZE)
    SIGNS[name](canvas)
    return Image.fromarray(canvas.pixels(), "RGBA")


@cache
def template(label: int, size: int) -> Image.Image:
    """RGBA image of class `label` at one of `LEVELS`, area-averaged."""
    return drawn(CLASS_NAMES[label]).resize((size, size), Image.Resampling.BOX)
