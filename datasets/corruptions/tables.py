"""Severity constants of the three published benchmarks, and which one an image's size selects.

Source: D. Hendrycks, T. Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019, and the generating scripts the authors published for ImageNet-C (224 x 224), Tiny
ImageNet-C (64 x 64) and CIFAR-10-C (32 x 32). Lengths are in pixels, intensities in image units [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Severities = tuple[float, float, float, float, float]
Tuples = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Table:
    """Constants for severities 1 to 5 of one benchmark."""

    benchmark: str
    gaussian_noise: Severities  # standard deviation
    shot_noise: Severities  # photons per unit of intensity
    impulse_noise: Severities  # share of channel values replaced
    speckle_noise: Severities  # standard deviation relative to the value
    gaussian_blur: Severities  # standard deviation
    defocus_blur: Tuples  # radius of the disk, standard deviation of its anti-aliasing
    glass_blur: Tuples  # standard deviation of the blur, largest displacement, passes
    motion_blur: Tuples  # radius, standard deviation of the one-sided kernel
    zoom_blur: tuple[tuple[float, int], ...]  # step between zoom factors, how many from 1 on
    snow: Tuples  # mean, deviation, zoom, threshold, blur radius, blur deviation, weight of the image
    frost: Tuples  # weight of the image, weight of the texture
    fog: Tuples  # thickness, decay of the noise from scale to scale
    spatter: Tuples  # mean, deviation, blur, threshold, strength (water) or blur (mud), 1 for mud
    brightness: Severities  # added to the V of HSV
    contrast: Severities  # factor on the distance from the channel mean
    saturate: Tuples  # factor on the S of HSV, and what is added
    elastic_transform: Tuples  # amplitude, smoothing, jitter of the affine part
    pixelate: Severities  # factor on the side length
    jpeg_compression: Severities  # libjpeg quality, 1 to 100
    frost_scale: float  # the textures are shrunk by this factor first
    fog_side: int  # side of the noise map; larger images get the next power of two
    elastic_side: int  # side of the images that the lengths of elastic_transform are meant for


def _times(side: float, rows: Tuples) -> Tuples:
    return tuple(tuple(side * value for value in row) for row in rows)


IMAGENET_C = Table(
    benchmark="ImageNet-C",
    gaussian_noise=(0.08, 0.12, 0.18, 0.26, 0.38),
    shot_noise=(60, 25, 12, 5, 3),
    impulse_noise=(0.03, 0.06, 0.09, 0.17, 0.27),
    speckle_noise=(0.15, 0.2, 0.35, 0.45, 0.6),
    gaussian_blur=(1, 2, 3, 4, 6),
    defocus_blur=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    glass_blur=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    motion_blur=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    # np.arange(1, 1.11, 0.01) of the script has 12 elements: rounding lets 1.11 in.
    zoom_blur=((0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11)),
    snow=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    frost=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    fog=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    spatter=(
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    brightness=(0.1, 0.2, 0.3, 0.4, 0.5),
    contrast=(0.4, 0.3, 0.2, 0.1, 0.05),
    saturate=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    # 244 is the published script's own number; the benchmark's images were made with it.
    elastic_transform=_times(
        244, ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    ),
    pixelate=(0.6, 0.5, 0.4, 0.3, 0.25),
    jpeg_compression=(25, 18, 15, 10, 7),
    frost_scale=1.0,
    fog_side=256,
    elastic_side=224,
)
TINY_IMAGENET_C = Table(
    benchmark="Tiny ImageNet-C",
    gaussian_noise=(0.04, 0.08, 0.12, 0.15, 0.18),
    shot_noise=(250, 100, 50, 30, 15),
    impulse_noise=(0.01, 0.02, 0.05, 0.08, 0.14),
    speckle_noise=(0.15, 0.2, 0.25, 0.3, 0.35),
    gaussian_blur=(0.5, 0.75, 1, 1.25, 1.5),
    defocus_blur=((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    glass_blur=((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    motion_blur=((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    zoom_blur=((0.01, 7), (0.01, 12), (0.01, 16), (0.01, 21), (0.01, 26)),
    snow=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    frost=((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    fog=((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    spatter=(
        (0.62, 0.1, 0.7, 0.7, 0.6, 0),
        (0.65, 0.1, 0.8, 0.7, 0.6, 0),
        (0.65, 0.3, 1, 0.69, 0.6, 0),
        (0.65, 0.1, 0.7, 0.68, 0.6, 1),
        (0.65, 0.1, 0.5, 0.67, 0.6, 1),
    ),
    brightness=(0.1, 0.2, 0.3, 0.4, 0.5),
    contrast=(0.4, 0.3, 0.2, 0.1, 0.05),
    saturate=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    elastic_transform=_times(
        64, ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02))
    ),
    pixelate=(0.9, 0.8, 0.7, 0.6, 0.5),
    jpeg_compression=(65, 58, 50, 40, 25),
    frost_scale=0.3,
    fog_side=64,
    elastic_side=64,
)
CIFAR_10_C = Table(
    benchmark="CIFAR-10-C",
    gaussian_noise=(0.04, 0.06, 0.08, 0.09, 0.10),
    shot_noise=(500, 250, 100, 75, 50),
    impulse_noise=(0.01, 0.02, 0.03, 0.05, 0.07),
    speckle_noise=(0.06, 0.1, 0.12, 0.16, 0.2),
    gaussian_blur=(0.4, 0.6, 0.7, 0.8, 1),
    defocus_blur=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    glass_blur=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    motion_blur=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    zoom_blur=((0.01, 7), (0.01, 12), (0.01, 16), (0.01, 21), (0.01, 26)),
    snow=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    frost=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    fog=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    spatter=(
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    brightness=(0.05, 0.1, 0.15, 0.2, 0.3),
    contrast=(0.75, 0.5, 0.4, 0.3, 0.15),
    saturate=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    elastic_transform=_times(
        32, ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    ),
    pixelate=(0.95, 0.9, 0.85, 0.75, 0.65),
    jpeg_compression=(80, 65, 58, 50, 40),
    frost_scale=0.2,
    fog_side=32,
    elastic_side=32,
)
TABLES: Mapping[str, Table] = {
    "imagenet-c": IMAGENET_C,
    "tiny-imagenet-c": TINY_IMAGENET_C,
    "cifar-10-c": CIFAR_10_C,
}


def table_for(height: int, width: int) -> Table:
    """CIFAR-10-C's table if the shorter side is at most 32 pixels, Tiny ImageNet-C's up to 64, else ImageNet-C's."""
    side = min(height, width)
    if side <= 32:
        return CIFAR_10_C
    return TINY_IMAGENET_C if side <= 64 else IMAGENET_C
