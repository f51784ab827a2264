"""Ranges of activations from calibration data, and the uniform grid that covers them.

An observer sees batches and then names a range (low, high); `affine_grid` turns a range into scale and zero point.
Sources: Krishnamoorthi 2018 ("Quantizing deep convolutional networks", min-max), Nagel et al. 2021 ("A white paper
on neural network quantization", section 3.1, percentile and MSE).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustlab.core.errors import check_choice

OBSERVERS = ("minmax", "percentile", "mse")
_PERCENTILE = 0.9999
_MSE_CANDIDATES = 80
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
    """Collects what one of the three range rules needs, in constant memory.

    ``minmax``: smallest and largest value seen. ``percentile``: the 0.01 % and 99.99 % quantiles. ``mse``: the
    shrunken min-max range whose grid has the least squared error. The last two judge by a strided subsample of about
    65,536 values per batch, thinner as batches come, so they are deterministic. The stride is a prime: one that shares
    a factor with the width of a feature map would see only some of its columns.
    """

    def __init__(self, rule: str, bits: int) -> None:
        self.rule = check_choice("observer", rule, OBSERVERS)
        self.bits = bits
        self.low = float("inf")
        self.high = float("-inf")
        self.finite = True
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
        if self.rule == "minmax":
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


def weight_scale(weight: Tensor, bits: int, rule: str) -> Tensor:
    """Symmetric scale per output channel, float32 (O,), for codes in [-(2^(bits-1) - 1), 2^(bits-1) - 1].

    ``minmax`` uses the largest magnitude; ``percentile`` the 99.99 % quantile; ``mse`` the shrunken maximum with the
    least squared error per channel. A channel of zeros gets scale 1.
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
