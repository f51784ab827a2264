"""One crop at a time: warp a sign's template over a texture, light it, blur it, add noise.

Only scalar arithmetic, element-wise NumPy and Pillow's C loops are used, on one sample at a time, so a crop has the
same bits in any batch, order or thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from robustlab.core.keys import generators, sample_keys
from robustlab.datasets.signs.backgrounds import BANK_SIZE, TEXTURE_SIZE, bank, masks, sensor_noise
from robustlab.datasets.signs.difficulty import DEFAULT, Difficulty, Range
from robustlab.datasets.signs.templates import CLASS_NAMES, LEVELS, template

CROP = 64
GENERATOR_VERSION = 1
# Numbers drawn per crop, more than any crop uses.
_DRAWS = 96
_FOCAL = 3.2

Pixels = NDArray[np.uint8]
_AXIS = np.linspace(-1, 1, CROP, dtype=np.float32)


class _Draws:
    """The uniform numbers of one crop, taken in order."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._next: Iterator[float] = iter(generator.random(_DRAWS).tolist())

    def unit(self) -> float:
        return next(self._next)

    def between(self, limits: Range) -> float:
        return limits[0] + (limits[1] - limits[0]) * next(self._next)

    def symmetric(self, limit: float) -> float:
        return limit * (2 * next(self._next) - 1)

    def below(self, count: int) -> int:
        return int(next(self._next) * count)

    def chance(self, probability: float) -> bool:
        return next(self._next) < probability


@lru_cache(maxsize=4096)
def _labels(seed: int, split: str, block: int) -> tuple[int, ...]:
    """A random order of all classes, by sorting uniform draws: their stream is the same in every NumPy version."""
    generator = next(generators(sample_keys(seed, f"signs-{split}-labels", [block])))
    return tuple(int(i) for i in np.argsort(generator.random(len(CLASS_NAMES)), kind="stable"))


