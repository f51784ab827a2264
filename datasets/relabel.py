"""The same images with their classes in another order, as a model that was trained elsewhere numbers them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustlab.core.errors import invalid
from robustlab.datasets.base import Dataset


@dataclass(frozen=True, eq=False)
class Relabelled:
    """`dataset` with `class_names` in this order: each once, all of its own among them."""

    dataset: Dataset
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        known = set(self.dataset.class_names)
        if len(set(self.class_names)) != len(self.class_names) or not known <= set(self.class_names):
            wanted = f"names that are there once, among them {', '.join(self.dataset.class_names)}"
            raise invalid("class_names", self.class_names, wanted)

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.dataset.name

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of its images."""
        return self.dataset.image_size

    @property
    def fingerprint(self) -> str:
        """Of the images and the order."""
        return hashlib.sha256("\n".join([self.dataset.fingerprint, *self.class_names]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 3, H, W) and labels int64 (N,) in the new order."""
        images, labels = self.dataset.batch(indices)
        order = torch.tensor([self.class_names.index(name) for name in self.dataset.class_names])
        return images, order[labels]
