"""What a post-training method is handed, and what it has to do with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustlab.compress.layers import CompressedLayer
from robustlab.compress.observers import OBSERVERS
from robustlab.compress.ptq.grid import rescale
from robustlab.compress.quantizers import ActivationQuantizer
from robustlab.core.errors import check_choice
from robustlab.core.progress import Progress, SilentProgress


@dataclass(frozen=True)
class Work:
    """One model on its way through a post-training method.

    model: compressed and calibrated, changed in place. reference: the float model it was made of, batch norms folded,
    with the same names. names: the layers to work on, in the order they run. batches: calibration images.
    """

    model: nn.Module
    reference: nn.Module
    names: tuple[str, ...]
    batches: Sequence[Tensor]
    seed: int = 0
    progress: Progress = field(default_factory=SilentProgress)

    def layers(self) -> Iterator[tuple[str, CompressedLayer, ActivationQuantizer]]:
        """(name, layer, quantizer of its input) of the layers with integer grids: binary ones are left out."""
        for name in self.names:
            layer = self.model.get_submodule(name)
            assert isinstance(layer, CompressedLayer)
            if isinstance(layer.quantize_input, ActivationQuantizer):
                yield name, layer, layer.quantize_input


@dataclass(frozen=True)
class Method:
    """A post-training method: hyper-parameters, and the two places where it may act.

    observer: the rule that finds the ranges of weights and activations, one of `OBSERVERS`.
    any_grid: whether weights of every `WeightScheme` will do; else symmetric ones, per output channel.
    """

    any_grid: ClassVar[bool] = True
    observer: str = "mse"

    def __post_init__(self) -> None:
        check_choice("observer", self.observer, OBSERVERS)

    def prepare(self, model: nn.Module, images: Tensor) -> None:
        """Change the float model, batch norms folded, before quantizers are placed; `images` are a few to run it on."""

    def apply(self, work: Work) -> None:
        """Change the compressed model after its activation grids are set."""


def hold_all(work: Work) -> None:
    """Fix the codes and scales that all layers have now, so that no forward pass looks for them anew."""
    for _, layer, _ in work.layers():
        rescale(layer, torch.ones(len(layer.weight)))
