"""Severity constants of the three published benchmarks, and which one an image's size selects.

Source: D. Hendrycks, T. Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019, and the generating scripts the authors published for ImageNet-C (224 x 224), Tiny
ImageNet-C (64 x 64) and CIFAR-10-C (32 x 32).
"""

from __future__ import annotations

from dataclasses import dataclass

Severities = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Table:
    """Constants for severities 1 to 5 of one benchmark, in image units [0, 1] unless stated."""

    benchmark: str
    gaussian_noise: Severities  # standard deviation
    brightness: Severities  # added to the V of HSV
    contrast: Severities  # factor on the distance from the channel mean
    pixelate: Severities  # factor on the side length
    jpeg_compression: Severities  # libjpeg quality, 1 to 100


IMAGENET_C = Table(
    benchmark="ImageNet-C",
    gaussian_noise=(0.08, 0.12, 0.18, 0.26, 0.38),
    brightness=(0.1, 0.2, 0.3, 0.4, 0.5),
    contrast=(0.4, 0.3, 0.2, 0.1, 0.05),
    pixelate=(0.6, 0.5, 0.4, 0.3, 0.25),
    jpeg_compression=(25, 18, 15, 10, 7),
)
TINY_IMAGENET_C = Table(
    benchmark="Tiny ImageNet-C",
    gaussian_noise=(0.04, 0.08, 0.12, 0.15, 0.18),
    brightness=(0.1, 0.2, 0.3, 0.4, 0.5),
    contrast=(0.4, 0.3, 0.2, 0.1, 0.05),
    pixelate=(0.9, 0.8, 0.7, 0.6, 0.5),
    jpeg_compression=(65, 58, 50, 40, 25),
)
CIFAR_10_C = Table(
    benchmark="CIFAR-10-C",
    gaussian_noise=(0.04, 0.06, 0.08, 0.09, 0.10),
    brightness=(0.05, 0.1, 0.15, 0.2, 0.3),
    contrast=(0.75, 0.5, 0.4, 0.3, 0.15),
    pixelate=(0.95, 0.9, 0.85, 0.75, 0.65),
    jpeg_compression=(80, 65, 58, 50, 40),
)


def table_for(height: int, width: int) -> Table:
    """CIFAR-10-C's table if the shorter side is at most 32 pixels, Tiny ImageNet-C's up to 64, else ImageNet-C's."""
    side = min(height, width)
    if side <= 32:
        return CIFAR_10_C
    return TINY_IMAGENET_C if side <= 64 else IMAGENET_C
