"""Colour conversions on the way from the decoder to the model: uint8 (H, W, 3) RGB -> uint8 (H, W, 3) RGB.

Video pipelines and camera drivers hand pictures over as NV12: luma at full and chroma at half resolution, by the matrix
of BT.601 or BT.709, in the full range of 0 to 255 or the limited one of 16 to 235. Read with another matrix or range
than it was written with, the picture changes its colours or its contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from robustlab.datasets.systematic.decoders import Pixels
from robustlab.datasets.systematic.libraries import load


@dataclass(frozen=True)
class Colour:
    """A conversion; `library` is None where nothing is computed. `bug`: a mistake that no deployment means to make."""

    name: str
    library: str | None
    convert: Callable[[Pixels], Pixels]
    description: str
    bug: bool = False


def _same(pixels: Pixels) -> Pixels:
    return pixels


def _swapped(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[..., ::-1])


def _even(pixels: Pixels) -> Pixels:
    """With the last row and column repeated where a side is odd: chroma is stored for pairs."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _swscale(written: tuple[str, str], read: tuple[str, str]) -> Callable[[Pixels], Pixels]:
    """Through NV12 with FFmpeg's swscale: written with one (matrix, range), read with another."""

    def convert(pixels: Pixels) -> Pixels:
        reformatter = load("ffmpeg").video.reformatter
        space, reach = reformatter.Colorspace, reformatter.ColorRange
        frame = load("ffmpeg").VideoFrame.from_ndarray(_even(pixels), format="rgb24")
        stored = frame.reformat(
            format="nv12", dst_colorspace=space[written[0]], dst_color_range=reach[written[1]], threads=1
        )
        shown = stored.reformat(
            format="rgb24",
            src_colorspace=space[read[0]],
            src_color_range=reach[read[1]],
            dst_color_range=reach["JPEG"],
            threads=1,
        )
        return np.ascontiguousarray(shown.to_ndarray()[: pixels.shape[0], : pixels.shape[1]])

    return convert


def _opencv_nv12(pixels: Pixels) -> Pixels:
    cv2 = load("opencv")
    even = _even(pixels)
    height, width = even.shape[:2]
    planes = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420).reshape(-1)
    luma, chroma = planes[: height * width], planes[height * width :].reshape(2, -1)
    stored = np.concatenate([luma, chroma.T.reshape(-1)]).reshape(height * 3 // 2, width)
    shown = cv2.cvtColor(stored, cv2.COLOR_YUV2RGB_NV12)
    return np.ascontiguousarray(shown[: pixels.shape[0], : pixels.shape[1]])


_601, _601_FULL = ("ITU601", "MPEG"), ("ITU601", "JPEG")
_709 = ("ITU709", "MPEG")

COLOURS: Mapping[str, Colour] = {
    colour.name: colour
    for colour in (
        Colour("rgb", None, _same, "no conversion"),
        Colour("bgr", None, _swapped, "red and blue change places", bug=True),
        Colour("nv12.601", "ffmpeg", _swscale(_601, _601), "NV12, BT.601, limited range (swscale)"),
        Colour("nv12.601full", "ffmpeg", _swscale(_601_FULL, _601_FULL), "NV12, BT.601, full range (swscale)"),
        Colour("nv12.709", "ffmpeg", _swscale(_709, _709), "NV12, BT.709, limited range (swscale)"),
        Colour("nv12.709as601", "ffmpeg", _swscale(_709, _601), "NV12 written as BT.709, read as BT.601", bug=True),
        Colour("nv12.fullaslimited", "ffmpeg", _swscale(_601_FULL, _601), "NV12, full range read as limited", bug=True),
        Colour("nv12.limitedasfull", "ffmpeg", _swscale(_601, _601_FULL), "NV12, limited range read as full", bug=True),
        Colour("nv12.opencv", "opencv", _opencv_nv12, "NV12, BT.601, limited range (OpenCV)"),
    )
}
