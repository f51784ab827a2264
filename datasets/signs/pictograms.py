"""Digits, letters, arrows and figures of traffic signs as strokes and polygons, in the sign's -1..1 coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from robustlab.datasets.signs.drawing import Canvas, Colour, Point, arc

BLACK: Colour = (22, 22, 24)
WHITE: Colour = (244, 244, 240)
RED: Colour = (196, 24, 36)
BLUE: Colour = (14, 78, 162)
YELLOW: Colour = (250, 196, 20)

Draw = Callable[[Canvas], None]

# Strokes of each character in a box of width 1 and height 1.7, y down.
_STROKES: dict[str, list[list[Point]]] = {
    "0": [arc((0.5, 0.85), (0.48, 0.85), 0, 360)],
    "1": [[(0.18, 0.38), (0.58, 0.0), (0.58, 1.7)]],
    "3": [arc((0.48, 0.42), (0.44, 0.42), -155, 90), arc((0.48, 1.25), (0.5, 0.45), -90, 155)],
    "5": [[(0.92, 0.0), (0.14, 0.0), (0.08, 0.74)], arc((0.46, 1.16), (0.5, 0.54), -140, 148)],
    "6": [arc((0.5, 1.18), (0.48, 0.52), 0, 360), arc((0.98, 1.2), (0.96, 1.2), 180, 262)],
    "8": [arc((0.5, 0.42), (0.41, 0.42), 0, 360), arc((0.5, 1.26), (0.49, 0.44), 0, 360)],
    "O": [arc((0.5, 0.85), (0.48, 0.85), 0, 360)],
    "P": [[(0.08, 1.7), (0.08, 0.0), (0.5, 0.0), *arc((0.5, 0.48), (0.46, 0.48), -90, 90), (0.5, 0.96), (0.08, 0.96)]],
    "S": [[*arc((0.5, 0.43), (0.45, 0.43), -25, -270), *arc((0.5, 1.27), (0.47, 0.43), -90, 155)]],
    "T": [[(0.0, 0.0), (1.0, 0.0)], [(0.5, 0.0), (0.5, 1.7)]],
}


def text(characters: str, colour: Colour, *, height: float, width: float, gap: float, stroke: float) -> Draw:
    """Characters in a centred row; `height` and `width` are of one character, outline to outline."""

    def draw(canvas: Canvas) -> None:
        inner_width, inner_height = width - stroke, height - stroke
        left = -(len(characters) * width + (len(characters) - 1) * gap) / 2 + stroke / 2
        for position, character in enumerate(characters):
            x0, y0 = left + position * (width + gap), -inner_height / 2
            for line in _STROKES[character]:
                points = [(x0 + x * inner_width, y0 + y / 1.7 * inner_height) for x, y in line]
                canvas.stroke(points, stroke, colour)

    return draw


def arrow(points: Sequence[Point], colour: Colour, *, stroke: float, head: float) -> Draw:
    """A polyline that ends in a triangular head of half-width `head`."""

    def draw(canvas: Canvas) -> None:
        (ax, ay), (bx, by) = points[-2], points[-1]
        length = ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
        ux, uy = (bx - ax) / length, (by - ay) / length
        neck = (bx - ux * head * 1.2, by - uy * head * 1.2)
        canvas.stroke([*points[:-1], neck], stroke, colour)
        corners = [(bx, by), (neck[0] - uy * head, neck[1] + ux * head), (neck[0] + uy * head, neck[1] - ux * head)]
        canvas.polygon(corners, colour, rounding=0.015)

    return draw


def mirrored(points: Sequence[Point]) -> list[Point]:
    """The points seen in a vertical mirror."""
    return [(-x, y) for x, y in points]


def together(*parts: Draw) -> Draw:
    """Draw several things, one over the other."""

    def draw(canvas: Canvas) -> None:
        for part in parts:
            part(canvas)

    return draw


def strokes(lines: Sequence[Sequence[Point]], width: float, colour: Colour = BLACK) -> Draw:
    """Several polylines of one width."""

    def draw(canvas: Canvas) -> None:
        for line in lines:
            canvas.stroke(line, width, colour)

    return draw


def exclamation(canvas: Canvas) -> None:
    """General danger."""
    canvas.polygon([(-0.11, -0.28), (0.11, -0.28), (0.06, 0.3), (-0.06, 0.3)], BLACK, rounding=0.02)
    canvas.disc((0, 0.48), 0.1, BLACK)


def curve(*, left: bool) -> Draw:
    """A bend in the road ahead."""
    points = [(0.18, 0.58), (0.18, 0.28), *arc((-0.06, 0.28), (0.24, 0.26), 0, -70), (-0.24, -0.08)]
    return arrow(points if left else mirrored(points), BLACK, stroke=0.15, head=0.19)


def bumps(canvas: Canvas) -> None:
    """An uneven road."""
    for x in (-0.25, 0.25):
        canvas.polygon([*arc((x, 0.42), (0.24, 0.3), 180, 360, 16)], BLACK)
    canvas.polygon([(-0.55, 0.42), (0.55, 0.42), (0.55, 0.54), (-0.55, 0.54)], BLACK)


def road_works(canvas: Canvas) -> None:
    """A worker with a shovel in front of a heap."""
    canvas.disc((-0.07, -0.22), 0.1, BLACK)
    canvas.stroke([(-0.12, -0.06), (-0.22, 0.2)], 0.17, BLACK)
    canvas.stroke([(-0.22, 0.2), (-0.12, 0.38), (-0.16, 0.6)], 0.1, BLACK)
    canvas.stroke([(-0.24, 0.22), (-0.36, 0.6)], 0.1, BLACK)
    canvas.stroke([(-0.1, -0.04), (0.06, 0.12)], 0.08, BLACK)
    canvas.stroke([(-0.2, 0.02), (0.3, 0.36)], 0.055, BLACK)
    canvas.polygon([(0.12, 0.62), (0.34, 0.34), (0.58, 0.62)], BLACK)


def pedestrian(canvas: Canvas) -> None:
    """A person who walks over a crossing."""
    canvas.disc((0.02, -0.28), 0.1, BLACK)
    canvas.stroke([(0.0, -0.1), (0.0, 0.16)], 0.17, BLACK)
    canvas.stroke([(0.0, 0.16), (-0.1, 0.36), (-0.24, 0.54)], 0.09, BLACK)
    canvas.stroke([(0.02, 0.16), (0.14, 0.34), (0.18, 0.54)], 0.09, BLACK)
    canvas.stroke([(-0.02, -0.1), (-0.2, 0.1)], 0.07, BLACK)
    canvas.stroke([(0.02, -0.1), (0.2, 0.08)], 0.07, BLACK)
    for x in (-0.48, -0.16, 0.16, 0.48):
        canvas.stroke([(x - 0.06, 0.66), (x + 0.06, 0.66)], 0.07, BLACK)


def bicycle(canvas: Canvas) -> None:
    """A bicycle seen from the side."""
    for x in (-0.3, 0.3):
        canvas.stroke(arc((x, 0.36), (0.22, 0.22), 0, 360), 0.07, BLACK)
    frame: list[list[Point]] = [
        [(-0.3, 0.36), (-0.14, 0.02), (0.2, 0.02), (0.0, 0.36), (-0.3, 0.36)],
        [(0.0, 0.36), (-0.18, -0.08)],
        [(-0.28, -0.1), (-0.1, -0.1)],
        [(0.3, 0.36), (0.16, -0.14), (0.3, -0.16)],
    ]
    strokes(frame, 0.065)(canvas)


def car(colour: Colour, x: float) -> Draw:
    """A car from behind, centred at `x`."""

    def draw(canvas: Canvas) -> None:
        canvas.polygon([(x - 0.14, -0.2), (x + 0.14, -0.2), (x + 0.2, -0.02), (x - 0.2, -0.02)], colour, rounding=0.03)
        canvas.polygon([(x - 0.21, 0.02), (x + 0.21, 0.02), (x + 0.21, 0.16), (x - 0.21, 0.16)], colour, rounding=0.04)
        canvas.stroke([(x - 0.16, 0.2), (x - 0.16, 0.27)], 0.09, colour)
        canvas.stroke([(x + 0.16, 0.2), (x + 0.16, 0.27)], 0.09, colour)
        canvas.polygon([(x - 0.11, -0.15), (x + 0.11, -0.15), (x + 0.14, -0.05), (x - 0.14, -0.05)], WHITE)

    return draw


def roundabout(canvas: Canvas) -> None:
    """Three arrows that chase each other around a circle."""
    for turn in (0, 120, 240):
        arrow(arc((0, 0), (0.46, 0.46), turn - 60, turn - 150, 12), WHITE, stroke=0.14, head=0.18)(canvas)
