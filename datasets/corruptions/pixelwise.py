"""Corruptions of single images: uint8 (H, W, 3) in, uint8 (H, W, 3) out, in the arithmetic of the benchmarks.

The published files were made by computing in float64 on [0, 1], clipping, multiplying by 255 and *truncating* to
uint8, so that is done here too: rounding would shift every result by half a level.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Unit = NDArray[np.float64]


def _truncated(x: Unit) -> Pixels:
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def add_noise(pixels: Pixels, noise: NDArray[np.float32], deviation: float) -> Pixels:
    """Add `deviation` times a standard normal field (H, W, 3)."""
    return _truncated(pixels / 255.0 + noise.astype(np.float64) * deviation)


def brighten(pixels: Pixels, amount: float) -> Pixels:
    """Add `amount` to the value of HSV, keeping hue and saturation."""
    hue, saturation, value = _to_hsv(pixels / 255.0)
    return _truncated(_from_hsv(hue, saturation, np.clip(value + amount, 0, 1)))


def flatten(pixels: Pixels, factor: float) -> Pixels:
    """Pull each channel towards its mean over the image: contrast times `factor`."""
    x = pixels / 255.0
    mean = np.mean(x, axis=(0, 1), keepdims=True)
    return _truncated((x - mean) * factor + mean)


def coarsen(pixels: Pixels, factor: float) -> Pixels:
    """Shrink both sides by `factor` (rounded down, at least one pixel) and enlarge again, both with a box filter."""
    height, width = pixels.shape[:2]
    small = (max(1, int(width * factor)), max(1, int(height * factor)))
    image = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
    return np.array(image.resize((width, height), Image.Resampling.BOX))


def compress_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Encode as JPEG (4:2:0, standard tables scaled to `quality`) and decode again."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    with Image.open(buffer) as image:
        return np.array(image)


def _to_hsv(x: Unit) -> tuple[Unit, Unit, Unit]:
    """Hue in sixths of a turn [0, 6), saturation and value of x (H, W, 3); hue and saturation of grey are 0."""
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = x.max(axis=2)
    chroma = value - x.min(axis=2)
    divisor = np.where(chroma > 0, chroma, 1.0)
    hue = np.where(value == red, (green - blue) / divisor, 0.0)
    hue = np.where(value == green, 2 + (blue - red) / divisor, hue)
    hue = np.where(value == blue, 4 + (red - green) / divisor, hue)
    hue = np.where(chroma > 0, np.mod(hue / 6, 1.0) * 6, 0.0)
    saturation = chroma / np.where(value > 0, value, 1.0)
    return hue, saturation, value


def _from_hsv(hue: Unit, saturation: Unit, value: Unit) -> Unit:
    """RGB (H, W, 3) of hue in sixths of a turn, saturation and value."""
    sector = np.floor(hue)
    fraction = hue - sector
    low = value * (1 - saturation)
    falling = value * (1 - fraction * saturation)
    rising = value * (1 - (1 - fraction) * saturation)
    index = sector.astype(np.int64) % 6
    red = np.choose(index, [value, falling, low, low, rising, value])
    green = np.choose(index, [rising, value, value, falling, low, low])
    blue = np.choose(index, [low, low, rising, value, value, falling])
    return np.stack([red, green, blue], axis=2)
