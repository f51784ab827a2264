"""Elastic transform: a random affine map, then a smooth random displacement of every pixel."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from robustlab.core.keys import derive
from robustlab.datasets.corruptions._batch import Draws, Size, truncated, uniforms, words
from robustlab.datasets.corruptions._filters import border_index, gaussian, gaussian_weights
from robustlab.datasets.corruptions.tables import Table

_TRUNCATE = 3.0
# Above this radius a product with the whole filter matrix is faster than going tap by tap.
_LONG = 24


def draw_elastic(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`affine`: float64 (N, 2, 3), from places in the result to places (x, y) in the image; `field`: float32
    (N, 2, H, W), what is then added to x and to y."""
    # Lengths are those of the benchmark's images; smaller images get proportionally less, so that the jitter of the
    # corners never folds the image over.
    shrink = min(1.0, min(size) / table.elastic_side)
    amplitude, sigma, jitter = (shrink * length for length in table.elastic_transform[severity - 1])
    corners = uniforms(derive(keys, "corners"), (3, 2), -jitter, jitter)
    return {"affine": affine_map(corners, size), "field": displacement(keys, size, amplitude, sigma)}


def affine_map(jitter: Tensor, size: Size) -> Tensor:
    """The inverse of the affine map that moves three corners of the middle square by `jitter` (N, 3, 2) pixels."""
    height, width = size
    centre = np.array([width, height], np.float32) // 2
    side = min(size) // 3
    corners = np.array([centre + side, [centre[0] + side, centre[1] - side], centre - side], np.float64)
    moved = jitter.cpu().numpy().astype(np.float32).astype(np.float64) + corners
    ones = np.ones((len(moved), 3, 1))
    # Rows (x, y, 1) times the map's transpose give the corner: three equations for each coordinate.
    back = np.linalg.solve(np.concatenate([moved, ones], axis=2), np.broadcast_to(corners, moved.shape))
    return torch.from_numpy(np.ascontiguousarray(back.transpose(0, 2, 1)))


def displacement(keys: Tensor, size: Size, amplitude: float, sigma: float) -> Tensor:
    """Two smoothed uniform fields (N, 2, H, W), in pixels."""
    if amplitude == 0:
        return torch.zeros((len(keys), 2, *size))
    # 16 random bits are enough for what is averaged over a neighbourhood and then moves pixels by some of them.
    bits = words(keys, (size[0], size[1])).view(torch.int16).reshape(-1, 2, *size)
    return smooth(bits.to(torch.float32).add_(0.5), sigma).mul_(amplitude / 2**15)


def smooth(field: Tensor, sigma: float) -> Tensor:
    """Gaussian filter over the last two dimensions, cut off at three deviations, with a mirrored border."""
    if len(gaussian_weights(sigma, _TRUNCATE)) - 1 <= _LONG:
        return gaussian(field, sigma, "symmetric", _TRUNCATE, exact=False)
    height, width = field.shape[-2:]
    down, across = (_filter_matrix(side, sigma).to(field.dtype) for side in (height, width))
    # One product per image and field: the same shapes, and so the same order of additions, in any batch.
    planes = [down @ plane @ across.mT for plane in field.reshape(-1, height, width)]
    return torch.stack(planes).reshape(field.shape)


@lru_cache(maxsize=16)
def _filter_matrix(length: int, sigma: float) -> Tensor:
    weights = gaussian_weights(sigma, _TRUNCATE)
    radius = len(weights) - 1
    kernel = torch.tensor([*weights[:0:-1], *weights], dtype=torch.float64)
    index = border_index(length, radius, "symmetric")
    windows = index.unfold(0, 2 * radius + 1, 1)
    return torch.zeros((length, length), dtype=torch.float64).scatter_add_(1, windows, kernel.expand(length, -1))


def elastic_transform(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
    """Sample the image at the affine places, mirrored at the border, and the result at the displaced places."""
    height, width = pixels.shape[2:]
    affine, field = draws["affine"], draws["field"]
    x = torch.arange(width, dtype=torch.float64, device=pixels.device)
    y = torch.arange(height, dtype=torch.float64, device=pixels.device).unsqueeze(1)
    by_x, by_y, constant = (affine[:, :, i, None, None] for i in range(3))
    # Places as `grid_sample` counts them: from -1 to 1, between the middles of the outermost pixels at first, then
    # between their outer edges. Only the last step is in float32: an error of 1e-7 there is 1e-5 pixels.
    side = torch.tensor([width, height], dtype=torch.float64, device=pixels.device).reshape(2, 1, 1)
    unit = 2 / (side - 1)
    field = field.to(torch.float32)
    places = (by_x * unit * x).to(torch.float32) + ((by_y * y + constant) * unit - 1).to(torch.float32)
    image = _sampled(pixels.to(torch.float32), places, corners=True)
    places = field * (2 / side).to(torch.float32)
    places[:, 0].add_(((2 * x + 1) / width - 1).to(torch.float32))
    places[:, 1].add_(((2 * y + 1) / height - 1).to(torch.float32))
    return truncated(_sampled(image, places, corners=False).add_(_SNAP))


def elastic_sources(draws: Draws, size: Size, severity: int, table: Table) -> Tensor:
    """float64 (N, 2, H, W): x and y in the image of what is seen at each pixel; NaN for what is a mirror image."""
    height, width = size
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    between = torch.stack([columns, rows]) + draws["field"].to(torch.float64)
    side = torch.tensor([width, height], dtype=torch.float64).reshape(2, 1, 1)
    between = torch.where(((between >= -0.5) & (between <= side - 0.5)).all(1, keepdim=True), between, torch.nan)
    affine = draws["affine"]
    return torch.einsum("nij,njhw->nihw", affine[:, :, :2], between) + affine[:, :, 2, None, None]


# Bilinear weights sum to 1 only up to rounding; this keeps flat areas from falling below their level.
_SNAP = 2.0**-10


def _sampled(image: Tensor, places: Tensor, *, corners: bool) -> Tensor:
    """Bilinear samples at x and y float32 (N, 2, H, W); mirrored about the border pixels (`corners`) or their edges."""
    return grid_sample(image, places.movedim(1, 3), "bilinear", "reflection", align_corners=corners)