def label(seed: int, split: str, index: int) -> int:
    """Class of a crop: every block of 24 consecutive crops holds each class once, in random order."""
    return _labels(seed, split, index // len(CLASS_NAMES))[index % len(CLASS_NAMES)]


def render(seed: int, split: str, index: int, difficulty: Difficulty = DEFAULT) -> Pixels:
    """Draw crop `index` of a split: uint8 (64, 64, 3), a function of its arguments alone."""
    generator = next(generators(sample_keys(seed, f"signs-{split}", [index])))
    return render_with(generator, seed, split, label(seed, split, index), difficulty)


def render_with(
    generator: np.random.Generator, seed: int, split: str, class_index: int, difficulty: Difficulty = DEFAULT
) -> Pixels:
    """Draw one crop of class `class_index` from an explicit generator; see `render`."""
    draws = _Draws(generator)
    radius = draws.between(difficulty.radius)
    centre = (CROP / 2 + draws.symmetric(difficulty.shift), CROP / 2 + draws.symmetric(difficulty.shift))
    image = _background(draws, seed, split, difficulty, centre, radius)
    sign = _posed(draws, class_index, centre, radius, difficulty)
    image.paste(_worn(draws, sign, seed, split, difficulty), (0, 0), sign)
    if draws.chance(difficulty.occlusion_probability):
        _occlude(draws, image, seed, split, difficulty, centre, radius)
    image = _lit(draws, image, difficulty)
    image = _blurred(draws, image, difficulty)
    noise_level = draws.between(difficulty.noise)
    pixels = _shaded(draws, np.asarray(image, dtype=np.float32), difficulty)
    values = sensor_noise(seed, split)
    start = draws.below(len(values) - pixels.size)
    pixels = pixels + np.float32(noise_level) * values[start : start + pixels.size].reshape(pixels.shape)
    result: Pixels = np.clip(pixels + np.float32(0.5), 0, 255).astype(np.uint8)
    return result


def _window(draws: _Draws, texture: Image.Image) -> Image.Image:
    """A crop-sized window of a texture at a random place."""
    x, y = draws.below(TEXTURE_SIZE - CROP), draws.below(TEXTURE_SIZE - CROP)
    return texture.crop((x, y, x + CROP, y + CROP))


def _background(
    draws: _Draws, seed: int, split: str, difficulty: Difficulty, centre: tuple[float, float], radius: float
) -> Image.Image:
    image = _window(draws, bank(seed, split)[draws.below(BANK_SIZE)])
    if draws.chance(0.5):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draws.chance(difficulty.pole_probability):
        grey = int(draws.between((60, 190)))
        half = draws.between((1.0, 3.0))
        x = centre[0] + draws.symmetric(3)
        lean = draws.symmetric(3)
        corners = [(x - half, centre[1]), (x + half, centre[1]), (x + half + lean, CROP), (x - half + lean, CROP)]
        ImageDraw.Draw(image).polygon(corners, fill=(grey, grey, min(255, grey + 6)))
    if draws.chance(difficulty.neighbour_probability):
        other = template(draws.below(len(CLASS_NAMES)), LEVELS[1])
        # Above or below the sign, as on a shared post, mostly outside of the crop.
        y = centre[1] + (radius + LEVELS[1] / 2 + draws.between((0, 6))) * (1 if draws.chance(0.5) else -1)
        at = (round(centre[0] - LEVELS[1] / 2 + draws.symmetric(4)), round(y - LEVELS[1] / 2))
        image.paste(other, at, other)
    return image


def _posed(
    draws: _Draws, class_index: int, centre: tuple[float, float], radius: float, difficulty: Difficulty
) -> Image.Image:
    """The template seen under a random rotation by a pinhole camera: RGBA of the crop's size."""
    roll = math.radians(draws.symmetric(difficulty.roll_degrees))
    yaw = math.radians(draws.symmetric(difficulty.tilt_degrees))
    pitch = math.radians(draws.symmetric(difficulty.tilt_degrees * 0.6))
    cr, sr, cy, sy, cp, sp = (f(a) for a in (roll, yaw, pitch) for f in (math.cos, math.sin))
    # First two columns of R = Rx(pitch) Ry(yaw) Rz(roll): a sign point (u, v, 0) goes to u * a + v * b.
    a = (cy * cr, sp * sy * cr + cp * sr, sp * sr - cp * sy * cr)
    b = (-cy * sr, cp * cr - sp * sy * sr, sp * cr + cp * sy * sr)
    f = _FOCAL
    # Homography from sign coordinates (u, v, 1) to crop pixels.
    h = [
        [radius * f * a[0] + centre[0] * a[2], radius * f * b[0] + centre[0] * b[2], centre[0] * f],
        [radius * f * a[1] + centre[1] * a[2], radius * f * b[1] + centre[1] * b[2], centre[1] * f],
        [a[2], b[2], f],
    ]
    size = next((s for s in reversed(LEVELS) if s >= 1.7 * radius), LEVELS[0])
    inverse = _adjugate(h)
    half = size / 2
    # Sign coordinates to template pixels: p = (u + 1) * size / 2.
    rows = [[half * (inverse[r][c] + inverse[2][c]) for c in range(3)] for r in range(2)]
    scale = inverse[2][2]
    data = [v / scale for v in (*rows[0], *rows[1], inverse[2][0], inverse[2][1])]
    return template(class_index, size).transform(
        (CROP, CROP), Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR
    )


def _adjugate(m: list[list[float]]) -> list[list[float]]:
    """Inverse of a 3 x 3 matrix up to a factor, which a homography does not mind."""
    (a, b, c), (d, e, f), (g, h, i) = m
    return [
        [e * i - f * h, c * h - b * i, b * f - c * e],
        [f * g - d * i, a * i - c * g, c * d - a * f],
        [d * h - e * g, b * g - a * h, a * e - b * d],
    ]


def _worn(draws: _Draws, sign: Image.Image, seed: int, split: str, difficulty: Difficulty) -> Image.Image:
    """The sign's colours faded towards a pale grey, with blotches of dirt or peeled paint: RGB."""
    pale, fade = int(draws.between((120, 210))), draws.unit() ** 3 * difficulty.fade
    worn = Image.blend(sign.convert("RGB"), Image.new("RGB", sign.size, (pale, pale, pale)), fade)
    if draws.chance(difficulty.dirt_probability):
        all_masks = masks(seed, split)
        blotch = _window(draws, all_masks[draws.below(len(all_masks))])
        grey, strength = int(draws.between((30, 200))), draws.between((0.25, 0.8))
        dirty = Image.blend(worn, Image.new("RGB", sign.size, (grey, grey, int(grey * 0.85))), strength)
        worn.paste(dirty, (0, 0), blotch)
    return worn


def _occlude(
    draws: _Draws,
    image: Image.Image,
    seed: int,
    split: str,
    difficulty: Difficulty,
    centre: tuple[float, float],
    radius: float,
) -> None:
    """Hide part of the sign behind something: a textured polygon that comes in from a random side."""
    angle = draws.unit() * 2 * math.pi
    depth = 2 * radius * draws.between(difficulty.occlusion)
    ux, uy = math.cos(angle), math.sin(angle)
    # A line at distance radius - depth from the centre, roughened, with everything beyond it covered.
    near, far = radius - depth, radius + CROP
    points = []
    for step in (-1.5, -0.75, 0.0, 0.75, 1.5):
        t = near + draws.symmetric(0.25 * radius)
        points.append((centre[0] + ux * t - uy * step * radius, centre[1] + uy * t + ux * step * radius))
    points += [(centre[0] + ux * far - uy * s * radius, centre[1] + uy * far + ux * s * radius) for s in (1.5, -1.5)]
    mask = Image.new("L", (CROP, CROP), 0)
    ImageDraw.Draw(mask).polygon(points, fill=255)
    image.paste(_window(draws, bank(seed, split)[draws.below(BANK_SIZE)]), (0, 0), mask)


def _lit(draws: _Draws, image: Image.Image, difficulty: Difficulty) -> Image.Image:
    """Exposure, gamma, colour cast and fog: all act on single values, so they are one table per channel."""
    gain, gamma = draws.between(difficulty.gain), draws.between(difficulty.gamma)
    casts = [1 + draws.symmetric(difficulty.cast) for _ in range(3)]
    fog = draws.between(difficulty.fog)
    fog = fog if draws.chance(difficulty.fog_probability) else 0.0
    veil = draws.between((90, 230))
    curve: Any = (np.arange(256) / 255.0) ** gamma * (255.0 * gain * (1 - fog))
    pixels = np.array(image)
    for channel, cast in enumerate(casts):
        table = np.clip(curve * cast + veil * fog + 0.5, 0, 255).astype(np.uint8)
        pixels[..., channel] = table[pixels[..., channel]]
    return Image.fromarray(pixels)


def _blurred(draws: _Draws, image: Image.Image, difficulty: Difficulty) -> Image.Image:
    """Few pixels on the sign, a lens out of focus, a moving camera."""
    coarse = draws.between(difficulty.coarse)
    if draws.chance(difficulty.coarse_probability):
        size = round(CROP / coarse)
        image = image.resize((size, size), Image.Resampling.BILINEAR).resize((CROP, CROP), Image.Resampling.BILINEAR)
    defocus = draws.between(difficulty.defocus)
    if draws.chance(difficulty.defocus_probability):
        image = image.filter(ImageFilter.BoxBlur(defocus))
    length, angle = draws.between(difficulty.motion), draws.unit() * 2 * math.pi
    if draws.chance(difficulty.motion_probability):
        image = _moved(image, length, angle)
    return image


def _moved(image: Image.Image, length: float, angle: float) -> Image.Image:
    """Mean of five copies along a straight line of `length` pixels."""
    source = np.pad(np.asarray(image), ((6, 6), (6, 6), (0, 0)), mode="edge")
    total = np.zeros((CROP, CROP, 3), dtype=np.uint16)
    for step in (-0.5, -0.25, 0.0, 0.25, 0.5):
        x, y = 6 + round(step * length * math.cos(angle)), 6 + round(step * length * math.sin(angle))
        total += source[y : y + CROP, x : x + CROP]
    return Image.fromarray(((total + 2) // 5).astype(np.uint8))


def _shaded(draws: _Draws, pixels: NDArray[np.float32], difficulty: Difficulty) -> NDArray[np.float32]:
    """A shadow with a straight edge, and a round bright spot."""
    angle, offset, sharpness = draws.unit() * 2 * math.pi, draws.symmetric(0.6), draws.between((2.0, 12.0))
    shadow = draws.between(difficulty.shadow)
    if draws.chance(difficulty.shadow_probability):
        ramp = np.float32(math.cos(angle)) * _AXIS[None, :] + np.float32(math.sin(angle)) * _AXIS[:, None]
        dark = np.clip((ramp - np.float32(offset)) * np.float32(sharpness), 0, 1)
        pixels = pixels * (1 - np.float32(1 - shadow) * dark)[..., None]
    x, y, width = draws.symmetric(0.7), draws.symmetric(0.7), draws.between((0.3, 0.9))
    glare = draws.between(difficulty.glare)
    if draws.chance(difficulty.glare_probability):
        squared = (_AXIS[None, :] - np.float32(x)) ** 2 + (_AXIS[:, None] - np.float32(y)) ** 2
        bright = np.maximum(1 - squared * np.float32(1 / width**2), 0) * np.float32(255 * glare)
        pixels = pixels + bright[..., None]
    return pixels
