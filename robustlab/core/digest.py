"""One way to hash tensors and modules, for model files, fingerprints and checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


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


def describe_model(model: nn.Module) -> str:
    """What `describe_module` says of all modules of a model: everything about it that is no tensor."""
    return "".join(part for name, module in model.named_modules() for part in describe_module(name, module))


def _plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
