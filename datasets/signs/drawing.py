"""Anti-aliased vector drawing from signed distances, in NumPy only.

A drawing library's rasteriser changes from release to release; these few formulas do not, so that a seed means the
same images everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Colour = tuple[int, int, int]
Field = NDArray[np.float64]


def arc(centre: Point, radii: Point, start: float, stop: float, steps: int = 24) -> list[Point]:
    """Points of an elliptic arc; angles in degrees, 0 to the right, 90 down (y points down), either direction."""
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return [(centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a)) for a in angles]


def regular_polygon(sides: int, radius: float, turn: float = 0.0, centre: Point = (0.0, 0.0)) -> list[Point]:
    """Corners of a regular polygon; the first one points up, turned clockwise by `turn` degrees."""
    return arc(centre, (radius, radius), turn - 90, turn + 270, sides)[:-1]


class Canvas:
    """A transparent square with coordinates from -1 to 1, y down, on which shapes are laid over each other."""

    def __init__(self, size: int) -> None:
        """Make an empty canvas of `size` x `size` pixels."""
        axis = (np.arange(size) + 0.5) * (2.0 / size) - 1.0
        self._x = np.broadcast_to(axis[None, :], (size, size))
        self._y = np.broadcast_to(axis[:, None], (size, size))
        self._pixel = 2.0 / size
        self._colour = np.zeros((size, size, 3))
        self._alpha = np.zeros((size, size))

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        self._fill(np.hypot(self._x - centre[0], self._y - centre[1]) - radius, colour)

    def polygon(self, points: Sequence[Point], colour: Colour, rounding: float = 0.0) -> None:
        """Fill a simple polygon whose outline is moved outwards by `rounding`, with round corners."""
        distance = np.full_like(self._alpha, np.inf)
        inside = np.zeros(self._alpha.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
            distance = np.minimum(distance, self._segment((ax, ay), (bx, by)))
            if ay != by:
                crosses = (self._y < ay) != (self._y < by)
                inside ^= crosses & (self._x < (bx - ax) * (self._y - ay) / (by - ay) + ax)
        self._fill(np.where(inside, -distance, distance) - rounding, colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a polyline of the given width with round ends and joints."""
        distance = np.full_like(self._alpha, np.inf)
        for a, b in pairwise(points):
            distance = np.minimum(distance, self._segment(a, b))
        self._fill(distance - width / 2, colour)

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (size, size, 4): straight (not premultiplied) colour and coverage."""
        colour = self._colour / np.maximum(self._alpha, 1e-9)[..., None]
        rgba = np.concatenate([colour, 255.0 * self._alpha[..., None]], axis=2)
        pixels: NDArray[np.uint8] = np.clip(np.floor(rgba + 0.5), 0, 255).astype(np.uint8)
        return pixels

    def _segment(self, a: Point, b: Point) -> Field:
        dx, dy = b[0] - a[0], b[1] - a[1]
        px, py = self._x - a[0], self._y - a[1]
        along = np.clip((px * dx + py * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
        rx, ry = px - along * dx, py - along * dy
        squared: Field = rx * rx + ry * ry
        return np.sqrt(squared)

    def _fill(self, distance: Field, colour: Colour) -> None:
        cover = np.clip(0.5 - distance / self._pixel, 0.0, 1.0)
        self._colour = self._colour * (1 - cover[..., None]) + cover[..., None] * np.asarray(colour, dtype=float)
        self._alpha = self._alpha * (1 - cover) + cover
