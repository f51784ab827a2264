"""From the bytes of an image file to RGB pixels, and to the square a model is shown, with Pillow."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustlab.core.errors import DataError

# What is decoded at most, and the longest shape that is resized whole: both bound the memory one file can ask for.
MAX_PIXELS = 2**27
MAX_ASPECT = 8
JPEG_MAGIC = b"\xff\xd8\xff"
_KINDS = "whole .bmp, .jpeg, .jpg, .png, .ppm or .webp files"
_ERRORS = (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError)


def undecodable(where: str, error: Exception) -> DataError:
    """The error for a file that cannot be decoded."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{where} cannot be decoded ({reason}); allowed: {_KINDS}")


def check_picture(content: bytes, where: str) -> tuple[int, int]:
    """(H, W) as the file's header says, of at most `MAX_PIXELS` pixels; raises `DataError` otherwise."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            width, height = opened.size
    except _ERRORS as error:
        raise undecodable(where, error) from error
    if width * height > MAX_PIXELS:
        raise DataError(f"{where} is {width}x{height} pixels; allowed: images of at most {MAX_PIXELS} pixels")
    return height, width


def as_rgb(opened: Image.Image) -> Image.Image:
    """In RGB; transparency is dropped, and 16 bits of grey become 8 (Pillow's own conversion would clip them)."""
    if opened.mode.startswith("I"):
        levels = np.asarray(opened).astype(np.float64) / 257
        return Image.fromarray(np.clip(levels + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    return opened.convert("RGB")


def open_rgb(content: bytes, where: str) -> Image.Image:
    """The picture in RGB (see `as_rgb`), as stored: tags of orientation are not applied.

    Raises `DataError` that names `where` for what is no whole picture, or has more than `MAX_PIXELS` pixels.
    """
    check_picture(content, where)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return as_rgb(opened)
    except _ERRORS as error:
        raise undecodable(where, error) from error


def central_square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """uint8 (side, side, 3): the shorter side is resized to `side` (bicubic, antialiased), then the centre is cut out.

    Of a picture longer than 8:1, only the central 8:1 part is resized.
    """
    width, height = image.size
    short = min(width, height)
    trim_x, trim_y = (max(0, length - MAX_ASPECT * short) // 2 for length in (width, height))
    if trim_x or trim_y:
        image = image.crop((trim_x, trim_y, width - trim_x, height - trim_y))
        width, height = image.size
    size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))
