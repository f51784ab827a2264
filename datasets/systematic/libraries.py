"""The libraries that decode and resize: imported when used, never imitated where they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from robustlab.core.errors import DataError

# The name used here -> (module, distribution).
_LIBRARIES = {
    "pillow": ("PIL", "pillow"),
    "torch": ("torch", "torch"),
    "opencv": ("cv2", "opencv-python-headless"),
    "ffmpeg": ("av", "av"),
    "simplejpeg": ("simplejpeg", "simplejpeg"),
    "imagecodecs": ("imagecodecs", "imagecodecs"),
}


def is_installed(library: str) -> bool:
    """Whether the library can be imported."""
    return importlib.util.find_spec(_LIBRARIES[library][0]) is not None


def missing(libraries: Iterable[str]) -> str | None:
    """Why these libraries cannot be used: names the ones that are not installed. None where all are there."""
    absent = [_LIBRARIES[name][1] for name in libraries if not is_installed(name)]
    if not absent:
        return None
    return f"{' and '.join(absent)} not installed (pip install 'robustlab[systematic]')"


def load(library: str) -> Any:
    """The module; raises `DataError` where it is not installed."""
    try:
        return importlib.import_module(_LIBRARIES[library][0])
    except ImportError as error:
        raise DataError(f"{missing([library]) or f'{library} cannot be imported ({error})'}") from error


def version(library: str) -> str:
    """Of the library, and of the decoder or scaler inside it where that has a version of its own."""
    module = load(library)
    own = str(getattr(module, "__version__", "")) or metadata.version(_LIBRARIES[library][1])
    if library == "pillow":
        features = importlib.import_module("PIL.features")
        return f"{own} (libjpeg-turbo {features.version('libjpeg_turbo')}, libwebp {features.version('webp')})"
    if library == "ffmpeg":
        inside = module.library_versions
        numbers = ", ".join(f"{name} {'.'.join(map(str, inside[name]))}" for name in ("libavcodec", "libswscale"))
        return f"{own} ({numbers})"
    return own
