"""What a model is shown in place of the clean images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shown:
    """What a model is shown: images (N, 3, H, W), and where an attack worked on them: bool (N,)."""

    images: Tensor
    attacked: Tensor


def inside_box(shown: Tensor) -> Tensor:
    """bool (N,): whether all values of an image are in [0, 1]."""
    flat = shown.reshape(len(shown), -1)
    return ((flat >= 0) & (flat <= 1)).all(dim=1)


def nobody(images: Tensor) -> Tensor:
    """bool (N,), all False: no sample is attacked."""
    return torch.zeros(len(images), dtype=torch.bool)
