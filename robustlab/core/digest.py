"""One way to hash tensors and modules, for model files, fingerprints and checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from types import CellType, CodeType

import torch
from torch import Tensor, fx, nn


def update_digest(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Feed name, type, shape and bytes of a tensor to a hash; of a tensor type that holds others, those."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, context = tensor.__tensor_flatten__()
        digest.update(f"{name}|{type(tensor).__qualname__}|{context!r}|".encode())
        for inner in names:
            update_digest(digest, f"{name}.{inner}", getattr(tensor, inner))
        return
    values = tensor.detach().cpu().contiguous()
    digest.update(f"{name}|{values.dtype}|{tuple(values.shape)}|".encode())
    if values.numel():
        digest.update(values.flatten().view(torch.uint8).numpy().data)


def tensors_digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """sha256 (hex) of `text` and of named tensors, whatever their order."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        update_digest(digest, name, tensors[name])
    return digest.hexdigest()


def describe_module(name: str, module: nn.Module) -> tuple[str, str]:
    """(name, class and extra_repr, plain attributes) of a module, as text to hash.

    Plain attributes are public numbers, strings and lists of them, such as the heads of an attention layer.
    """
    attributes = [
        f"{key}={value!r}|"
        for key, value in sorted(vars(module).items())
        if key != "training" and not key.startswith("_") and _plain(value)
    ]
    return f"{name}|{type(module).__qualname__}|{module.extra_repr()}|", "".join(attributes)


_OURS = ("torch.", "torchvision.", "robustlab.")
"""Packages whose versions are known, so that the code of their modules need not be looked at."""


def describe_code(module: nn.Module) -> str:
    """The code of a module's ``forward`` where it is not a library's, and of functions that it holds, as text to hash.

    Code is what Python compiled, with its constants, the names it uses, and the plain values it closes over.
    """
    functions: dict[str, object] = {
        key: value
        for key, value in sorted(vars(module).items())
        if callable(value) and not isinstance(value, nn.Module)
    }
    if isinstance(module, fx.GraphModule):
        return module.code
    if not type(module).__module__.startswith(_OURS):
        functions["forward()"] = type(module).forward
    return "".join(f"{key}={_code(value)}|" for key, value in functions.items())


def _code(function: object, within: tuple[object, ...] = ()) -> str:
    """The code behind a function, a method or a partial one; of any other object its class.

    `within`: the functions that this one was found in, for one that closes over itself.
    """
    if isinstance(function, partial):
        held = [_value(value, within) for value in (*function.args, *sorted(function.keywords.items()))]
        return f"partial {_code(function.func, within)} {held}"
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        kind = function if isinstance(function, type) or hasattr(function, "__qualname__") else type(function)
        return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
    if any(function is outer for outer in within):
        return "itself"
    within = (*within, function)
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _filled(cell)]
    named = sorted((getattr(function, "__kwdefaults__", None) or {}).items())
    held = [_value(value, within) for value in (*cells, *(getattr(function, "__defaults__", None) or ()), *named)]
    return f"{_compiled(code)} {held}"


def _compiled(code: CodeType) -> str:
    return f"{code.co_code.hex()} {code.co_names} {[_constant(value) for value in code.co_consts]}"


def _constant(value: object) -> str:
    if isinstance(value, CodeType):
        return _compiled(value)
    if isinstance(value, frozenset):  # In another order in every process.
        return str(sorted(map(_constant, value)))
    return str([_constant(item) for item in value]) if isinstance(value, tuple) else repr(value)


def _filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # Not filled yet.
        return False
    return True


def _value(value: object, within: tuple[object, ...]) -> str:
    """A plain value or a function as text; of a tensor its bytes; of anything else its class."""
    if isinstance(value, tuple) and not _plain(value):
        return str([_value(item, within) for item in value])
    if _plain(value):
        return repr(value)
    if isinstance(value, Tensor):
        return tensors_digest({"": value})
    return _code(value, within)


def describe_model(model: nn.Module) -> str:
    """What `describe_module` says of all modules of a model: everything about it that is no tensor."""
    return "".join(part for name, module in model.named_modules() for part in describe_module(name, module))


def _plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
