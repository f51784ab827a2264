"""Reads one `cifar-10-batches-py` file as data.

The files are pickles, and unpickling runs whatever a file says. Here the opcodes are only *listed* (pickletools) and
the few that a dictionary of lists, strings and one array needs are interpreted; nothing is imported or called, and
any other opcode or name is refused.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlab.core.errors import DataError

_PUSHES = {
    "BININT", "BININT1", "BININT2", "LONG1", "INT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE",
    "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NAMES = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy ndarray": "class",
    "numpy dtype": "dtype",
    "_codecs encode": "bytes",
}
_MARK = object()


@dataclass
class _Named:
    """One of the allowed names, or the object that calling it would have made; never the real thing."""

    kind: str
    arguments: tuple[Any, ...] | None = None
    state: tuple[Any, ...] | None = None


def read_python_batch(content: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Data uint8 (N, 3072) and labels int64 (N,) of a batch file; raises `DataError` naming `where` otherwise."""
    try:
        batch = _interpret(content)
        entries = {_text(key): value for key, value in batch.items()}
        data, labels = _array(entries["data"]), entries["labels"]
        if not (isinstance(labels, list) and all(type(v) is int for v in labels) and len(labels) == len(data)):
            raise ValueError(f"labels are not a list of {len(data)} whole numbers")
        return data, np.asarray(labels, dtype=np.int64)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise DataError(f"{where} is not a CIFAR-10 batch ({reason}); allowed: the published files") from error


def _interpret(content: bytes) -> dict[Any, Any]:
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = max(i for i, value in enumerate(stack) if value is _MARK)
        values = stack[start + 1 :]
        del stack[start:]
        return values

    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in _PUSHES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            size = _TUPLES[name]
            values = tuple(stack[len(stack) - size :])
            del stack[len(stack) - size :]
            stack.append(values)
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            values_list = since_mark()
            stack[-1].extend(values_list)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][_text(key)] = value
        elif name == "SETITEMS":
            items = since_mark()
            stack[-1].update({_text(k): v for k, v in zip(items[::2], items[1::2], strict=True)})
        elif name == "GLOBAL":
            stack.append(_Named(_NAMES[argument]))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Named(_NAMES[f"{module} {attribute}"]))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack[-1] = _Named(stack[-1].kind, arguments)
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"opcode {name} is not allowed")
    if len(stack) != 1 or not isinstance(stack[0], dict):
        raise ValueError("not one dictionary")
    return stack[0]


def _bytes(value: Any) -> bytes:
    """Bytes of a Python 2 string (listed as latin-1 text), of a bytes object, or of a call of `_codecs.encode`."""
    if isinstance(value, _Named) and value.kind == "bytes" and value.arguments:
        value = value.arguments[0]
    return value if isinstance(value, bytes) else str.encode(value, "latin-1")


def _text(value: Any) -> str:
    return _bytes(value).decode("latin-1")


def _array(value: Any) -> NDArray[np.uint8]:
    """The uint8 matrix of a listed `ndarray`: state is (version, shape, dtype, Fortran order, bytes)."""
    if not (isinstance(value, _Named) and value.kind == "array" and value.state):
        raise ValueError("data is not an array")
    _, shape, dtype, fortran, raw = value.state
    if not (isinstance(dtype, _Named) and dtype.kind == "dtype" and dtype.arguments and dtype.arguments[0] == "u1"):
        raise ValueError("data is not uint8")
    flat = np.frombuffer(_bytes(raw), dtype=np.uint8)
    if fortran or len(shape) != 2 or shape[1] != 3072 or shape[0] * 3072 != len(flat):
        raise ValueError(f"data has shape {shape} and {len(flat)} bytes")
    return flat.reshape(-1, 3072)
