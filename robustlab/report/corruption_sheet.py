"""A contact sheet of corruptions: one row each, the image as it is and at every severity."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from robustlab.core.keys import sample_keys
from robustlab.datasets.corruptions import SEVERITIES, corrupt, resolve


def corruption_sheet(image: Tensor, names: Sequence[str], *, seed: int = 0, table: str | None = None) -> bytes:
    """A PNG of uint8 (3, H, W) under every corruption of `names` at severities 1 to 5.

    Raises `ArgumentError` for an unknown name or table, or an image that is smaller than a corruption needs.
    """
    chosen = [resolve(name) for name in names]
    ratio = image.shape[1] / image.shape[2]
    width = 1.25
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 8.0}):
        size = (width * 6 + 1.3, width * ratio * len(chosen) + 0.5)
        layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
        figure = Figure(figsize=size, layout=layout)
        axes = figure.subplots(len(chosen), 6, squeeze=False)
        for row, name in enumerate(chosen):
            for column in (0, *SEVERITIES):
                shown = image
                if column:
                    keys = sample_keys(seed, f"{name}-{column}", [0])
                    shown = corrupt(image.unsqueeze(0), name, column, keys, table)[0]
                axis = axes[row][column]
                axis.imshow(shown.permute(1, 2, 0).numpy(), interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
                if row == 0:
                    axis.set_title(f"severity {column}" if column else "clean", fontsize=8)
            axes[row][0].set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": "robustlab"})
    return buffer.getvalue()
