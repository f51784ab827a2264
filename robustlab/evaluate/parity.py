"""Parity: does the deployed model compute exactly what its simulation computes?"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from robustlab.core import Tiled, frozen
from robustlab.deploy import simulated_twin

IMAGES = 256


class ParityRow(TypedDict):
    """One row of `results.json`'s ``parity``: of `logits` numbers compared, `different` are not equal."""

    model: str
    logits: int
    different: int


def count_different(first: Tensor, second: Tensor) -> int:
    """Elements that are not equal; NaN equals NaN."""
    return int((~((first == second) | (first.isnan() & second.isnan()))).sum())


def compare(name: str, model: nn.Module, images: Tensor, tile: int) -> ParityRow | None:
    """Compare a deployed model with its simulation on clean images, tile by tile; None for a float model."""
    twin = simulated_twin(model)
    if twin is None:
        return None
    twin = twin.to(images.device)
    with frozen(model), frozen(twin), torch.no_grad():
        deployed = Tiled(model, tile)(images)
        simulated = Tiled(twin, tile)(images)
    return ParityRow(model=name, logits=deployed.numel(), different=count_different(deployed, simulated))
