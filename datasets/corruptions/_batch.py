"""What the corruptions share: batches of 8-bit images, named draws, and one stream per key."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlab.core import keys as _keys
from robustlab.datasets.corruptions._normal import standard_normal

Size = tuple[int, int]
Draws = Mapping[str, Tensor]
NOTHING: Draws = {}
_TOGETHER = 8  # bools in 64 bits


def per_key(keys: Tensor, one: Callable[[np.random.Generator], NDArray[np.generic]]) -> Tensor:
    """What `one` makes of each key's own generator, stacked along a new first dimension."""
    return torch.from_numpy(np.stack([one(generator) for generator in _keys.generators(keys)]))


def normals(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """float32 (N, *shape), standard normal."""
    return standard_normal(words(keys, shape))


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
        # The bits of `generator.bytes`, without its detour.
        raw = generator.bit_generator.random_raw(-(-row.size // 2))
        row.reshape(-1).view(np.uint32)[:] = raw.astype("<u8", copy=False).view("<u4")[: row.size]
    return result


def places_above(x: Tensor, limit: float) -> Tensor:
    """int64 (K,): where x is above a limit, as places in its flattened form; fast where those are few."""
    if x.device.type != "cpu":
        return (x > limit).reshape(-1).nonzero().squeeze(1)
    above = (x.numpy() > limit).reshape(-1)
    whole = len(above) // _TOGETHER * _TOGETHER
    # Eight at a time, then one by one within those.
    groups = np.flatnonzero(above[:whole].view(np.uint64))
    near = (groups[:, None] * _TOGETHER + np.arange(_TOGETHER)).reshape(-1)
    return torch.from_numpy(np.concatenate([near[above[near]], whole + np.flatnonzero(above[whole:])]))


def as_levels(x: Tensor) -> Tensor:
    """uint8 of floats in [0, 255], truncated."""
    if x.device.type == "cpu":  # NumPy's conversion is several times as fast
        return torch.from_numpy(x.numpy().astype(np.uint8))
    return x.to(torch.uint8)


def truncated(levels: Tensor) -> Tensor:
    """uint8 of float levels, clipped to [0, 255] and *truncated*: the published files were made so."""
    return as_levels(levels.clamp_(0, 255))


def to_unit(pixels: Tensor) -> Tensor:
    """float64 in [0, 1], divided as the published scripts do."""
    return pixels.to(torch.float64).div_(255)


def from_unit(x: Tensor) -> Tensor:
    """uint8 of float64 in image units, in the published order: clip, times 255, truncate."""
    return as_levels(x.clamp_(0, 1).mul_(255))


def same(x: Tensor, value: int) -> Tensor:
    """Where uint8 x is `value`, as uint8: 255 or 0. Comparing with a full tensor is vectorised, with a number not."""
    return mask(x == torch.full_like(x, value))


def mask(condition: Tensor) -> Tensor:
    """uint8 255 where a bool tensor is True, else 0."""
    return condition.view(torch.uint8).neg()


def pick(where: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """uint8 a where the mask `where` is 255, b where it is 0; several times as fast as `torch.where`."""
    return a.bitwise_xor(b).bitwise_and_(where).bitwise_xor_(b)
