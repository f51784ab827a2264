"""Conditions that need more of a run than the images: the other models, or the model itself to change it.

Such a condition has `bind`, which gives the condition of one model in one run; its `parameters` carry all that its
results depend on. Where it has `altered`, the model is judged as that context gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from robustlab.core import Tiled
from robustlab.evaluate.conditions import Condition


@dataclass(frozen=True, eq=False)
class Source:
    """Another model of the run, and what identifies it with its gradient."""

    identity: str
    model: nn.Module
    differentiable: bool


@dataclass(frozen=True, eq=False)
class Setting:
    """One model in one run. `first` gives the first so many images and labels of the data set."""

    name: str
    model: nn.Module
    others: tuple[Source, ...]
    first: Callable[[int], tuple[Tensor, Tensor]]
    seed: int


@runtime_checkable
class Bindable(Protocol):
    """A condition that is another one for each model of a run."""

    def bind(self, setting: Setting) -> Condition:
        """The condition of that model; cheap, and `ArgumentError` where the model or the run does not fit."""


@runtime_checkable
class Altering(Protocol):
    """A bound condition that changes the model while it is judged."""

    def altered(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """A context in which the model is changed; afterwards it is what it was."""


@contextmanager
def judged(condition: Condition, tiled: Tiled) -> Iterator[nn.Module]:
    """The model that is asked under a condition."""
    if not isinstance(condition, Altering):
        yield tiled
        return
    with condition.altered(tiled.model) as model:
        yield Tiled(model, tiled.tile).eval()
