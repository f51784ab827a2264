"""One way to hash tensors, for model files, fingerprints and checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def update_digest(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Feed name, type, shape and bytes of a tensor to a hash."""
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
