"""The picture of a cross-precision matrix."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from robustlab.evaluate.transfer_study import MatrixRow
from robustlab.report.style import heat


def transfer_picture(rows: Sequence[MatrixRow], title: str) -> bytes:
    """A PNG: accuracy of each column's model on the images made on each row's; the darker, the more is left."""
    names = list(dict.fromkeys(row["target"] for row in rows))
    size = len(names)
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 8.0}):
        figure = Figure(figsize=(1.3 * size + 2.2, 0.75 * size + 1.8), layout="constrained")
        axis = figure.subplots()
        for row in rows:
            x, y = names.index(row["target"]), size - 1 - names.index(row["source"])
            background, ink = heat(row["accuracy"])
            axis.add_patch(Rectangle((x, y), 1, 1, facecolor=background, edgecolor="white"))
            text = f"{100 * row['accuracy']:.1f}\n[{100 * row['ci_low']:.0f}, {100 * row['ci_high']:.0f}]"
            weight = "bold" if row["source"] == row["target"] else "normal"
            axis.text(x + 0.5, y + 0.5, text, ha="center", va="center", color=ink, fontsize=7.5, fontweight=weight)
        axis.set_xlim(0, size)
        axis.set_ylim(0, size)
        axis.set_xticks([i + 0.5 for i in range(size)], names, rotation=20, ha="right")
        axis.set_yticks([size - i - 0.5 for i in range(size)], names)
        axis.tick_params(length=0)
        axis.set_xlabel("shown to")
        axis.set_ylabel("made on")
        axis.set_title(f"accuracy % under {title}", fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": "robustlab"})
    return buffer.getvalue()
