"""What a model gives to those who attack it: its gradient, only its scores, or only its labels."""

from __future__ import annotations

from typing import Literal

from torch import nn

Access = Literal["gradient", "scores", "labels"]
"""Input-gradients; logits; or only the class with the largest logit."""

LEVELS: tuple[Access, ...] = ("labels", "scores", "gradient")
_ATTRIBUTE = "robustlab_access"


def runs_elsewhere(model: object) -> bool:
    """Whether a model declares what it gives, as only models do that another runtime runs."""
    return hasattr(model, _ATTRIBUTE)


def access_of(model: nn.Module) -> Access:
    """What `model` declares to give; ``gradient`` for a module that declares nothing."""
    declared = getattr(model, _ATTRIBUTE, "gradient")
    return declared if declared in LEVELS else "gradient"


def gives(model: nn.Module, needed: Access) -> bool:
    """Whether `model` declares to give what is needed: gradients include scores, and scores include labels."""
    return LEVELS.index(access_of(model)) >= LEVELS.index(needed)
