"""The picture of a fault study: accuracy over flipped bits, one panel for each part of the model."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from robustlab.evaluate.fault_study import FaultRow
from robustlab.report.style import series_colour


def fault_picture(rows: Sequence[FaultRow]) -> bytes:
    """A PNG. Solid lines are chosen bits, dashed ones random bits; each seed is a line."""
    parts = list(dict.fromkeys(row.part for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 8.0}):
        figure = Figure(figsize=(4.2 * len(parts) + 0.8, 3.4), layout="constrained")
        panels = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
        for axis, part in zip(panels, parts, strict=True):
            for row in rows:
                if row.part != part:
                    continue
                for index, curve in enumerate(row.curves):
                    axis.plot(
                        [point.flips for point in curve.points],
                        [100 * point.accuracy for point in curve.points],
                        "-" if row.search == "bfa" else "--",
                        color=series_colour(models.index(row.model)),
                        linewidth=1.1,
                        alpha=0.9 if row.search == "bfa" else 0.6,
                        label=f"{row.model}, {row.search}" if index == 0 else None,
                    )
            axis.set_xscale("symlog", linthresh=1)
            axis.set_title(f"bits of {part}", fontsize=9)
            axis.set_xlabel("flipped bits")
            axis.grid(alpha=0.25)
            axis.legend(fontsize=6)
        panels[0].set_ylabel("accuracy %")
        panels[0].set_ylim(0, 101)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": "robustlab"})
    return buffer.getvalue()
