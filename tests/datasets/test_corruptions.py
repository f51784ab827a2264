"""Corruptions against second, slow implementations from the formulas, and their invariance to batches."""

from __future__ import annotations

import colorsys
import io
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustlab.core import ArgumentError
from robustlab.core.keys import generators, sample_keys
from robustlab.datasets.corruptions import COMMON, CORRUPTIONS, HELD_OUT, SEVERITIES, corrupt, table_for
from robustlab.datasets.corruptions._normal import standard_normal

NAMES = (*COMMON, *HELD_OUT)
RANDOM = {
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur", "snow", "frost",
    "fog", "spatter", "elastic_transform",
}  # fmt: skip


def random_images(count, height, width, seed=0):
    """Smooth colour, noise, a grey part, a black part and a white part, on the uint8 lattice."""
    generator = np.random.default_rng(seed)
    levels = generator.integers(0, 256, (count, 3, height, width))
    ramp = np.linspace(0, 255, width).astype(int)
    levels[:, :, : height // 3] = ramp * np.array([1, 0, 1])[:, None, None] + 30 * np.array([0, 1, 0])[:, None, None]
    levels[:, :, -2:, : width // 2] = levels[:, :1, -2:, : width // 2]
    levels[:, :, -3] = 0
    levels[:, :, -4] = 255
    return torch.from_numpy(levels).float() / 255


def to_levels(images):
    return torch.round(images * 255).to(torch.int64).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("side", "noise", "bright", "contrast", "pixelate", "jpeg"),
    [
        (32, (0.04, 0.06, 0.08, 0.09, 0.10), (0.05, 0.1, 0.15, 0.2, 0.3), (0.75, 0.5, 0.4, 0.3, 0.15),
         (0.95, 0.9, 0.85, 0.75, 0.65), (80, 65, 58, 50, 40)),
        (64, (0.04, 0.08, 0.12, 0.15, 0.18), (0.1, 0.2, 0.3, 0.4, 0.5), (0.4, 0.3, 0.2, 0.1, 0.05),
         (0.9, 0.8, 0.7, 0.6, 0.5), (65, 58, 50, 40, 25)),
        (224, (0.08, 0.12, 0.18, 0.26, 0.38), (0.1, 0.2, 0.3, 0.4, 0.5), (0.4, 0.3, 0.2, 0.1, 0.05),
         (0.6, 0.5, 0.4, 0.3, 0.25), (25, 18, 15, 10, 7)),
    ],
)  # fmt: skip
def test_constants_are_the_published_ones(side, noise, bright, contrast, pixelate, jpeg):
    table = table_for(side, side)
    assert table.gaussian_noise == noise and table.brightness == bright and table.contrast == contrast
    assert table.pixelate == pixelate and table.jpeg_compression == jpeg


@pytest.mark.parametrize(
    ("height", "width", "benchmark"),
    [(32, 32, "CIFAR-10-C"), (32, 500, "CIFAR-10-C"), (33, 33, "Tiny ImageNet-C"), (64, 64, "Tiny ImageNet-C"),
     (200, 64, "Tiny ImageNet-C"), (65, 65, "ImageNet-C"), (224, 224, "ImageNet-C")],
)  # fmt: skip
def test_the_shorter_side_chooses_the_table(height, width, benchmark):
    assert table_for(height, width).benchmark == benchmark


def truncated(value):
    return int(min(max(value, 0.0), 1.0) * 255)


def slow_brightness(pixel, amount):
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in pixel))
    return colorsys.hsv_to_rgb(h, s, min(v + amount, 1.0))


@pytest.mark.parametrize(("side", "severity"), [(16, 3), (40, 1), (40, 5), (70, 2)])
def test_brightness_against_colorsys(side, severity):
    images = random_images(1, side, side)
    result = to_levels(corrupt(images, "brightness", severity, sample_keys(0, "b", [0])))[0]
    amount = table_for(side, side).brightness[severity - 1]
    exact = np.array([[slow_brightness(p, amount) for p in row] for row in to_levels(images)[0]]) * 255
    # Truncation: the level below the exact value, where a value within 1e-9 of a level may fall to either side.
    assert np.all((result <= exact + 1e-9) & (result > exact - 1 - 1e-9))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [(20, 31), (64, 64)])
def test_contrast_against_plain_python(severity, size):
    images = random_images(2, *size)
    result = to_levels(corrupt(images, "contrast", severity, sample_keys(0, "c", [0, 1])))
    factor = table_for(*size).contrast[severity - 1]
    levels = to_levels(images)
    for i in range(2):
        for channel in range(3):
            values = (levels[i, :, :, channel] / 255).ravel().tolist()
            mean = math.fsum(values) / len(values)
            exact = np.array([255 * ((v - mean) * factor + mean) for v in values]).reshape(size)
            assert np.all(np.abs(result[i, :, :, channel] - (exact - 0.5)) <= 0.5 + 1e-9)


