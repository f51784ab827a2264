"""Resizers: uint8 (H, W, 3) -> (h, w, 3), uint8, or float32 in [0, 1] for those that work on floats.

Pillow, and torch with antialiasing, widen their filters when they shrink a picture; OpenCV, except for INTER_AREA, and
torch without antialiasing do not. That, not the name of the filter, is the main difference between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from robustlab.datasets.systematic.decoders import Pixels, Size
from robustlab.datasets.systematic.libraries import load

Resized = NDArray[Any]  # uint8, or float32 in [0, 1]


@dataclass(frozen=True)
class Resizer:
    """`resize(pixels, (h, w))`."""

    name: str
    library: str
    resize: Callable[[Pixels, Size], Resized]
    description: str


def _pillow(filter: Image.Resampling) -> Callable[[Pixels, Size], Resized]:
    def resize(pixels: Pixels, size: Size) -> Resized:
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), filter))

    return resize


def _pillow_float(pixels: Pixels, size: Size) -> Resized:
    """Channel by channel in float32: nothing is rounded between or after the two passes."""
    levels = pixels.astype(np.float32)
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(levels[..., c])).resize((size[1], size[0]), _BILINEAR))
        for c in range(3)
    ]
    return np.clip(np.stack(channels, axis=2) / np.float32(255), 0, 1)


def _opencv(filter: str, *, floats: bool = False) -> Callable[[Pixels, Size], Resized]:
    def resize(pixels: Pixels, size: Size) -> Resized:
        cv2 = load("opencv")
        source = pixels.astype(np.float32) if floats else pixels
        found = cv2.resize(source, (size[1], size[0]), interpolation=getattr(cv2, filter))
        return np.clip(found / np.float32(255), 0, 1) if floats else np.asarray(found)

    return resize


def _torch(mode: str, *, antialias: bool, integers: bool = False) -> Callable[[Pixels, Size], Resized]:
    def resize(pixels: Pixels, size: Size) -> Resized:
        planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
        source = planes.contiguous() if integers else planes.to(torch.float32) / 255
        found = torch.nn.functional.interpolate(source, size, mode=mode, antialias=antialias, align_corners=False)
        found = found if integers else found.clamp(0, 1)
        return np.ascontiguousarray(found[0].permute(1, 2, 0).numpy())

    return resize


_BILINEAR = Image.Resampling.BILINEAR
_PILLOW_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": _BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_OPENCV_FILTERS = {
    "nearest": "INTER_NEAREST",
    "bilinear": "INTER_LINEAR",
    "area": "INTER_AREA",
    "cubic": "INTER_CUBIC",
    "lanczos4": "INTER_LANCZOS4",
}

RESIZERS: Mapping[str, Resizer] = {
    resizer.name: resizer
    for resizer in (
        *(
            Resizer(f"pillow.{name}", "pillow", _pillow(filter), f"Pillow, {name}, on 8 bits")
            for name, filter in _PILLOW_FILTERS.items()
        ),
        Resizer("pillow.bilinear.float", "pillow", _pillow_float, "Pillow, bilinear, on floats"),
        *(
            Resizer(f"opencv.{name}", "opencv", _opencv(filter), f"OpenCV, {name}, on 8 bits")
            for name, filter in _OPENCV_FILTERS.items()
        ),
        Resizer("opencv.bilinear.float", "opencv", _opencv("INTER_LINEAR", floats=True), "OpenCV, bilinear, on floats"),
        *(
            Resizer(
                f"torch.{mode}{'.aa' if antialias else ''}",
                "torch",
                _torch(mode, antialias=antialias),
                f"torch, {mode}, {'antialiased' if antialias else 'not antialiased'}, on floats",
            )
            for mode in ("bilinear", "bicubic")
            for antialias in (False, True)
        ),
        Resizer(
            "torch.bilinear.aa.uint8",
            "torch",
            _torch("bilinear", antialias=True, integers=True),
            "torch, bilinear, antialiased, on 8 bits",
        ),
    )
}
