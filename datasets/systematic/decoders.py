"""Decoders: the bytes of a file -> uint8 (H, W, 3) RGB, each through the library it is named after.

Pillow, OpenCV, simplejpeg and imagecodecs all contain libjpeg-turbo and agree bit for bit at their defaults, so what a
decoder changes is found elsewhere: in the fast transform with plain upsampling of chroma, in FFmpeg's own decoder, in
decoding at a reduced scale, and in whether the tag of orientation is obeyed.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from robustlab.core.errors import DataError
from robustlab.datasets.pictures import JPEG_MAGIC, as_rgb, check_picture, open_rgb
from robustlab.datasets.systematic.libraries import load

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Decoder:
    """`decode(content, least)` gives the picture; one that decodes at a reduced scale keeps both sides >= `least`.

    `jpeg_only`: takes no other files. `bug`: no deployment means to do this, it is a mistake worth measuring.
    """

    name: str
    library: str
    decode: Callable[[bytes, Size], Any]
    description: str
    jpeg_only: bool = False
    bug: bool = False


def _pillow(content: bytes, least: Size) -> Pixels:
    return np.asarray(open_rgb(content, "the file"))


def _pillow_exif(content: bytes, least: Size) -> Pixels:
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(as_rgb(ImageOps.exif_transpose(opened)))


def _pillow_draft(content: bytes, least: Size) -> Pixels:
    with Image.open(io.BytesIO(content)) as opened:
        opened.draft("RGB", (least[1], least[0]))
        return np.asarray(opened.convert("RGB"))


def _opencv_with(flag: str | None) -> Callable[[bytes, Size], Pixels]:
    def decode(content: bytes, least: Size) -> Pixels:
        cv2 = load("opencv")
        mode = cv2.IMREAD_COLOR | (getattr(cv2, flag) if flag else 0)
        found = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
        if found is None:
            raise ValueError("OpenCV reads nothing from it")
        return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB))

    return decode


def _opencv_rotated(content: bytes, least: Size) -> Pixels:
    return _opencv_with(None)(with_orientation(content, 6), least)


def _simplejpeg(**options: bool) -> Callable[[bytes, Size], Pixels]:
    def decode(content: bytes, least: Size) -> Pixels:
        return np.asarray(load("simplejpeg").decode_jpeg(content, "RGB", strict=False, **options))

    return decode


def _simplejpeg_scaled(content: bytes, least: Size) -> Pixels:
    codec = load("simplejpeg")
    return np.asarray(codec.decode_jpeg(content, "RGB", strict=False, min_height=least[0], min_width=least[1]))


def _imagecodecs(content: bytes, least: Size) -> Pixels:
    found = np.asarray(load("imagecodecs").jpeg8_decode(content, outcolorspace="RGB"))
    return found if found.ndim == 3 else np.repeat(found[..., None], 3, axis=2)


def _ffmpeg(content: bytes, least: Size) -> Pixels:
    av = load("ffmpeg")
    if not content.startswith((JPEG_MAGIC, PNG_MAGIC)):
        raise ValueError("FFmpeg is given JPEG and PNG files only")
    codec = av.CodecContext.create("mjpeg" if content.startswith(JPEG_MAGIC) else "png", "r")
    codec.thread_count = 1
    frames = codec.decode(av.Packet(content)) or codec.decode(None)
    if not frames:
        raise ValueError("FFmpeg finds no picture in it")
    return np.asarray(frames[0].to_ndarray(format="rgb24"))


def with_orientation(content: bytes, orientation: int) -> bytes:
    """A JPEG file with an EXIF tag of orientation (1 to 8) in front of its other segments."""
    if not content.startswith(JPEG_MAGIC):
        raise ValueError("only JPEG files are given a tag of orientation")
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0\x2a" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]


DECODERS: Mapping[str, Decoder] = {
    decoder.name: decoder
    for decoder in (
        Decoder("pillow", "pillow", _pillow, "libjpeg-turbo, slow integer DCT, smooth chroma; tags not obeyed"),
        Decoder("pillow.exif", "pillow", _pillow_exif, "the same, turned as the tag of orientation says"),
        Decoder(
            "pillow.draft", "pillow", _pillow_draft, "decoded at 1/2, 1/4 or 1/8 where that is enough", jpeg_only=True
        ),
        Decoder("opencv", "opencv", _opencv_with(None), "libjpeg-turbo, turned as the tag of orientation says"),
        Decoder("opencv.stored", "opencv", _opencv_with("IMREAD_IGNORE_ORIENTATION"), "libjpeg-turbo, tags not obeyed"),
        Decoder(
            "opencv.exif6",
            "opencv",
            _opencv_rotated,
            "an upright picture whose tag says a quarter turn, and is obeyed",
            jpeg_only=True,
            bug=True,
        ),
        Decoder(
            "simplejpeg", "simplejpeg", _simplejpeg(), "libjpeg-turbo, slow integer DCT, smooth chroma", jpeg_only=True
        ),
        Decoder(
            "simplejpeg.fast",
            "simplejpeg",
            _simplejpeg(fastdct=True, fastupsample=True),
            "libjpeg-turbo, fast DCT, chroma repeated",
            jpeg_only=True,
        ),
        Decoder(
            "simplejpeg.scaled", "simplejpeg", _simplejpeg_scaled, "decoded at n/8 where that is enough", jpeg_only=True
        ),
        Decoder(
            "imagecodecs", "imagecodecs", _imagecodecs, "libjpeg-turbo, slow integer DCT, smooth chroma", jpeg_only=True
        ),
        Decoder("ffmpeg", "ffmpeg", _ffmpeg, "FFmpeg's own decoder and swscale's conversion to RGB"),
    )
}


def decode(decoder: Decoder, content: bytes, least: Size, where: str) -> Pixels:
    """uint8 (H, W, 3) RGB of a file; raises `DataError` that names `where` for what the library cannot decode."""
    check_picture(content, where)
    if decoder.jpeg_only and not content.startswith(JPEG_MAGIC):
        raise DataError(f"{where} is no JPEG file; allowed: JPEG for decoder {decoder.name}")
    try:
        found = decoder.decode(content, least)
    except DataError as error:
        raise DataError(str(error).replace("the file", where, 1)) from error
    except Exception as error:  # every library has errors of its own
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"{where} cannot be decoded by {decoder.name} ({reason}); allowed: whole files") from error
    pixels: Pixels = np.require(found, np.uint8, ["C", "W"])
    return pixels