def slow_normal(word):
    """One bit for the sign, 31 for the tail's probability."""
    size = -NormalDist().inv_cdf(((word & 0x7FFFFFFF) + 0.5) / 2**32)
    return -size if word >> 31 else size


def test_gaussian_noise_against_plain_python():
    images = random_images(2, 12, 12)
    keys = sample_keys(7, "n", [3, 9])
    result = to_levels(corrupt(images, "gaussian_noise", 4, keys))
    levels = to_levels(images)
    for i, generator in enumerate(generators(keys)):
        words = np.frombuffer(generator.bytes(4 * 3 * 12 * 12), np.uint32).reshape(3, 12, 12).transpose(1, 2, 0)
        for (y, x, c), value in np.ndenumerate(levels[i]):
            exact = value / 255 + 0.09 * slow_normal(int(words[y, x, c]))
            # The table of the quantile function is right to 1e-6.
            assert truncated(exact - 1e-6) <= result[i, y, x, c] <= truncated(exact + 1e-6)


def test_normal_numbers_follow_their_quantile_function():
    edges = [0, 1, 2, 3, 255, 2**16, 2**24 - 1, 2**24 + 1, 2**30, 2**31 - 2, 2**31 - 1]
    words = np.unique(np.concatenate([edges, np.random.default_rng(0).integers(0, 2**31, 2000)]))
    words = np.concatenate([words, words + 2**31]).astype(np.uint32)
    found = standard_normal(torch.from_numpy(words.view(np.int32)))
    expected = [slow_normal(int(word)) for word in words]
    assert np.abs(found.numpy() - expected).max() < 1e-6


@pytest.mark.parametrize(("side", "deviation"), [(32, 0.08), (64, 0.12), (128, 0.18)])
def test_gaussian_noise_has_the_stated_deviation(side, deviation):
    images = torch.full((20, 3, side, side), 128 / 255)
    difference = corrupt(images, "gaussian_noise", 3, sample_keys(0, "n", range(20))) - images
    # Truncation moves the mean down by half a level; clipping at 3.5 sigma takes next to nothing at these levels.
    assert abs(float(difference.mean()) + 0.5 / 255) < 4 * deviation / math.sqrt(difference.numel()) + 5e-4
    assert abs(float(difference.std()) / deviation - 1) < 0.02


def box_resize(row_of_values, size):
    """One-dimensional area average in floats, from the definition of a box filter."""
    count = len(row_of_values)
    scale = count / size
    result = []
    for i in range(size):
        centre, support = (i + 0.5) * scale, max(scale, 1.0) / 2
        low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), count)
        weights = [1.0 if -0.5 < (x - centre + 0.5) / max(scale, 1.0) <= 0.5 else 0.0 for x in range(low, high)]
        result.append(sum(w * v for w, v in zip(weights, row_of_values[low:high], strict=True)) / sum(weights))
    return result


def slow_pixelate(channel, factor):
    height, width = channel.shape
    for target in ((int(height * factor), int(width * factor)), (height, width)):
        rows = np.array([box_resize(row, target[1]) for row in channel.tolist()])
        channel = np.array([box_resize(column, target[0]) for column in rows.T.tolist()]).T
    return channel


@pytest.mark.parametrize(("size", "severity"), [((20, 27), 5), ((40, 52), 1), ((40, 52), 4), ((70, 70), 3)])
def test_pixelate_against_plain_python(size, severity):
    images = random_images(1, *size)
    result = to_levels(corrupt(images, "pixelate", severity, sample_keys(0, "p", [0])))[0]
    factor = table_for(*size).pixelate[severity - 1]
    for channel in range(3):
        exact = slow_pixelate(to_levels(images)[0, :, :, channel].astype(float), factor)
        # Pillow rounds to whole levels after each of its four passes.
        assert np.abs(result[:, :, channel] - exact).max() <= 2.0


@pytest.mark.parametrize(("side", "quality"), [(32, 58), (64, 50), (96, 15)])
def test_jpeg_is_the_codec_at_the_published_quality(side, quality):
    images = random_images(2, side, side)
    result = to_levels(corrupt(images, "jpeg_compression", 3, sample_keys(0, "j", [0, 1])))
    for levels, row in zip(to_levels(images), result, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(levels.astype(np.uint8)).save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
        assert np.array_equal(np.array(Image.open(io.BytesIO(buffer.getvalue()))), row)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(tuple(CORRUPTIONS)),
    severity=st.sampled_from(SEVERITIES),
    height=st.integers(16, 70),
    width=st.integers(16, 70),
    count=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    random=st.randoms(use_true_random=False),
)
def test_an_image_does_not_depend_on_its_batch(name, severity, height, width, count, seed, random):
    images = torch.from_numpy(np.random.default_rng(seed).random((count, 3, height, width), dtype=np.float32))
    original = images.clone()
    keys = sample_keys(seed, name, range(count))
    whole = corrupt(images, name, severity, keys)
    assert torch.equal(images, original)
    assert whole.shape == images.shape and whole.dtype == torch.float32
    assert torch.equal(torch.round(whole * 255) / 255, whole) and whole.min() >= 0 and whole.max() <= 1
    order = list(range(count))
    random.shuffle(order)
    cut = random.randint(0, count)
    for part in (order[:cut], order[cut:]):
        assert torch.equal(corrupt(images[part], name, severity, keys[part]), whole[part])
    levels = torch.floor(images * 255 + 0.5).to(torch.uint8)
    assert torch.equal(corrupt(levels, name, severity, keys), torch.round(whole * 255).to(torch.uint8))


