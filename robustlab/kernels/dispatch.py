"""Which kernels run: the best the machine offers, or the ones `ROBUSTLAB_KERNELS` or `use_backend` name."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

from robustlab.core.errors import invalid

BACKENDS = ("reference", "scalar", "neon", "avx2", "avx512")
"""Every backend by name, slowest first."""

_VARIABLE = "ROBUSTLAB_KERNELS"
_forced: ContextVar[str | None] = ContextVar("robustlab_kernels", default=None)
_logger = logging.getLogger("robustlab.kernels")


@cache
def extension() -> ModuleType | None:
    """The compiled extension, or None (said once in the log) if there is none to load."""
    name = "robustlab.kernels._native"
    if importlib.util.find_spec(name) is None:
        _logger.warning("robustlab was installed without a C++ compiler: its slow reference kernels run")
        return None
    try:
        return importlib.import_module(name)
    except ImportError as error:
        _logger.warning("the compiled kernels cannot be loaded, so the slow reference kernels run: %s", error)
        return None


@cache
def available() -> tuple[str, ...]:
    """The backends that can run here, slowest first."""
    native = extension()
    return ("reference",) if native is None else ("reference", *native.available())


def _checked(argument: str, name: str) -> str:
    if name not in available():
        unavailable = ", ".join(b for b in BACKENDS if b not in available())
        note = f" ({unavailable} cannot run here)" if unavailable else ""
        raise invalid(argument, name, ", ".join(available()) + note)
    return name


@cache
def _default() -> str:
    name = os.environ.get(_VARIABLE, "")
    return _checked(_VARIABLE, name) if name else available()[-1]


def backend() -> str:
    """Name of the backend in use; `ArgumentError` if `ROBUSTLAB_KERNELS` names one that cannot run here."""
    return _forced.get() or _default()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the kernels of one backend inside a `with` block; `ArgumentError` if it cannot run here."""
    token = _forced.set(_checked("backend", name))
    try:
        yield
    finally:
        _forced.reset(token)


def info() -> dict[str, object]:
    """The backend in use, those available, the instruction sets of the processor that matter, and the compiler."""
    native = extension()
    return {
        "backend": backend(),
        "available": list(available()),
        "cpu_flags": [] if native is None else list(native.cpu_flags()),
        "compiler": None if native is None else native.compiler(),
    }
