"""Banks made once per split from the seed: street textures (sky, leaves, walls, clutter), dirt and sensor noise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from robustlab.core.keys import generators, sample_keys

BANK_SIZE = 64
TEXTURE_SIZE = 128
NOISE_SIZE = 1 << 20

# (dark colour, light colour, weight of each octave from 2 to 64 cells) of each kind of scenery.
_KINDS: tuple[tuple[tuple[int, int, int], tuple[int, int, int], tuple[float, ...]], ...] = (
    ((120, 160, 210), (235, 240, 250), (1.0, 0.8, 0.4, 0.1, 0.05, 0.02)),
    ((18, 36, 14), (122, 150, 70), (0.5, 0.6, 0.8, 0.9, 1.0, 0.8)),
    ((70, 56, 46), (196, 176, 152), (0.9, 0.6, 0.3, 0.3, 0.3, 0.4)),
    ((52, 54, 58), (142, 142, 140), (0.6, 0.5, 0.3, 0.3, 0.5, 0.9)),
    ((30, 34, 44), (200, 190, 170), (1.0, 1.0, 0.7, 0.5, 0.3, 0.2)),
)


def _octaves(generator: np.random.Generator, weights: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Value noise float32 (TEXTURE_SIZE, TEXTURE_SIZE) in [0, 1]: random grids of growing fineness, added up."""
    total = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE), dtype=np.float32)
    for octave, weight in enumerate(weights):
        cells = 2 << octave
        grid = Image.fromarray(generator.random((cells, cells), dtype=np.float32) - np.float32(0.5))
        layer = np.asarray(grid.resize((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.BICUBIC), dtype=np.float32)
        total += np.float32(weight) * layer
    low, high = total.min(), total.max()
    scaled: np.ndarray[Any, np.dtype[np.float32]] = (total - low) / (high - low)
    return scaled


def _texture(generator: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One texture float32 (TEXTURE_SIZE, TEXTURE_SIZE, 3) in [0, 255]."""
    dark, light, weights = _KINDS[int(generator.random() * len(_KINDS))]
    tint = 0.85 + 0.3 * generator.random(3, dtype=np.float32)
    mix = _octaves(generator, weights)[..., None]
    image = (np.asarray(dark, np.float32) * (1 - mix) + np.asarray(light, np.float32) * mix) * tint
    # Rectangles stand for windows, bricks, cars and boards; vertical bars for posts and trunks.
    for _ in range(int(generator.random() * 14)):
        x, y, w, h = (int(v) for v in generator.random(4) * np.array([128, 128, 50, 50]))
        w, h = (3 + w // 6, TEXTURE_SIZE) if generator.random() < 0.25 else (w + 4, h + 4)
        colour = generator.random(3, dtype=np.float32) * np.float32(235)
        grey = colour.mean(dtype=np.float32)
        colour = grey + (colour - grey) * np.float32(0.6) * generator.random(dtype=np.float32)
        part = image[y : y + h, x : x + w]
        part[...] = part * np.float32(0.3) + colour * np.float32(0.7)
    texture: np.ndarray[Any, np.dtype[np.float32]] = np.clip(image, 0, 255)
    return texture


@lru_cache(maxsize=8)
def bank(seed: int, split: str) -> tuple[Image.Image, ...]:
    """`BANK_SIZE` RGB textures of `TEXTURE_SIZE` pixels square; each split has its own."""
    keys = sample_keys(seed, f"signs-{split}-backgrounds", range(BANK_SIZE))
    return tuple(Image.fromarray(_texture(g).astype(np.uint8)) for g in generators(keys))


@lru_cache(maxsize=8)
def masks(seed: int, split: str) -> tuple[Image.Image, ...]:
    """16 blotch masks (mode L) of `TEXTURE_SIZE` pixels square, mostly 0, for dirt, leaves and faded paint."""
    keys = sample_keys(seed, f"signs-{split}-masks", range(16))
    fields = [_octaves(g, (0.3, 0.5, 1.0, 0.7, 0.3, 0.1)) for g in generators(keys)]
    return tuple(Image.fromarray(np.clip((f - 0.55) * 900, 0, 255).astype(np.uint8)) for f in fields)


@lru_cache(maxsize=8)
def sensor_noise(seed: int, split: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """`NOISE_SIZE` standard normal values; a crop reads its own stretch, as fresh ones would be a third of its time."""
    generator = next(generators(sample_keys(seed, f"signs-{split}-noise", [0])))
    values: np.ndarray[Any, np.dtype[np.float32]] = generator.standard_normal(NOISE_SIZE, dtype=np.float32)
    values.flags.writeable = False
    return values
