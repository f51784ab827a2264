"""Give freed memory back, so that the peak of a long evaluation is that of its first shard.

glibc keeps freed blocks below a threshold that it raises by itself up to 32 MB, which is the size of a batch of images.
Batches of survivors of ever other sizes then fragment the heap: the process grows a little with every shard, although
nothing is kept.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not


def return_freed_memory() -> None:
    """Ask the C library to return its free blocks to the system; does nothing where it cannot."""
    trim = _trim()
    if trim is not None:
        trim(0)