@pytest.mark.parametrize("name", NAMES)
def test_every_severity_is_felt(name):
    images = torch.nn.functional.avg_pool2d(random_images(4, 64, 64), 5, 1, 2)
    keys = sample_keys(0, name, range(4))
    base = torch.floor(images * 255 + 0.5) / 255
    errors = [float((corrupt(images, name, s, keys) - base).square().mean()) for s in SEVERITIES]
    assert errors[0] > 0 and len(set(errors)) == 5
    # Not monotone as published: the direction of saturation, the kind of spatter and the scale of elastic changes.
    if name not in ("saturate", "spatter", "elastic_transform", "snow", "glass_blur", "frost", "shot_noise"):
        assert errors == sorted(errors)


def test_only_random_corruptions_use_keys_and_different_keys_differ():
    images = random_images(2, 32, 32)[[0, 0]]
    for name in NAMES:
        a, b = corrupt(images, name, 3, sample_keys(0, name, [0, 1]))
        assert torch.equal(a, b) == (name not in RANDOM), name


def test_non_contiguous_input():
    images = random_images(3, 32, 32)
    keys = sample_keys(0, "x", range(3))
    strided = images.to(memory_format=torch.channels_last)
    for name in NAMES:
        assert torch.equal(corrupt(strided, name, 2, keys), corrupt(images, name, 2, keys))


def test_registry():
    assert len(COMMON) == 15 and len(HELD_OUT) == 4
    assert tuple(CORRUPTIONS) == (*NAMES, "frost_procedural")
    for name, corruption in CORRUPTIONS.items():
        assert corruption.name == name and corruption.version >= 1 and corruption.description
        empty = corrupt(torch.zeros(0, 3, 20, 20), name, 1, sample_keys(0, "x", []))
        assert empty.shape == (0, 3, 20, 20)


def test_images_smaller_than_a_corruption_needs():
    keys = sample_keys(0, "x", [0])
    assert corrupt(torch.zeros(1, 3, 4, 5), "contrast", 1, keys).shape == (1, 3, 4, 5)
    with pytest.raises(ArgumentError, match="H, W >= 16 for glass_blur"):
        corrupt(torch.zeros(1, 3, 15, 40), "glass_blur", 1, keys)


def test_a_table_by_name():
    images, keys = random_images(1, 40, 40), sample_keys(0, "x", [0])
    by_size = corrupt(images, "contrast", 2, keys)
    assert torch.equal(corrupt(images, "contrast", 2, keys, table="tiny-imagenet-c"), by_size)
    assert not torch.equal(corrupt(images, "contrast", 2, keys, table="cifar-10-c"), by_size)
    with pytest.raises(ArgumentError, match=r"table is 'imagenet'.*did you mean imagenet-c"):
        corrupt(images, "contrast", 2, keys, table="imagenet")


KEYS = sample_keys(0, "x", range(2))


@pytest.mark.parametrize(
    ("images", "name", "severity", "keys", "message"),
    [
        (
            torch.zeros(2, 3, 8, 8),
            "gausian_noise",
            1,
            KEYS,
            "corruption is 'gausian_noise'.*did you mean gaussian_noise",
        ),
        (torch.zeros(2, 3, 8, 8), "contrast", 0, KEYS, "severity is 0; allowed: a whole number from 1 to 5"),
        (torch.zeros(2, 3, 8, 8), "contrast", 6, KEYS, "severity is 6"),
        (torch.zeros(2, 3, 8, 8), "contrast", 2.5, KEYS, "severity is 2.5"),
        (torch.zeros(2, 3, 8, 8), "contrast", True, KEYS, "severity is True"),
        (torch.full((2, 3, 8, 8), 1.5), "contrast", 1, KEYS, r"images is .*\[1.5, 1.5\]"),
        (torch.full((2, 3, 8, 8), float("nan")), "contrast", 1, KEYS, "images is"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int16), "contrast", 1, KEYS, "images is .*torch.int16"),
        (torch.zeros(2, 1, 8, 8), "brightness", 1, KEYS, r"images is .*\(2, 1, 8, 8\).*RGB"),
        (torch.zeros(3, 3, 8, 8), "brightness", 1, KEYS, "keys is"),
        (torch.zeros(2, 3, 8, 8), "brightness", 1, [1, 2], "keys is"),
    ],
)
def test_bad_input(images, name, severity, keys, message):
    with pytest.raises(ArgumentError, match=message) as error:
        corrupt(images, name, severity, keys)
    assert "\n" not in str(error.value)
