"""The model under audit: what it answers, and what counts as broken, for models that are random as well."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from robustlab.core import Ball, frozen
from robustlab.core.keys import sample_keys
from robustlab.core.tiles import tiles

BATCH = 64
JUDGE_DRAWS = 16
"""How often a random model is asked before an image counts as broken: it must be wrong in more than half of them."""


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Everything that a model may draw from without being told is seeded, and restored at the end."""
    number = int(sample_keys(seed, purpose, [0])[0]) & 0x7FFFFFFF
    state, python_state, numpy_state = torch.random.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def logits_in_batches(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K) of images (N, C, H, W), without a gradient."""
    with torch.no_grad():
        return torch.cat([model(images[a:b].clone()) for a, b in tiles(len(images), BATCH)])


@dataclass(frozen=True, eq=False)
class Target:
    """What is audited.

    Attributes:
        model: images (N, C, H, W) -> logits (N, K).
        ball: the threat model.
        images: (N, C, H, W); labels: (N,).
        seed: of everything random.
        random: whether two forward passes differ.
        classes: how many logits there are.
    """

    model: nn.Module
    ball: Ball
    images: Tensor
    labels: Tensor
    seed: int
    random: bool = False
    classes: int = 2

    def right(self, images: Tensor, labels: Tensor, purpose: str) -> Tensor:
        """bool (n,): whether the model gives the labels, and its logits are finite.

        A random model must do so in at least half of `JUDGE_DRAWS` passes. Logits that are not finite count as right:
        an attack has not shown anything there.
        """
        if not len(images):
            return torch.zeros(0, dtype=torch.bool)
        draws = JUDGE_DRAWS if self.random else 1
        with seeded(self.seed, f"judge/{purpose}"), frozen(self.model):
            votes = torch.zeros(len(images))
            for _ in range(draws):
                logits = logits_in_batches(self.model, images)
                finite = torch.isfinite(logits).all(1)
                votes += ((logits.argmax(1) == labels) | ~finite).float()
        return votes * 2 >= draws

    def broken(self, adversarial: Tensor, rows: Tensor, purpose: str) -> Tensor:
        """bool (n,): whether images made from the samples `rows` are in the threat model and no longer right."""
        inside = self.ball.contains(adversarial, self.images[rows])
        return inside & ~self.right(adversarial, self.labels[rows], purpose)


def is_random(model: nn.Module, images: Tensor, seed: int) -> bool:
    """Whether three forward passes on the same images differ."""
    with seeded(seed, "random"), frozen(model):
        first = logits_in_batches(model, images)
        return any(not torch.equal(first, logits_in_batches(model, images)) for _ in range(2))
