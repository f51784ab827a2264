"""The corruptions by name, and `corrupt`, which applies one to a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlab.core import keys as _keys
from robustlab.core.errors import check_choice, check_images, check_int, invalid
from robustlab.datasets.corruptions import pixelwise
from robustlab.datasets.corruptions.pixelwise import Pixels
from robustlab.datasets.corruptions.tables import Table, table_for

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """A named way images go bad.

    `apply(images, severity, keys)` takes float32 (N, 3, H, W) in [0, 1], a severity from 1 to 5 and keys (N,), and
    returns images of the same shape whose values are multiples of 1/255. Image i of the result is a function of
    image i and key i alone, bit for bit. `version` is raised when results change.
    """

    name: str
    version: int
    apply: Callable[[Tensor, int, Tensor], Tensor]
    description: str


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3), rounded to the nearest level: what a stored image would hold."""
    levels = torch.floor(images.detach().cpu() * 255 + 0.5).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().numpy()


def _images(rows: list[Pixels], like: Tensor) -> Tensor:
    if not rows:
        return like.clone()
    stacked = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()
    return (stacked.to(torch.float32) / 255).to(like.device)


def _checked(images: Tensor, severity: int, keys: Tensor) -> Table:
    check_images(images)
    check_int("severity", severity, SEVERITIES[0], SEVERITIES[-1])
    _keys.check_keys(keys, len(images))
    channels, height, width = images.shape[1:]
    if channels != 3 or height < 1 or width < 1:
        raise invalid("images", f"a tensor of shape {tuple(images.shape)}", "RGB images (N, 3, H, W), H, W >= 1")
    return table_for(height, width)


def _gaussian_noise(images: Tensor, severity: int, keys: Tensor) -> Tensor:
    deviation = _checked(images, severity, keys).gaussian_noise[severity - 1]
    rows = []
    for pixels, generator in zip(_pixels(images), _keys.generators(keys), strict=True):
        noise = generator.standard_normal(pixels.shape, dtype=np.float32)
        rows.append(pixelwise.add_noise(pixels, noise, deviation))
    return _images(rows, images)


def _without_draws(
    one: Callable[[Pixels, float], Pixels], constants: Callable[[Table], tuple[float, ...]]
) -> Callable[[Tensor, int, Tensor], Tensor]:
    """The batched form of a corruption that needs no randomness; keys are checked all the same."""

    def apply(images: Tensor, severity: int, keys: Tensor) -> Tensor:
        constant = constants(_checked(images, severity, keys))[severity - 1]
        return _images([one(pixels, constant) for pixels in _pixels(images)], images)

    return apply


def _jpeg(pixels: Pixels, quality: float) -> Pixels:
    return pixelwise.compress_jpeg(pixels, int(quality))


CORRUPTIONS: Mapping[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption("gaussian_noise", 1, _gaussian_noise, "normal noise per channel value, as in low light"),
        Corruption(
            "brightness", 1, _without_draws(pixelwise.brighten, lambda t: t.brightness), "the value of HSV is raised"
        ),
        Corruption(
            "contrast", 1, _without_draws(pixelwise.flatten, lambda t: t.contrast), "channels move towards their mean"
        ),
        Corruption(
            "pixelate", 1, _without_draws(pixelwise.coarsen, lambda t: t.pixelate), "shrunk and enlarged, box filter"
        ),
        Corruption("jpeg_compression", 1, _without_draws(_jpeg, lambda t: t.jpeg_compression), "JPEG at a low quality"),
    )
}


def corrupt(images: Tensor, name: str, severity: int, keys: Tensor) -> Tensor:
    """Apply corruption `name` at a severity from 1 to 5; see `Corruption` for shapes and guarantees.

    The constants are those of CIFAR-10-C if the shorter side is at most 32 pixels, of Tiny ImageNet-C up to 64, and
    of ImageNet-C above. Raises `ArgumentError` for an unknown name (with a suggestion), another severity, images
    that are not float32 RGB in [0, 1], or keys of another length.
    """
    check_choice("corruption", name, CORRUPTIONS)
    return CORRUPTIONS[name].apply(images, severity, keys)
