"""The moving average and the KL observer against computations of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustlab.compress.observers import RangeObserver, affine_grid, kl_range, weight_scale


def by_numpy(values: np.ndarray, bits: int) -> tuple[float, float]:
    """Entropy calibration as Migacz 2017 describes it, loop by loop, on either side of zero."""
    values = values[values != 0].astype(np.float64)
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    counts = np.histogram(values, bins=2048, range=(low, high))[0].astype(np.float64)
    width = (high - low) / 2048
    left = round(-low / width)
    losses = {}
    for kept in range(128, 0, -1):
        first, last = left - round(left * kept / 128), left + round((2048 - left) * kept / 128)
        size, levels = last - first, 2**bits
        if size < levels:
            continue
        reference = counts[first:last].copy()
        if not reference.any():
            continue
        reference[np.flatnonzero(counts[first:last])[0]] += counts[:first].sum()
        reference[np.flatnonzero(counts[first:last])[-1]] += counts[last:].sum()
        candidate = np.zeros(size)
        for level in range(levels):
            members = [i for i in range(size) if i * levels // size == level]
            filled = [i for i in members if counts[first + i] > 0]
            for i in filled:
                candidate[i] = counts[first + np.array(members)].sum() / len(filled)
        p, q = reference / reference.sum(), candidate / candidate.sum()
        losses[kept] = float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))
    kept = min(losses, key=lambda k: (round(losses[k], 12), -k))
    first, last = left - round(left * kept / 128), left + round((2048 - left) * kept / 128)
    return low + first * width, low + last * width


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("kind", ["relu", "signed", "outlier"])
def test_kl_ranges_equal_those_of_an_independent_computation(kind: str, bits: int) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(bits))
    if kind == "relu":
        x = x.clamp(min=0)
    elif kind == "outlier":
        x = torch.cat([x.abs(), torch.tensor([30.0])])
    low, high = kl_range(x, bits)
    assert (low, high) == pytest.approx(by_numpy(x.numpy(), bits), rel=1e-9, abs=1e-12)
    observer = RangeObserver("kl", bits)
    observer.observe(x)
    assert observer.grid() == affine_grid(low, high, bits)


def test_kl_cuts_an_outlier_off_that_minmax_keeps() -> None:
    x = torch.cat([torch.rand(50_000, generator=torch.Generator().manual_seed(0)), torch.tensor([40.0])])
    scales = {}
    for rule in ("kl", "minmax"):
        observer = RangeObserver(rule, 4)
        observer.observe(x)
        scales[rule] = observer.grid()[0]
    assert scales["minmax"] == pytest.approx(40 / 15)
    assert scales["kl"] < 0.5


def test_kl_of_zeros_and_of_one_value() -> None:
    assert kl_range(torch.zeros(10), 8) == (0.0, 0.0)
    low, high = kl_range(torch.full((10,), -2.0), 8)
    assert (low, high) == (-2.0, 0.0)


def test_the_moving_average_follows_the_batches() -> None:
    observer = RangeObserver("moving_average", 8)
    for low, high in ((-1.0, 4.0), (-2.0, 6.0), (0.0, 2.0)):
        observer.observe(torch.tensor([low, high]))
    low = 0.9 * (0.9 * -1 + 0.1 * -2) + 0.1 * 0
    high = 0.9 * (0.9 * 4 + 0.1 * 6) + 0.1 * 2
    assert observer.grid() == affine_grid(low, high, 8)


@pytest.mark.parametrize("rule", ["moving_average", "kl"])
def test_weights_take_their_largest_magnitude(rule: str) -> None:
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weight_scale(weight, 4, rule), weight_scale(weight, 4, "minmax"))
