"""What platforms do to a picture that is uploaded, shared and shared again: a smaller copy, compressed once or more.

Deterministic. Severities are calibrated: at each one, and for every family, the mean PSNR of the results on real images
is that of the benchmark's JPEG compression at the same severity (ImageNet-C's above 64 pixels, Tiny ImageNet-C's up
to 64, CIFAR-10-C's up to 32), as near as whole numbers of quality allow; `scripts/calibrate_platforms.py` finds the
qualities. What differs is the kind of damage: smaller copies blur, two grids of blocks that do not match leave edges,
and the filters of WebP and H.264 smooth them away again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustlab.core.errors import check_choice, check_images, check_int, invalid
from robustlab.datasets.systematic import codecs
from robustlab.datasets.systematic.decoders import Pixels
from robustlab.datasets.systematic.libraries import missing, version

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 16
Five = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Platform:
    """`share(pixels, factor, quality)`: uint8 (H, W, 3) -> the same shape, by a copy of `factor` times the sides.

    `qualities` (for ``h264``: rate factors) are those of severities 1 to 5 at sides up to 32, up to 64, and above.
    """

    name: str
    version: int
    libraries: tuple[str, ...]
    share: Callable[[Pixels, float, int], Pixels]
    qualities: tuple[Five, Five, Five]
    description: str

    def missing(self) -> str | None:
        """Which libraries are not installed, in words; None where all are."""
        return missing(self.libraries)

    def versions(self) -> dict[str, str]:
        """Of the libraries; raises `DataError` where one is missing."""
        return {library: version(library) for library in self.libraries}


_FACTORS = ((0.95, 0.9, 0.85, 0.8, 0.75), (0.95, 0.9, 0.85, 0.8, 0.75), (0.9, 0.8, 0.7, 0.6, 0.5))


def _even(side: float) -> int:
    return max(SMALLEST, 2 * round(side / 2))


def _copy(pixels: Pixels, factor: float) -> Pixels:
    """A smaller copy of even sides: video has half the chroma in both directions."""
    height, width = pixels.shape[:2]
    return codecs.resized(pixels, _even(height * factor), _even(width * factor))


def _back(copy: Pixels, like: Pixels) -> Pixels:
    return codecs.resized(copy, like.shape[0], like.shape[1])


def _messenger(pixels: Pixels, factor: float, quality: int) -> Pixels:
    shown = _back(codecs.jpeg(_copy(pixels, factor), quality), pixels)
    return codecs.jpeg(shown, quality)


def _web(pixels: Pixels, factor: float, quality: int) -> Pixels:
    shown = _back(codecs.webp(_copy(pixels, factor), quality), pixels)
    return codecs.webp(shown, quality)


def _video(pixels: Pixels, factor: float, quality: int) -> Pixels:
    return _back(codecs.h264(_copy(pixels, factor), quality), pixels)


def crf_of(quality: int) -> int:
    """The rate factor that goes with a quality of 1 to 100 in a chain of codecs."""
    return round(51 * (1 - quality / 100))


def _chain(pixels: Pixels, factor: float, quality: int) -> Pixels:
    first = codecs.jpeg(pixels, quality)
    second = codecs.webp(_copy(first, factor), quality)
    return _back(codecs.h264(second, crf_of(quality)), pixels)


PLATFORMS: Mapping[str, Platform] = {
    platform.name: platform
    for platform in (
        Platform(
            "jpeg",
            1,
            ("pillow",),
            _messenger,
            ((90, 84, 80, 80, 80), (83, 80, 80, 76, 66), (43, 35, 35, 26, 21)),
            "a smaller copy as JPEG, enlarged and saved as JPEG again",
        ),
        Platform(
            "webp",
            1,
            ("pillow",),
            _web,
            ((86, 79, 76, 76, 75), (78, 76, 76, 70, 48), (41, 33, 31, 20, 11)),
            "a smaller copy as WebP, enlarged and saved as WebP again",
        ),
        Platform(
            "h264",
            1,
            ("pillow", "ffmpeg"),
            _video,
            ((16, 19, 20, 20, 20), (20, 21, 21, 21, 23), (25, 26, 26, 28, 29)),
            "a smaller copy as a key frame of H.264 video, enlarged",
        ),
        Platform(
            "chain",
            1,
            ("pillow", "ffmpeg"),
            _chain,
            ((91, 82, 79, 78, 77), (82, 79, 79, 76, 63), (57, 52, 52, 49, 46)),
            "JPEG, then a smaller copy as WebP, then as H.264, enlarged",
        ),
    )
}


def table_of(height: int, width: int) -> int:
    """Which of a platform's three lists of qualities pictures of this size use."""
    side = min(height, width)
    return 0 if side <= 32 else (1 if side <= 64 else 2)


def share(images: Tensor, name: str, severity: int) -> Tensor:
    """Images float32 (N, 3, H, W) in [0, 1], sides >= 16, as they come back from platform `name` at severity 1 to 5.

    Values are multiples of 1/255; image i is a function of image i alone. Raises `ArgumentError` for an unknown name,
    another severity or other images, and `DataError` where a codec is not installed.
    """
    check_images(images)
    check_choice("platform", name, PLATFORMS)
    check_int("severity", severity, SEVERITIES[0], SEVERITIES[-1])
    channels, height, width = images.shape[1:]
    if channels != 3 or min(height, width) < SMALLEST:
        raise invalid("images", f"a tensor of shape {tuple(images.shape)}", f"RGB images, sides >= {SMALLEST}")
    platform, table = PLATFORMS[name], table_of(height, width)
    factor, quality = _FACTORS[table][severity - 1], platform.qualities[table][severity - 1]
    levels = torch.floor(images.detach().cpu() * 255 + 0.5).to(torch.uint8)
    rows = [platform.share(pixels, factor, quality) for pixels in levels.permute(0, 2, 3, 1).contiguous().numpy()]
    if not rows:
        return images.clone()
    found = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()
    return (found.to(torch.float32) / 255).to(images.device)


def factor_of(table: int, severity: int) -> float:
    """The sides of the smaller copy, as a share of the picture's."""
    return _FACTORS[table][severity - 1]
