"""How the C library keeps and returns memory while models are evaluated."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

# Parameters of glibc's mallopt(3), which takes an int, and what glibc's own adaptation ends at.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_ADAPTED = 2**25
_DEFAULT_MAPPINGS = 65536


@cache
def _library(name: str) -> Callable[..., int] | None:
    """A function of the C library; glibc has those asked for here, musl does not."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def return_freed_memory() -> None:
    """Ask the C library to return its free blocks to the system; does nothing where it cannot.

    Batches of survivors of ever other sizes fragment the heap: without this the process grows a little with every
    shard, although nothing is kept.
    """
    trim = _library("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def reusing_freed_memory() -> Iterator[None]:
    """Within, large blocks are taken from what was freed; does nothing where the C library cannot, or was told how.

    glibc asks the system for every block above 32 MB and returns it at once. The activations of a network on a tile of
    large images are such blocks, and the system clears each page of them again for every layer, which took more than
    twice the time of a float MobileNetV2 itself. Afterwards glibc's thresholds are those it adapts itself to.
    """
    setting = _library("mallopt")
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if setting is None or told:
        yield
        return
    setting(_MMAP_MAX, 0)
    setting(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        setting(_MMAP_MAX, _DEFAULT_MAPPINGS)
        setting(_MMAP_THRESHOLD, _ADAPTED)
        setting(_TRIM_THRESHOLD, 2 * _ADAPTED)
        return_freed_memory()
