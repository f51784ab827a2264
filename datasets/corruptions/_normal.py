"""Normal numbers by inversion: a table of the quantile function instead of rejection, value by value and vectorised."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

_SIGN, _MAGNITUDE = -(2**31), 2**31 - 1
# A cell of the table is an exponent and the first 8 bits of the mantissa of a float32: tails are resolved as finely as
# the middle, relative to their probability.
_CELL_BITS = 8
_DROPPED = 23 - _CELL_BITS
_FIRST = (127 - 1) << _CELL_BITS  # the cell of 0.5
_CELLS = (31 - (-1) + 1) << _CELL_BITS  # up to that of 2^31


@lru_cache(maxsize=1)
def _quantiles() -> tuple[Tensor, Tensor]:
    """float32 (_CELLS,) twice: in every cell the quantile of v / 2^32 below 0, as constant plus slope times v."""
    bits = (np.arange(_CELLS + 1, dtype=np.int32) + _FIRST) << _DROPPED
    edges = bits.view(np.float32).astype(np.float64)
    inverse = NormalDist().inv_cdf
    heights = np.array([-inverse(min(v / 2.0**32, 0.5)) for v in edges.tolist()])
    slope = np.diff(heights) / np.diff(edges)
    constant = heights[:-1] - slope * edges[:-1]
    return torch.from_numpy(constant.astype(np.float32)), torch.from_numpy(slope.astype(np.float32))


def standard_normal(words: Tensor) -> Tensor:
    """float32 of the same shape, one normal number for 32 random bits each (int32).

    One bit is the sign, the others are the probability of the tail; the quantile is interpolated linearly, with an
    error of at most 1e-6. The largest number is 6.3 deviations.
    """
    constant, slope = (table.to(words.device) for table in _quantiles())
    tail = words.bitwise_and(_MAGNITUDE).to(torch.float32).add_(0.5)
    cell = (tail.view(torch.int32) >> _DROPPED).sub_(_FIRST).reshape(-1)
    result = slope.index_select(0, cell).mul_(tail.reshape(-1)).add_(constant.index_select(0, cell))
    result.view(torch.int32).bitwise_or_(words.reshape(-1).bitwise_and(_SIGN))
    return result.reshape(words.shape)
