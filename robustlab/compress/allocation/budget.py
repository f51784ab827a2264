"""What an allocation may cost, as people say it: 4bits, 140kB, 300us or 0.8x."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from robustlab.compress.allocation.problem import Problem
from robustlab.core.errors import invalid

_UNITS = {
    "": ("bytes", 1.0),
    "B": ("bytes", 1.0),
    "kB": ("bytes", 1e3),
    "MB": ("bytes", 1e6),
    "GB": ("bytes", 1e9),
    "us": ("ns", 1e3),
    "µs": ("ns", 1e3),
    "ms": ("ns", 1e6),
    "bits": ("bits", 1.0),
    "x": ("share", 1.0),
}
_TEXT = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(?P<unit>[A-Za-zµ]*)")
_MOST = 1e12
ALLOWED = (
    "4bits (what that many bits in every layer cost), 0.8x (of the widest choice in every layer), a size such as "
    "140392 or 140kB, or a time such as 300us or 0.3ms"
)


@dataclass(frozen=True)
class Budget:
    """A budget before the costs of the network are known.

    kind: ``bytes`` or ``ns`` are meant as they are. ``bits`` is the cost of the uniform allocation of so many weight
    bits; between two widths there are it is interpolated, so that for bytes it is the mean over all weights. ``share``
    is a share of what the dearest uniform allocation costs.
    """

    value: float
    kind: Literal["bytes", "ns", "bits", "share"]

    def within(self, problem: Problem) -> int:
        """The budget in the unit of `problem`, checked to be feasible.

        Raises `ArgumentError` for a budget in another unit, for bits outside the widths that all layers can have, and
        for a budget below the cheapest allocation.
        """
        self.check_unit(problem.unit)
        if self.kind == problem.unit:
            return problem.check_budget(int(self.value))
        by_width: dict[int, int] = {}
        for (weights, _), allocation in problem.uniforms().items():
            by_width[weights] = max(problem.cost(allocation), by_width.get(weights, 0))
        if not by_width:
            raise invalid("budget", f"{self.value:g} {self.kind}", "a size or a time: the layers share no choice")
        if self.kind == "share":
            return problem.check_budget(int(self.value * max(by_width.values())))
        widths = sorted(by_width)
        self.check_widths(widths)
        low = max(width for width in widths if width <= self.value)
        high = min(width for width in widths if width >= self.value)
        part = 0.0 if low == high else (self.value - low) / (high - low)
        return problem.check_budget(by_width[low] + int(part * (by_width[high] - by_width[low])))

    def check_widths(self, widths: Collection[int]) -> None:
        """Raise `ArgumentError` for bits outside the weight bits there are to choose from."""
        if self.kind == "bits" and not min(widths) <= self.value <= max(widths):
            raise invalid("budget", f"{self.value:g} bits", f"from {min(widths)} to {max(widths)} bits")

    def check_unit(self, unit: str) -> None:
        """Raise `ArgumentError` for a size where costs are in ``ns``, and for a time where they are in ``bytes``."""
        if self.kind in ("bytes", "ns") and self.kind != unit:
            wanted = "a size, as 140kB" if unit == "bytes" else "a time, as 300us"
            shown = f"{self.value / 1e3:g}us" if self.kind == "ns" else f"{self.value:g} {self.kind}"
            raise invalid("budget", shown, f"{wanted}, bits or a share such as 0.8x")


def parse_budget(text: str) -> Budget:
    """``4.0bits``, ``140392``, ``140kB``, ``0.8x``, ``300us``, ``0.3ms``. Raises `ArgumentError` for anything else."""
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match is None or match["unit"] not in _UNITS or not 0 < float(match["number"]) < _MOST:
        raise invalid("budget", text, ALLOWED)
    kind, factor = _UNITS[match["unit"]]
    # round: 0.3 * 1e6 must not end a nanosecond short
    value = float(match["number"]) if kind in ("bits", "share") else float(round(float(match["number"]) * factor))
    return Budget(value, kind)  # type: ignore[arg-type]
