"""Lossy codecs as functions of pixels: uint8 (H, W, 3) RGB is encoded, decoded, and comes back at the same size."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
from PIL import Image

from robustlab.datasets.systematic.decoders import Pixels
from robustlab.datasets.systematic.libraries import load


def _through_pillow(pixels: Pixels, kind: str, **options: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    buffer.seek(0)
    with Image.open(buffer) as image:
        return np.array(image.convert("RGB"))


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """JPEG of quality 1 to 100, chroma at half resolution (4:2:0)."""
    return _through_pillow(pixels, "JPEG", quality=quality, subsampling=2)


def webp(pixels: Pixels, quality: int) -> Pixels:
    """Lossy WebP of quality 1 to 100, at libwebp's default effort."""
    return _through_pillow(pixels, "WEBP", quality=quality, method=4)


def h264(pixels: Pixels, crf: int) -> Pixels:
    """One H.264 key frame of constant rate factor 0 to 51 (libx264, one thread), 4:2:0, BT.601; sides must be even."""
    av = load("ffmpeg")
    height, width = pixels.shape[:2]
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.thread_count = 1
    encoder.options = {"crf": str(crf), "preset": "medium", "tune": "stillimage", "x264-params": "threads=1:log=none"}
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    planes = frame.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG", threads=1)
    planes.pts = 0
    packets = [*encoder.encode(planes), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [frame for packet in packets for frame in decoder.decode(packet)] or decoder.decode(None)
    shown = frames[0].reformat(
        format="rgb24", src_colorspace="ITU601", src_color_range="MPEG", dst_color_range="JPEG", threads=1
    )
    return np.ascontiguousarray(shown.to_ndarray())


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Lanczos with antialiasing, as platforms make their copies."""
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
