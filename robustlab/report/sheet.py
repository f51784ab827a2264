"""A sheet of adversarial images: clean, adversarial and the difference, side by side, with what the model said."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Pair:
    """An image before and after, float (3, H, W) in [0, 1], and what the model said to each."""

    clean: Array
    adversarial: Array
    before: str
    after: str


def sheet(pairs: Sequence[Pair], title: str) -> bytes:
    """A PNG with one column per pair; differences are scaled so that the largest of all is full contrast."""
    largest = max(float(np.abs(p.adversarial - p.clean).max()) for p in pairs) or 1.0
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 8.0}):
        figure = Figure(figsize=(1.6 * len(pairs) + 0.7, 5.6), layout="constrained")
        figure.suptitle(title, fontsize=9)
        axes = figure.subplots(3, len(pairs), squeeze=False)
        for column, pair in enumerate(pairs):
            difference = 0.5 + 0.5 * (pair.adversarial - pair.clean) / largest
            for row, (image, text) in enumerate(
                ((pair.clean, pair.before), (pair.adversarial, pair.after), (difference, ""))
            ):
                axis = axes[row][column]
                axis.imshow(image.transpose(1, 2, 0).clip(0, 1), interpolation="nearest")
                axis.set_title(text, fontsize=8)
                axis.set_xticks([])
                axis.set_yticks([])
        for row, name in enumerate(("clean", "adversarial", f"difference\n(full scale {255 * largest:.3g}/255)")):
            axes[row][0].set_ylabel(name)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "robustlab"})
    return buffer.getvalue()


def read_png(path: Path) -> Array:
    """A PNG file as float32 (3, H, W), whole 255ths."""
    with Image.open(path) as image:
        levels = np.asarray(image.convert("RGB"))
    pixels: Array = np.ascontiguousarray(levels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    return pixels
