"""The laws of the random corruptions: moments, rates and Kolmogorov-Smirnov distances of many draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from robustlab.core.keys import sample_keys
from robustlab.datasets.corruptions import CIFAR_10_C, CORRUPTIONS, IMAGENET_C, corrupt

SIDE = 200
COUNT = 3 * SIDE * SIDE


def flat(level):
    return torch.full((1, 3, SIDE, SIDE), level, dtype=torch.uint8)


@pytest.mark.parametrize("level", [20, 90, 200])
@pytest.mark.parametrize("severity", [1, 5])
def test_shot_noise_is_poisson(level, severity):
    photons = IMAGENET_C.shot_noise[severity - 1]
    result = corrupt(flat(level), "shot_noise", severity, sample_keys(1, "shot", [level]), "imagenet-c").numpy()
    rate = photons * level / 255
    counts = np.arange(int(photons))  # beyond them values are clipped
    levels = (np.clip(counts / photons, 0, 1) * 255).astype(np.uint8)
    expected = stats.poisson.pmf(counts, rate) * COUNT
    seen = np.array([(result == value).sum() for value in levels])
    large = expected > 20
    statistic = ((seen - expected) ** 2 / expected)[large].sum()
    assert stats.chi2.sf(statistic, large.sum()) > 1e-5


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_impulse_noise_replaces_the_stated_share_half_and_half_and_channels_apart(severity):
    share = IMAGENET_C.impulse_noise[severity - 1]
    result = corrupt(flat(100), "impulse_noise", severity, sample_keys(1, "salt", [0]), "imagenet-c")[0].numpy()
    salt, pepper = (result == 255), (result == 0)
    error = 5 * np.sqrt(share / 2 / COUNT)
    assert abs(salt.mean() - share / 2) < error and abs(pepper.mean() - share / 2) < error
    assert np.isin(result, (0, 100, 255)).all()
    struck = (salt | pepper).reshape(3, -1)
    assert np.abs(np.corrcoef(struck) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise"])
def test_noise_is_normal(name):
    noise = CORRUPTIONS[name].draw(sample_keys(2, name, [0]), (SIDE, SIDE), 1, IMAGENET_C)["noise"].numpy().ravel()
    assert stats.kstest(noise, "norm").pvalue > 1e-4
    level, severity = 128, 1
    deviation = getattr(IMAGENET_C, name)[severity - 1] * (level / 255 if name == "speckle_noise" else 1)
    result = corrupt(flat(level), name, severity, sample_keys(2, name, [1]), "imagenet-c").numpy().astype(float)
    # Truncated to whole levels: half a level lower on average, and a twelfth more variance.
    assert abs(result.mean() - (level - 0.5)) < 5 * 255 * deviation / np.sqrt(COUNT)
    assert abs(result.std() / np.hypot(255 * deviation, 1 / np.sqrt(12)) - 1) < 0.01


def test_angles_are_uniform():
    keys = sample_keys(3, "many", range(1500))
    angles = CORRUPTIONS["motion_blur"].draw(keys, (16, 16), 1, CIFAR_10_C)["angle"].numpy()
    assert stats.kstest(angles, stats.uniform(-45, 90).cdf).pvalue > 1e-4


def test_glass_moves_pixels_by_at_most_the_reach_each_pass():
    size, reach = (24, 24), 2
    source = CORRUPTIONS["glass_blur"].draw(sample_keys(4, "g", range(20)), size, 2, IMAGENET_C)["source"].numpy()
    place = np.arange(24 * 24)
    moved = source != place
    # A pixel stays with probability 1 / (2 reach)^2 where it is visited, up to what a chain brings back.
    inner = np.zeros(size, bool)
    inner[reach + 1 : 24 - reach + 1, reach + 1 : 24 - reach + 1] = True
    assert not moved[:, ~inner.ravel()].any()
    assert 0.85 < moved[:, inner.ravel()].mean() < 1 - 0.03


def test_fog_has_more_power_at_coarse_scales():
    layer = CORRUPTIONS["fog"].draw(sample_keys(5, "fog", range(20)), (256, 256), 3, IMAGENET_C)["layer"].numpy()
    assert layer.min() >= 0 and layer.max() <= 1
    power = (np.abs(np.fft.rfft2(layer - layer.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    bands = [power[1 : 2 ** (k + 1), 2**k : 2 ** (k + 1)].mean() for k in range(6)]
    assert all(a > b for a, b in itertools.pairwise(bands))
