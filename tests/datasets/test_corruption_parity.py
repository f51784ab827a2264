"""Every corruption against the plain restatement of the published algorithms, given the same draws."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.core.keys import sample_keys
from robustlab.datasets.corruptions import CIFAR_10_C, COMMON, CORRUPTIONS, HELD_OUT, IMAGENET_C, glass
from robustlab.datasets.corruptions._filters import gaussian

pytest.importorskip("scipy")

_spec = importlib.util.spec_from_file_location("corruption_pairs", Path(__file__).with_name("corruption_pairs.py"))
assert _spec is not None and _spec.loader is not None
pairs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pairs)

NAMES = (*COMMON, *HELD_OUT)
# Share of channel values that may lie one level beside the oracle's: sums of other precision or order, where the
# exact value is (nearly) a whole level. All the others are equal.
BESIDE = {"defocus_blur": 0.2, "zoom_blur": 0.05, "elastic_transform": 0.01, "spatter": 0.001}
# Of large images the Gaussian blur is summed in float32.
BESIDE_LARGE = {**BESIDE, "gaussian_blur": 0.005}


def picture(height, width, seed=0):
    """Smooth structures, noise, and flat black, white and grey areas, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, 5, 6), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].numpy()
    image = (smooth * 320 - 30 + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    image[:, : height // 4, : width // 3] = 255
    image[:, -height // 5 :, -width // 4 :] = 0
    image[:, height // 2 : height // 2 + 6, :8] = 131
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def check(name, image, severity, table, beside=BESIDE):
    ours, oracle = pairs.pair(name, image, severity, table, np.random.default_rng(severity))
    difference = np.abs(ours.astype(int) - oracle)
    assert ours.shape == image.shape and ours.dtype == np.uint8
    assert difference.max() <= (name in beside)
    assert (difference > 0).mean() <= beside.get(name, 0)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_cifar_size(name, severity):
    check(name, picture(32, 32), severity, CIFAR_10_C)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "fog"])
def test_imagenet_constants_on_another_aspect(name):
    check(name, picture(48, 67), 2, IMAGENET_C)
    check(name, picture(48, 67), 5, IMAGENET_C)


@pytest.mark.slow
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_imagenet_size(name, severity):
    check(name, picture(224, 224), severity, IMAGENET_C, BESIDE_LARGE)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(10, 20), width=st.integers(10, 20), reach=st.integers(1, 4), passes=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_following_chains_of_copies_equals_copying_one_by_one(height, width, reach, passes, seed):
    rng = np.random.default_rng(seed)
    shape = (2, passes, 2, height - 2 * reach, width - 2 * reach)
    moves = rng.integers(-reach, reach, shape).astype(np.int8)
    source = glass.glass_source(torch.from_numpy(moves), (height, width), reach)
    for i in range(2):
        x = np.arange(height * width).reshape(height, width)
        for step in range(passes):
            for h in range(height - reach, reach, -1):
                for w in range(width - reach, reach, -1):
                    dy, dx = moves[i, step, :, h - reach - 1, w - reach - 1].tolist()
                    x[h, w] = x[h + dy, w + dx]
        assert np.array_equal(source[i].numpy(), x.ravel())


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 3.0])
def test_gaussian_is_that_of_scipy_to_the_last_bit(sigma):
    from scipy import ndimage

    x = np.random.default_rng(0).random((2, 17, 23))
    for mode, theirs, truncate in (
        ("nearest", "nearest", 4.0),
        ("symmetric", "reflect", 3.0),
        ("reflect", "mirror", 4),
    ):
        ours = gaussian(torch.from_numpy(x), sigma, mode, truncate).numpy()
        assert np.array_equal(ours, ndimage.gaussian_filter(x, (0, sigma, sigma), mode=theirs, truncate=truncate))


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_named_tensors_of_one_row_per_key(name):
    if name == "frost":
        name = "frost_procedural"
    keys = sample_keys(0, name, range(3))
    for size in ((33, 21), (16, 16)):
        draws = CORRUPTIONS[name].draw(keys, size, 4, CIFAR_10_C)
        assert all(len(value) == 3 for value in draws.values())
        alone = CORRUPTIONS[name].draw(keys[1:2], size, 4, CIFAR_10_C)
        assert all(torch.equal(draws[key][1:2], alone[key]) for key in draws)
