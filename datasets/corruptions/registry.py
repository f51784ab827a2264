"""The corruptions by name, and `corrupt`, which applies one to a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from robustlab.core import keys as _keys
from robustlab.core.errors import check_choice, check_images, check_int, invalid
from robustlab.datasets.corruptions import (
    blur,
    colour,
    digital,
    elastic,
    fog,
    frost,
    glass,
    motion,
    noise,
    original,
    snow,
    spatter,
)
from robustlab.datasets.corruptions._batch import NOTHING, Draws, Size
from robustlab.datasets.corruptions.tables import TABLES, Table, table_for

SEVERITIES = (1, 2, 3, 4, 5)
Draw = Callable[[Tensor, Size, int, Table], Draws]
Apply = Callable[[Tensor, Draws, int, Table], Tensor]
Sources = Callable[[Draws, Size, int, Table], Tensor]
# Corruptions that look at neighbours need a few of them.
_NEIGHBOURHOOD = 16


@dataclass(frozen=True)
class Corruption:
    """A named way images go bad, in two steps.

    `draw(keys, (H, W), severity, table)` makes all randomness from keys int64 (N,): named tensors whose first
    dimension is N, on the CPU. `apply(pixels, draws, severity, table)` is deterministic: uint8 (N, 3, H, W) in and
    out, on any device that holds both. Image i of the result is a function of image i and key i alone, bit for bit on
    the CPU. `version` is raised when results change; `smallest` is the shortest side it works on, in pixels;
    `sources(draws, (H, W), severity, table)` is there for those that move content: float64 (N, 2, H, W), the x and y
    in the image of what is seen at each pixel; `moved_boxes` makes bounding boxes of it.
    """

    name: str
    version: int
    group: str
    draw: Draw
    apply: Apply
    description: str
    smallest: int = 1
    sources: Sources | None = None

    @property
    def moves(self) -> bool:
        """Whether content changes its place, so that bounding boxes have to follow."""
        return self.sources is not None


def _nothing(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """Draw for the corruptions that need no randomness."""
    return NOTHING


def _near(
    name: str, group: str, draw: Draw, apply: Apply, description: str, version: int = 1, sources: Sources | None = None
) -> Corruption:
    return Corruption(name, version, group, draw, apply, description, _NEIGHBOURHOOD, sources)


# The fifteen that mean corruption errors are computed over, in the published order, then the four held-out ones.
_ALL = (
    Corruption("gaussian_noise", 3, "noise", noise.draw_normal, noise.gaussian_noise, "normal noise, as in low light"),
    Corruption("shot_noise", 1, "noise", noise.draw_words, noise.shot_noise, "Poisson noise of few photons"),
    Corruption("impulse_noise", 1, "noise", noise.draw_words, noise.impulse_noise, "salt and pepper"),
    _near("defocus_blur", "blur", _nothing, blur.defocus_blur, "out of focus: a disk for every point"),
    _near(
        "glass_blur",
        "blur",
        glass.draw_glass,
        glass.glass_blur,
        "seen through frosted glass",
        sources=glass.glass_sources,
    ),
    _near("motion_blur", "blur", motion.draw_motion, motion.motion_blur, "the camera moves along a line"),
    _near("zoom_blur", "blur", _nothing, blur.zoom_blur, "the camera moves towards the scene"),
    _near("snow", "weather", snow.draw_snow, snow.snow, "falling flakes over a whitened scene", version=2),
    _near("frost", "weather", frost.draw_frost, frost.frost, "ice on the window: photographed textures"),
    _near("fog", "weather", fog.draw_fog, fog.fog, "fractal fog by the diamond-square algorithm"),
    Corruption("brightness", 1, "weather", _nothing, colour.brightness, "the value of HSV is raised"),
    Corruption("contrast", 2, "digital", _nothing, colour.contrast, "channels move towards their mean"),
    _near(
        "elastic_transform",
        "digital",
        elastic.draw_elastic,
        elastic.elastic_transform,
        "a jittered affine map and a smooth displacement",
        version=2,
        sources=elastic.elastic_sources,
    ),
    Corruption("pixelate", 1, "digital", _nothing, digital.pixelate, "shrunk and enlarged, box filter"),
    Corruption("jpeg_compression", 1, "digital", _nothing, digital.jpeg_compression, "JPEG at a low quality"),
    Corruption("speckle_noise", 2, "noise", noise.draw_normal, noise.speckle_noise, "noise that grows with the value"),
    _near("gaussian_blur", "blur", _nothing, blur.gaussian_blur, "a Gaussian filter", version=2),
    _near("spatter", "weather", spatter.draw_spatter, spatter.spatter, "drops of water or mud on the lens", version=2),
    Corruption("saturate", 1, "digital", _nothing, colour.saturate, "the saturation of HSV is scaled"),
)
COMMON = tuple(corruption.name for corruption in _ALL[:15])
HELD_OUT = tuple(corruption.name for corruption in _ALL[15:])

MADE_FROST = "frost_procedural"
CORRUPTIONS: Mapping[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        *_ALL,
        _near(MADE_FROST, "weather", frost.draw_made_frost, frost.frost, "ice on the window: textures made from noise"),
    )
}

# Pixels that are worked on at once: what is between the steps then stays in the processor's cache.
_PIXELS_AT_ONCE = {"cpu": 1 << 16}
_PIXELS_ELSEWHERE = 1 << 22


# The package's names, which are also the ones here.
_ORIGINALS = (*COMMON, *HELD_OUT)


@lru_cache(maxsize=len(_ORIGINALS))
def _original(name: str) -> Corruption:
    def apply(pixels: Tensor, draws: Draws, severity: int, table: Table) -> Tensor:
        return original.apply(name, pixels, draws, severity)

    ours = CORRUPTIONS[name]
    description = f"{ours.description}: imagecorruptions 1.1.2"
    full = original.PREFIX + name
    return Corruption(full, 1, ours.group, original.draw_seeds, apply, description, original.SMALLEST)


def find(name: str) -> Corruption:
    """The corruption of this name: one of `CORRUPTIONS`, or ``imagecorruptions:NAME`` for that package's own.

    Raises `ArgumentError` for an unknown name, with the nearest one, and `DataError` for one of imagecorruptions
    where its environment is missing.
    """
    if isinstance(name, str) and name.startswith(original.PREFIX):
        own = name.removeprefix(original.PREFIX)
        check_choice("corruption of imagecorruptions", own, _ORIGINALS)
        original.reference_python()
        return _original(own)
    return CORRUPTIONS[check_choice("corruption", name, CORRUPTIONS)]


def resolve(name: str) -> str:
    """The corruption that `name` stands for here: ``frost_procedural`` for ``frost`` where its textures are missing.

    Raises as `find`.
    """
    found = find(name).name
    return MADE_FROST if found == "frost" and frost.textures_folder() is None else found


def _checked(images: object, corruption: Corruption, severity: int, keys: Tensor, table: str | None) -> Table:
    if not (isinstance(images, Tensor) and images.dtype == torch.uint8 and images.ndim == 4):
        images = check_images(images)
    check_int("severity", severity, SEVERITIES[0], SEVERITIES[-1])
    _keys.check_keys(keys, len(images))
    channels, height, width = images.shape[1:]
    if channels != 3 or min(height, width) < corruption.smallest:
        allowed = f"RGB images (N, 3, H, W), H, W >= {corruption.smallest} for {corruption.name}"
        raise invalid("images", f"a tensor of shape {tuple(images.shape)}", allowed)
    chosen = table_for(height, width) if table is None else TABLES[check_choice("table", table, TABLES)]
    if corruption.name.startswith(original.PREFIX) and table not in (None, "imagenet-c"):
        raise invalid("table", table, f"imagenet-c, or none, for {corruption.name}")
    return chosen


def corrupt(images: Tensor, name: str, severity: int, keys: Tensor, table: str | None = None) -> Tensor:
    """Corrupt images uint8 (N, 3, H, W), or float32 (N, 3, H, W) in [0, 1]; the result has the same dtype.

    Image i of the result is a function of image i and key i alone. Floats are rounded to the nearest of 256 levels
    first, and what comes back are multiples of 1/255. `severity` is 1 (mild) to 5. ``frost`` takes the original
    textures from the folder `frost` in ROBUSTLAB_DATA, or textures made from noise without it (`resolve` says which).

    `table` is ``imagenet-c``, ``tiny-imagenet-c`` or ``cifar-10-c``; without it the constants are those of CIFAR-10-C
    if the shorter side is at most 32 pixels, of Tiny ImageNet-C up to 64, and of ImageNet-C above.
    ``imagecorruptions:snow`` and so on are that package's own, which has ImageNet-C's constants only.

    Raises `ArgumentError` for an unknown name (with a suggestion) or table, another severity, images of another
    dtype, range or shape or smaller than the corruption needs (16 pixels for those that look at neighbours), or keys
    of another length.
    """
    corruption = find(resolve(name))
    constants = _checked(images, corruption, severity, keys, table)
    size = (int(images.shape[2]), int(images.shape[3]))
    result = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    at_once = max(1, _PIXELS_AT_ONCE.get(images.device.type, _PIXELS_ELSEWHERE) // (size[0] * size[1]))
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        draws = corruption.draw(keys[part], size, severity, constants)
        drawn = {key: value.to(images.device) for key, value in draws.items()}
        pixels = corruption.apply(_pixels(images[part]), drawn, severity, constants)
        if images.dtype == torch.uint8:
            result[part] = pixels
        else:
            result[part] = pixels.to(torch.float32).div_(255)
    return result


def _pixels(images: Tensor) -> Tensor:
    """uint8, contiguous; floats are rounded to the nearest level: what a stored image would hold."""
    if images.dtype == torch.uint8:
        return images.contiguous()
    return (images.detach() * 255).add_(0.5).floor_().to(torch.uint8).contiguous()
