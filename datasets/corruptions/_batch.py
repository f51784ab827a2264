"""What the corruptions share: batches of 8-bit images, named draws, and one stream per key."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlab.core import keys as _keys

Size = tuple[int, int]
Draws = Mapping[str, Tensor]
NOTHING: Draws = {}


def per_key(keys: Tensor, one: Callable[[np.random.Generator], NDArray[np.generic]]) -> Tensor:
    """What `one` makes of each key's own generator, stacked along a new first dimension."""
    return torch.from_numpy(np.stack([one(generator) for generator in _keys.generators(keys)]))


def normals(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """float32 (N, *shape), standard normal."""
    result = torch.empty((len(keys), *shape), dtype=torch.float32)
    for generator, row in zip(_keys.generators(keys), result.numpy(), strict=True):
        generator.standard_normal(out=row, dtype=np.float32)
    return result


def uniforms(
    keys: Tensor, shape: tuple[int, ...], low: float, high: float, dtype: torch.dtype = torch.float64
) -> Tensor:
    """float64 or float32 (N, *shape), uniform in [low, high)."""
    result = torch.empty((len(keys), *shape), dtype=dtype)
    for generator, row in zip(_keys.generators(keys), result.numpy(), strict=True):
        if dtype == torch.float32:
            generator.random(out=row, dtype=np.float32)
        else:
            generator.random(out=row)
    return result.mul_(high - low).add_(low)


def angles(keys: Tensor, low: float, high: float) -> Tensor:
    """float64 (N,), degrees, uniform in [low, high)."""
    return uniforms(keys, (1,), low, high).squeeze(1)


def words(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """int32 (N, *shape): 32 random bits each."""
    result = torch.empty((len(keys), *shape), dtype=torch.int32)
    for generator, row in zip(_keys.generators(keys), result.numpy(), strict=True):
        row.reshape(-1).view(np.uint8)[:] = np.frombuffer(generator.bytes(row.nbytes), np.uint8)
    return result


def positions(mask: Tensor) -> Tensor:
    """int64 (K,): where a mask is True, as places in its flattened form."""
    if mask.device.type == "cpu":  # NumPy finds few places among many faster
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero().squeeze(1)


def truncated(levels: Tensor) -> Tensor:
    """uint8 of float levels, clipped to [0, 255] and *truncated*: the published files were made so."""
    return levels.clamp_(0, 255).to(torch.uint8)


def to_unit(pixels: Tensor) -> Tensor:
    """float64 in [0, 1], divided as the published scripts do."""
    return pixels.to(torch.float64).div_(255)


def from_unit(x: Tensor) -> Tensor:
    """uint8 of float64 in image units, in the published order: clip, times 255, truncate."""
    return x.clamp_(0, 1).mul_(255).to(torch.uint8)
