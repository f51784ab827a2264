"""The `signs` data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import torch
from torch import Tensor

from robustlab.core.errors import check_choice, check_int
from robustlab.core.keys import generators, sample_keys
from robustlab.datasets.base import SPLITS, check_indices
from robustlab.datasets.signs.difficulty import DEFAULT, Difficulty
from robustlab.datasets.signs.render import CROP, GENERATOR_VERSION, label, render_with
from robustlab.datasets.signs.templates import CLASS_NAMES

SIZES = {"train": 40_000, "test": 10_000}


class Signs:
    """Procedurally rendered traffic signs: 24 classes, 3 x 64 x 64, 40,000 to train and 10,000 to test.

    Image i of a split is a function of (seed, split, i) alone, bit for bit. Every 24 consecutive images hold each
    class once, so that any prefix is balanced.
    """

    name = "signs"
    class_names = CLASS_NAMES
    image_size = (CROP, CROP)

    def __init__(self, split: str = "test", *, seed: int = 0, difficulty: Difficulty = DEFAULT) -> None:
        """Choose a split, ``"test"`` or ``"train"``; raises `ArgumentError` for another or a negative seed."""
        self.split = check_choice("split", split, SPLITS)
        self.seed = check_int("seed", seed, 0)
        self.difficulty = difficulty
        text = f"signs/{GENERATOR_VERSION}/{seed}/{split}/{astuple(difficulty)}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return SIZES[self.split]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 3, 64, 64), multiples of 1/255, and labels int64 (N,)."""
        numbers = check_indices(indices, len(self))
        labels = [label(self.seed, self.split, i) for i in numbers]
        pixels = np.empty((len(numbers), CROP, CROP, 3), dtype=np.uint8)
        streams = generators(sample_keys(self.seed, f"signs-{self.split}", numbers))
        for row, (generator, class_index) in enumerate(zip(streams, labels, strict=True)):
            pixels[row] = render_with(generator, self.seed, self.split, class_index, self.difficulty)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return images / 255, torch.tensor(labels, dtype=torch.int64)
