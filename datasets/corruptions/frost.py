"""Frost: a crop of a photographed (or made) texture of ice, mixed into the image."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustlab.core.errors import DataError
from robustlab.datasets.corruptions._batch import Draws, Size, per_key, truncated
from robustlab.datasets.corruptions.tables import Table

# The published scripts hold six textures and draw from the first five.
FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
TEXTURES = len(FILES)
_MADE_SIZE = (420, 560)


def textures_folder() -> Path | None:
    """The folder of the original textures: `frost` in the folder that ROBUSTLAB_DATA names, where it exists."""
    data = os.environ.get("ROBUSTLAB_DATA")
    folder = Path(data) / "frost" if data else None
    return folder if folder is not None and folder.is_dir() else None


@lru_cache(maxsize=TEXTURES)
def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise DataError(f"frost texture {path}: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@lru_cache(maxsize=TEXTURES)
def made_texture(index: int) -> Tensor:
    """uint8 (3, H, W): a texture of ice made from noise, for where the original photographs are not at hand.

    Feathers of ice are ridges of noise that is stretched along one direction and bent by coarser noise; the colour is
    a pale blue over a dark pane. Mean and contrast are close to those of the originals.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([index, 1], dtype=np.uint64)))
    height, width = _MADE_SIZE
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    bend = [_value_noise(generator, x / 160, y / 160) * 90 for _ in range(2)]
    ice = torch.zeros(_MADE_SIZE)
    for scale, weight in ((48.0, 1.0), (24.0, 0.7), (12.0, 0.5), (6.0, 0.35)):
        angle = float(generator.uniform(0, np.pi))
        along = (np.cos(angle) * (x + bend[0]) + np.sin(angle) * (y + bend[1])) / (5 * scale)
        across = (np.cos(angle) * (y + bend[1]) - np.sin(angle) * (x + bend[0])) / scale
        ice += weight * (1 - 2 * _value_noise(generator, along, across).abs())
    cover = _value_noise(generator, x / 120, y / 120) * 0.8 + 0.9
    ice = ((ice / 2.55).clamp(0, 1) ** 1.5 * cover).clamp(0, 1)
    colour = torch.tensor([0.82, 0.93, 1.0]).reshape(3, 1, 1)
    return (ice * colour * 225 + 25).clamp(0, 255).to(torch.uint8)


def _value_noise(generator: np.random.Generator, x: Tensor, y: Tensor) -> Tensor:
    """Smoothly interpolated noise in [-1, 1] on a lattice of side 64 that repeats."""
    lattice = torch.from_numpy(generator.uniform(-1, 1, (64, 64)).astype(np.float32))
    low_x, low_y = x.floor(), y.floor()
    u, v = ((f * f * (3 - 2 * f)) for f in (x - low_x, y - low_y))
    i, j = low_y.long() % 64, low_x.long() % 64
    i1, j1 = (i + 1) % 64, (j + 1) % 64
    top = lattice[i, j] * (1 - u) + lattice[i, j1] * u
    bottom = lattice[i1, j] * (1 - u) + lattice[i1, j1] * u
    return top * (1 - v) + bottom * v


def fitted(texture: Tensor, size: Size, scale: float) -> Tensor:
    """The texture uint8 (3, h, w) as crops of `size` are taken from it: shrunk by `scale` as the benchmark does, and
    enlarged where it would not be at least one pixel larger than the crop on both sides."""
    height, width = texture.shape[1:]
    target = [round(height * scale), round(width * scale)]
    step = (1 / scale, 1 / scale)
    grow = max((size[0] + 1) / target[0], (size[1] + 1) / target[1])
    if grow > 1:
        target = [max(round(side * grow), crop + 1) for side, crop in zip(target, size, strict=True)]
        step = (height / target[0], width / target[1])
    if target == [height, width]:
        return texture
    # Plain bilinear sampling at pixel centres, without a low-pass filter: as OpenCV shrinks.
    rows, columns = (
        ((torch.arange(n, dtype=torch.float64) + 0.5) * s - 0.5).clamp(0, side - 1)
        for n, s, side in zip(target, step, (height, width), strict=True)
    )
    x = _lerp(_lerp(texture.to(torch.float64), rows, 1), columns, 2)
    return (x + 0.5).floor_().to(torch.uint8)


def _lerp(x: Tensor, position: Tensor, dim: int) -> Tensor:
    low = position.floor()
    high = (low + 1).clamp_(max=x.shape[dim] - 1)
    weight = (position - low).reshape([-1 if d == dim else 1 for d in range(3)])
    below = x.index_select(dim, low.long())
    return below + (x.index_select(dim, high.long()) - below) * weight


@lru_cache(maxsize=8 * TEXTURES)
def _fitted_original(index: int, folder: Path, size: Size, scale: float) -> Tensor:
    return fitted(_read(folder / FILES[index]), size, scale)


@lru_cache(maxsize=8 * TEXTURES)
def _fitted_made(index: int, size: Size, scale: float) -> Tensor:
    return fitted(made_texture(index), size, scale)


def draw_frost(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`layer`: uint8 (N, 3, H, W), crops of the original textures. Raises `DataError` where they are missing."""
    folder = textures_folder()
    if folder is None:
        raise DataError("the frost textures are missing: ROBUSTLAB_DATA names no folder that contains frost/")
    textures = [_fitted_original(i, folder, size, table.frost_scale) for i in range(TEXTURES)]
    return {"layer": _crops(keys, size, textures)}


def draw_made_frost(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`layer`: uint8 (N, 3, H, W), crops of the textures that are made from noise."""
    return {"layer": _crops(keys, size, [_fitted_made(i, size, table.frost_scale) for i in range(TEXTURES)])}


def _crops(keys: Tensor, size: Size, textures: list[Tensor]) -> Tensor:
    def place(generator: np.random.Generator) -> np.ndarray:
        index = int(generator.integers(TEXTURES))
        rows, columns = textures[index].shape[1:]
        return np.array([index, generator.integers(rows - size[0]), generator.integers(columns - size[1])])

    return torch.stack(
        [
            textures[index][:, row : row + size[0], column : column + size[1]]
            for index, row, column in per_key(keys, place).tolist()
        ]
    )


def frost(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """A weighted sum of image and texture, clipped."""
    image, texture = table.frost[severity - 1]
    return truncated(pixels.to(torch.float64).mul_(image).add_(draws["layer"].to(torch.float64).mul_(texture)))
