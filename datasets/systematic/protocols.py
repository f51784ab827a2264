"""Protocols: from a picture of any size to the input of a model, with a given resizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from robustlab.datasets.systematic.decoders import Pixels, Size
from robustlab.datasets.systematic.resizers import Resized

Resize = Callable[[Resized, Size], Resized]


@dataclass(frozen=True)
class Protocol:
    """`sizes(picture, model)` are the (H, W) to resize to, one after the other; then the model's (H, W) is cut out."""

    name: str
    sizes: Callable[[Size, Size], tuple[Size, ...]]
    description: str


def _margin(side: int) -> int:
    """8/7 of a side: 256 for 224."""
    return round(side * 8 / 7)


def _square(picture: Size, model: Size) -> tuple[Size, ...]:
    return ((_margin(model[0]), _margin(model[1])),)


def _short(picture: Size, model: Size) -> tuple[Size, ...]:
    """The shorter side becomes 8/7 of the model's longer side; the longer side is rounded down, as torchvision does."""
    height, width = picture
    target = _margin(max(model))
    if height <= width:
        return ((target, max(target, int(target * width / height))),)
    return ((max(target, int(target * height / width)), target),)


def _direct(picture: Size, model: Size) -> tuple[Size, ...]:
    return (model,)


def _via(factor: float) -> Callable[[Size, Size], tuple[Size, ...]]:
    def sizes(picture: Size, model: Size) -> tuple[Size, ...]:
        return ((max(1, round(model[0] * factor)), max(1, round(model[1] * factor))), model)

    return sizes


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("square", _square, "both sides to 8/7 of the model's, then the centre (ImageNet-S)"),
        Protocol("short", _short, "the shorter side to 8/7 of the model's, then the centre (torchvision)"),
        Protocol("direct", _direct, "both sides to the model's"),
        *(
            Protocol(f"via{factor:g}", _via(factor), f"both sides to {factor:g} of the model's and back (CIFAR-10-S)")
            for factor in (0.75, 0.875, 1.25, 1.5)
        ),
    )
}


def centre(pixels: Resized, size: Size) -> Resized:
    """The central (h, w) of a picture that is not smaller, with torchvision's rounding of the offset."""
    top, left = (round((have - want) / 2) for have, want in zip(pixels.shape[:2], size, strict=True))
    return pixels[top : top + size[0], left : left + size[1]]


def fit(pixels: Pixels, model: Size, protocol: Protocol, resize: Resize) -> Resized:
    """(h, w, 3) as the model takes it: uint8, or float32 in [0, 1] from a resizer of floats."""
    found: Resized = pixels
    for size in protocol.sizes((pixels.shape[0], pixels.shape[1]), model):
        if found.dtype != np.uint8:  # between two resizings a picture is stored in 8 bits
            found = np.floor(found * 255 + np.float32(0.5)).astype(np.uint8)
        found = resize(found, size)
    return centre(found, model)
