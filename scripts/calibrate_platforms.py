"""Find the qualities of `robustlab.datasets.systematic.platforms`, and print what they come to.

For every size of picture and severity, the mean PSNR of the benchmark's JPEG compression is the target; for every
family, the whole number of quality whose mean PSNR is nearest to it is chosen. Needs the real data of ROBUSTLAB_DATA:
100 images of CIFAR-10 at 32 pixels, 60 ImageNet files at 64 and 40 at 224.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustlab.datasets import load_dataset
from robustlab.datasets.systematic import codecs
from robustlab.datasets.systematic.platforms import PLATFORMS, Platform, factor_of

# Qualities of JPEG compression: CIFAR-10-C, Tiny ImageNet-C, ImageNet-C.
TARGETS = ((80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7))
SOURCES = (("cifar10", None, 100), ("imagenet1000", 64, 60), ("imagenet1000", 224, 40))


def pictures(name: str, side: int | None, count: int) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3)."""
    images, _ = load_dataset(name, image_size=side).batch(range(count))
    return (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit pictures that are not the same."""
    error = float(((a.astype(np.float64) - b) ** 2).mean())
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


def mean_psnr(platform: Platform, images: NDArray[np.uint8], factor: float, quality: int) -> float:
    """Over the images, in dB."""
    return float(np.mean([psnr(image, platform.share(image, factor, quality)) for image in images]))


def nearest(platform: Platform, images: NDArray[np.uint8], factor: float, target: float) -> tuple[int, float]:
    """The quality whose PSNR is nearest to the target, by bisection: PSNR rises with quality, and falls with crf."""
    falls = platform.name == "h264"
    low, high = (0, 51) if falls else (1, 100)
    found: dict[int, float] = {}
    while low <= high:
        middle = (low + high) // 2
        found[middle] = mean_psnr(platform, images, factor, middle)
        if (found[middle] < target) != falls:
            low = middle + 1
        else:
            high = middle - 1
    return min(found.items(), key=lambda item: abs(item[1] - target))


def main() -> None:
    """Print a line per size, family and severity."""
    for table, ((name, side, count), qualities) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        images = pictures(name, side, count)
        targets = [float(np.mean([psnr(i, codecs.jpeg(i, quality)) for i in images])) for quality in qualities]
        print(f"{images.shape[1]} px, targets {', '.join(f'{t:.1f}' for t in targets)} dB", flush=True)
        for platform in PLATFORMS.values():
            chosen = [nearest(platform, images, factor_of(table, s), t) for s, t in enumerate(targets, start=1)]
            levels = ", ".join(f"{value:.1f}" for _, value in chosen)
            print(f"  {platform.name:6} {tuple(q for q, _ in chosen)}  {levels} dB", flush=True)


if __name__ == "__main__":
    main()
