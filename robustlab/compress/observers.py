"""Ranges of activations from calibration data, and the uniform grid that covers them.

An observer sees batches and then names a range (low, high); `affine_grid` turns a range into scale and zero point.
Sources: Krishnamoorthi 2018 ("Quantizing deep convolutional networks", min-max), Jacob et al. 2018 ("Quantization and
training of neural networks", section 3.1, moving average), Migacz 2017 ("8-bit inference with TensorRT", KL), Nagel et
al. 2021 ("A white paper on neural network quantization", section 3.1, percentile and MSE).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustlab.core.errors import check_choice

OBSERVERS = ("minmax", "moving_average", "percentile", "mse", "kl")
_PERCENTILE = 0.9999
_MSE_CANDIDATES = 80
_MOMENTUM = 0.9
_KL_BINS = 2048
_KL_CANDIDATES = 128
_SAMPLE_LIMIT = 1 << 16


def affine_grid(low: float, high: float, bits: int) -> tuple[float, int]:
    """(scale, zero point) of the unsigned grid 0..2^bits - 1 whose values cover [low, high] and hold 0 exactly.

    The range is widened to include 0, so that zero padding is one of the grid's values; the scale is a float32 number.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    levels = (1 << bits) - 1
    scale = float(torch.tensor((high - low) / levels, dtype=torch.float32))
    if scale < torch.finfo(torch.float32).tiny:
        return 1.0, 0
    return scale, min(levels, max(0, round(-low / scale)))


def _prime_from(low: int) -> int:
    """The smallest prime >= low, or 1 for 1."""
    candidate = low
    while any(candidate % divisor == 0 for divisor in range(2, math.isqrt(candidate) + 1)):
        candidate += 1
    return candidate


