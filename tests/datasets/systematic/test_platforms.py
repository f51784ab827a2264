"""Platforms: deterministic, calibrated, and refused where they cannot be had."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustlab.core import ArgumentError, DataError
from robustlab.datasets import load_dataset
from robustlab.datasets.systematic import codecs, libraries
from robustlab.datasets.systematic.platforms import PLATFORMS, crf_of, factor_of, share, table_of

HERE = [name for name, platform in PLATFORMS.items() if platform.missing() is None]


def images(side: int, count: int = 3) -> torch.Tensor:
    """Traffic signs, resized; multiples of 1/255."""
    found, _ = load_dataset("signs").batch(range(count))
    resized = torch.nn.functional.interpolate(found, (side, side), mode="bilinear", antialias=True)
    return (resized * 255).round() / 255


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((10 * torch.log10(1 / ((a - b) ** 2).flatten(1).mean(1))).mean())


@pytest.mark.parametrize("name", HERE)
def test_results_are_pictures_that_depend_on_one_image_alone(name: str) -> None:
    x = images(33)
    found = share(x, name, 3)
    assert found.shape == x.shape and found.dtype == torch.float32
    assert torch.equal((found * 255).round() / 255, found) and not torch.equal(found, x)
    assert torch.equal(share(x[[2]], name, 3)[0], found[2]) and torch.equal(share(x, name, 3), found)
    assert share(x[:0], name, 1).shape == (0, 3, 33, 33)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("side", [32, 64, 96])
def test_severities_rise(name: str, side: int) -> None:
    x = images(side, 6)
    levels = [psnr(x, share(x, name, severity)) for severity in (1, 3, 5)]
    assert levels[0] > levels[1] > levels[2] > 15
    factors = [factor_of(table_of(side, side), severity) for severity in range(1, 6)]
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize(
    "codec",
    [
        "jpeg",
        "webp",
        pytest.param(
            "h264", marks=pytest.mark.skipif(not libraries.is_installed("ffmpeg"), reason="av is not installed")
        ),
    ],
)
def test_codecs_lose_more_at_lower_quality(codec: str) -> None:
    pixels = (images(96, 1)[0] * 255).byte().permute(1, 2, 0).contiguous().numpy()
    good, bad = (90, 10) if codec != "h264" else (10, 45)
    run = getattr(codecs, codec)
    errors = [np.abs(run(pixels, quality).astype(int) - pixels).mean() for quality in (good, bad)]
    assert 0 < errors[0] < 4 < errors[1]
    assert np.array_equal(run(pixels, bad), run(pixels, bad))


def test_half_of_the_quality_is_half_of_the_rate_factor() -> None:
    assert (crf_of(100), crf_of(50), crf_of(1)) == (0, 26, 50)


def test_bad_input() -> None:
    x = images(32)
    for arguments, words in (
        ((x, "instagram", 1), "platform is 'instagram'"),
        ((x, "jpeg", 0), "severity is 0"),
        ((x, "jpeg", 6), "severity is 6"),
        ((x[:, :, :15], "jpeg", 1), "sides >= 16"),
        ((x[:, :1], "jpeg", 1), "RGB"),
        ((x + 1, "jpeg", 1), "values in"),
    ):
        with pytest.raises(ArgumentError, match=words):
            share(*arguments)  # type: ignore[arg-type]


def test_video_needs_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libraries._LIBRARIES, "ffmpeg", ("no_such_module", "av"))
    assert "av not installed" in str(PLATFORMS["h264"].missing()) and PLATFORMS["jpeg"].missing() is None
    with pytest.raises(DataError, match="av not installed"):
        share(images(32), "h264", 1)
