"""What robustlab knows about a model besides its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn

_ATTRIBUTE = "robustlab_info"


@dataclass(frozen=True)
class ModelInfo:
    """Name, how to build the architecture again, and where the weights come from.

    `architecture` has a prefix that says who builds it: ``robustlab:``, ``torchvision:``, or ``custom:`` for a class
    of the user's, which is only a name to show. `arguments` is what `robustlab.models.build` takes with it.
    `input_size` is the (H, W) the model was calibrated with, None if unknown.
    """

    name: str
    architecture: str
    arguments: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    class_names: tuple[str, ...] | None = None
    input_size: tuple[int, int] | None = None
    provenance: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    left_float: tuple[str, ...] = ()

    def __deepcopy__(self, memo: object) -> ModelInfo:
        return self


def info_of(model: nn.Module) -> ModelInfo | None:
    """The info attached to a model, None for a module that robustlab did not build."""
    value = getattr(model, _ATTRIBUTE, None)
    return value if isinstance(value, ModelInfo) else None


def set_info(model: nn.Module, info: ModelInfo) -> nn.Module:
    """Attach `info` and return the same model."""
    object.__setattr__(model, _ATTRIBUTE, info)
    return model