class RangeObserver:
    """Collects what one of the range rules needs, in constant memory.

    ``minmax``: smallest and largest value seen. ``moving_average``: exponential moving averages of the batches'
    smallest and largest values, 0.9 of the old one each time. ``percentile``: the 0.01 % and 99.99 % quantiles.
    ``mse``: the shrunken min-max range whose grid has the least squared error. ``kl``: the shrunken range whose
    histogram loses the least information, see `kl_range`. The last three judge by a strided subsample of about 65,536
    values per batch, thinner as batches come, so they are deterministic. The stride is a prime: one that shares a
    factor with the width of a feature map would see only some of its columns.
    """

    def __init__(self, rule: str, bits: int) -> None:
        self.rule = check_choice("observer", rule, OBSERVERS)
        self.bits = bits
        self.low = float("inf")
        self.high = float("-inf")
        self.finite = True
        self._average: tuple[float, float] | None = None
        self._stride = 1
        self._sample = torch.empty(0)

    def observe(self, x: Tensor) -> None:
        """See one batch of activations, any shape."""
        if not x.numel():
            return
        values = x.detach().float()
        low, high = (float(v) for v in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            self.finite = False
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        old_low, old_high = self._average or (low, high)
        self._average = (_MOMENTUM * old_low + (1 - _MOMENTUM) * low, _MOMENTUM * old_high + (1 - _MOMENTUM) * high)
        if self.rule in ("minmax", "moving_average"):
            return
        flat = values.flatten()
        step = _prime_from(max(1, flat.numel() // _SAMPLE_LIMIT) * self._stride)
        self._sample = torch.cat([self._sample, flat[::step]])
        while self._sample.numel() > 4 * _SAMPLE_LIMIT:
            self._sample = self._sample[::2].clone()
            self._stride *= 2

    def grid(self) -> tuple[float, int]:
        """(scale, zero point) by the rule, for what was seen."""
        if self.low > self.high:
            return 1.0, 0
        if self.rule == "percentile":
            ordered = self._sample.sort().values
            last = ordered.numel() - 1
            low = float(ordered[round((1 - _PERCENTILE) * last)])
            return affine_grid(low, float(ordered[round(_PERCENTILE * last)]), self.bits)
        if self.rule == "mse":
            return self._least_squares()
        if self.rule == "kl":
            return affine_grid(*kl_range(self._sample, self.bits), self.bits)
        if self.rule == "moving_average":
            assert self._average is not None
            return affine_grid(*self._average, self.bits)
        return affine_grid(self.low, self.high, self.bits)

    def _least_squares(self) -> tuple[float, int]:
        best, chosen = float("inf"), affine_grid(self.low, self.high, self.bits)
        for step in range(_MSE_CANDIDATES):
            keep = 1 - step / _MSE_CANDIDATES
            scale, zero = affine_grid(self.low * keep, self.high * keep, self.bits)
            codes = torch.clamp(torch.round(self._sample / scale) + zero, 0, (1 << self.bits) - 1)
            error = float(((codes - zero) * scale - self._sample).square().mean())
            if error < best:
                best, chosen = error, (scale, zero)
        return chosen


def kl_range(values: Tensor, bits: int) -> tuple[float, float]:
    """The range (low, high) whose 2^bits levels keep most of the information in `values` (Migacz 2017).

    A histogram of 2,048 bins covers the values and 0. Of 128 candidates that keep k/128 of the bins on either side of
    0, the one is chosen with the smallest KL(P, Q): P is the part of the histogram inside, with everything outside
    added to the nearest bin that is not empty; Q is the part inside without that, its bins merged into 2^bits groups of
    equal width as far as possible, and every group's count spread evenly over its bins that are not empty. Candidates
    that hold no value, or fewer bins than levels, are out. Zeros are not counted: every grid holds them exactly, and
    behind ReLU they would drown everything else.
    """
    values = values[values != 0]
    if not values.numel():
        return 0.0, 0.0
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    width = (high - low) / _KL_BINS
    bins = ((values.double() - low) / width).long().clamp(0, _KL_BINS - 1)
    counts = torch.bincount(bins, minlength=_KL_BINS).double()
    left = round(-low / width)  # bins below 0
    best, chosen = float("inf"), (low, high)
    for kept in range(_KL_CANDIDATES, 0, -1):
        first = left - round(left * kept / _KL_CANDIDATES)
        last = left + round((_KL_BINS - left) * kept / _KL_CANDIDATES)
        if last - first < (1 << bits):
            break
        loss = _information_lost(counts, first, last, 1 << bits)
        if loss < best:
            best, chosen = loss, (low + first * width, low + last * width)
    return chosen


def _information_lost(counts: Tensor, first: int, last: int, levels: int) -> float:
    """KL(P, Q) for the bins first..last - 1, see `kl_range`; infinite if all of them are empty."""
    inside = counts[first:last]
    some = inside.nonzero().flatten()
    if not len(some):
        return float("inf")
    p = inside.clone()
    p[some[0]] += counts[:first].sum()
    p[some[-1]] += counts[last:].sum()
    group = torch.arange(last - first) * levels // (last - first)
    filled = (inside > 0).double()
    total = torch.zeros(levels, dtype=torch.float64).index_add_(0, group, inside)
    bins = torch.zeros(levels, dtype=torch.float64).index_add_(0, group, filled)
    q = filled * (total / bins.clamp(min=1))[group]
    p, q = p[some] / p.sum(), q[some] / q.sum()
    return float((p * (p / q).log()).sum())


def weight_scale(weight: Tensor, bits: int, rule: str) -> Tensor:
    """Symmetric scale per output channel, float32 (O,), for codes in [-(2^(bits-1) - 1), 2^(bits-1) - 1].

    ``minmax`` uses the largest magnitude, and so do ``moving_average`` and ``kl``, which are about what changes from
    image to image (TensorRT takes the largest magnitude of weights as well); ``percentile`` the 99.99 % quantile;
    ``mse`` the shrunken maximum with the least squared error per channel. A channel of zeros gets scale 1.
    """
    check_choice("observer", rule, OBSERVERS)
    flat = weight.detach().float().flatten(1)
    levels = (1 << (bits - 1)) - 1
    largest = flat.abs().quantile(_PERCENTILE, dim=1) if rule == "percentile" else flat.abs().amax(dim=1)
    scale = largest / levels
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
    if rule != "mse":
        return scale
    best = torch.full_like(scale, float("inf"))
    chosen = scale.clone()
    for step in range(_MSE_CANDIDATES):
        candidate = scale * (1 - step / _MSE_CANDIDATES)
        codes = torch.round(flat / candidate[:, None]).clamp(-levels, levels)
        error = (codes * candidate[:, None] - flat).square().sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        chosen = torch.where(better, candidate, chosen)
    return chosen


def weight_range(flat: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """(start, end), float32 (R,) each, of rows of weights (R, n), widened to hold 0.

    ``percentile`` takes the 0.01 % and 99.99 % quantiles, the other rules of `OBSERVERS` the smallest and the largest.
    """
    check_choice("observer", rule, OBSERVERS)
    if rule == "percentile":
        ends = torch.quantile(flat, torch.tensor([1 - _PERCENTILE, _PERCENTILE]), dim=1)
        start, end = ends[0], ends[1]
    else:
        start, end = flat.amin(dim=1), flat.amax(dim=1)
    return start.clamp(max=0), end.clamp(min=0)
