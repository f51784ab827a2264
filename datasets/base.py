"""What every data set offers, and the checks they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from robustlab.core.errors import invalid

SPLITS = ("test", "train")


class Dataset(Protocol):
    """Labelled images that are made, read or decoded on demand.

    `fingerprint` is a hex string that changes when the content does: the generator's version, seed and split, or a
    hash of the files.
    """

    @property
    def name(self) -> str:
        """Name of the data set, such as ``signs``."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per label."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""

    @property
    def fingerprint(self) -> str:
        """Hex digest that identifies the content."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 3, H, W) in [0, 1] and labels int64 (N,) at `indices`, in that order."""


def check_indices(indices: Sequence[int], count: int) -> list[int]:
    """Return `indices` as a list if all are whole numbers in [0, count); otherwise raise `ArgumentError`."""
    numbers = [int(i) for i in indices]
    for given, number in zip(indices, numbers, strict=True):
        if number != given or not 0 <= number < count:
            raise invalid("indices", given, f"whole numbers from 0 to {count - 1}")
    return numbers
