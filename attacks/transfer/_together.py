"""Several models called as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustlab.attacks._victim import logits_of, network_of
from robustlab.core.errors import invalid


class Ensemble(nn.Module):
    """Mean of the logits of several models. Shape: (N, C, H, W) -> (N, K)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(network_of(model) for model in models)

    def forward(self, images: Tensor) -> Tensor:
        """Mean logits. Raises `ArgumentError` where the models have different numbers of classes."""
        answers = _answers(self.models, images)
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(0)


class Pair(nn.Module):
    """The logits of two models side by side. Shape: (N, C, H, W) -> (N, 2 K)."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.models = nn.ModuleList([network_of(first), network_of(second)])

    def forward(self, images: Tensor) -> Tensor:
        """First the logits of the first model. Raises `ArgumentError` as `Ensemble` does."""
        return torch.cat(_answers(self.models, images), dim=1)


def _answers(models: nn.ModuleList, images: Tensor) -> list[Tensor]:
    answers = [logits_of(model, images) for model in models]
    classes = [answer.shape[1] for answer in answers]
    if len(set(classes)) > 1:
        raise invalid("models", f"models of {' and '.join(map(str, classes))} classes", "models of the same classes")
    return answers
