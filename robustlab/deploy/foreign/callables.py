"""Any Python function as a model that gives scores, or only labels."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robustlab.core.access import LEVELS
from robustlab.core.errors import RobustlabError, check_choice, check_int, invalid
from robustlab.deploy.foreign.base import ForeignModel
from robustlab.models import ModelInfo, set_info


class CallableModel(ForeignModel):
    """A function of images, asked for scores or labels. Shape: images (N, 3, H, W) in [0, 1] -> logits (N, K).

    Args:
        function: float32 (N, 3, H, W), a tensor or with ``arrays="numpy"`` a NumPy array -> scores (N, classes), or
            labels (N,) of whole numbers below `classes`. It must answer the same for the same images.
        classes: how many.
        access: what the function gives, ``scores`` or ``labels``. With labels the logits are 1 for the class, else 0.
        arrays: ``torch`` or ``numpy``, what the function is given.
        name: shown in results.
        identity: text that says which model this is, such as a version or a hash. Without it every run counts as
            another model, and nothing is taken from a store of results.

    Raises `ArgumentError` for bad arguments; calling it raises `RobustlabError` for answers of another kind.

    Example: ``CallableModel(lambda x: client.classify(x), classes=10, access="labels", arrays="numpy")``.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        classes: int,
        *,
        access: Literal["scores", "labels"] = "scores",
        arrays: Literal["torch", "numpy"] = "torch",
        name: str | None = None,
        identity: str | None = None,
    ) -> None:
        super().__init__()
        if not callable(function):
            raise invalid("function", function, "a function of images")
        self.classes = check_int("classes", classes, 2)
        check_choice("access", access, LEVELS[:2])
        check_choice("arrays", arrays, ("torch", "numpy"))
        if identity is not None and (not isinstance(identity, str) or not identity):
            raise invalid("identity", identity, "a text that is not empty")
        self.robustlab_access = access
        self.arrays = arrays
        self.identity = identity or f"unknown-{uuid.uuid4()}"
        self.source = name or str(getattr(function, "__qualname__", type(function).__name__))
        self._function = function
        set_info(self, ModelInfo(name=self.source, architecture="callable:python"))

    def __deepcopy__(self, memo: object) -> CallableModel:
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Ask the function."""
        asked = images.detach().cpu()
        answer = self._function(asked.clone() if self.arrays == "torch" else asked.numpy().copy())
        if isinstance(answer, np.ndarray):
            answer = torch.from_numpy(np.array(answer))
        if not isinstance(answer, Tensor):
            raise self._wrong(type(answer).__name__, len(images))
        answer = answer.detach().cpu()
        if self.robustlab_access == "labels":
            whole = not answer.is_floating_point() and answer.dtype != torch.bool
            if not whole or tuple(answer.shape) != (len(images),):
                raise self._wrong(f"{answer.dtype} of shape {tuple(answer.shape)}", len(images))
            if len(answer) and not bool(((answer >= 0) & (answer < self.classes)).all()):
                raise self._wrong(f"labels from {int(answer.min())} to {int(answer.max())}", len(images))
            logits = torch.nn.functional.one_hot(answer.long(), self.classes).float()
        else:
            if not answer.is_floating_point() or tuple(answer.shape) != (len(images), self.classes):
                raise self._wrong(f"{answer.dtype} of shape {tuple(answer.shape)}", len(images))
            logits = answer.float()
        return logits.to(images.device)

    def _wrong(self, found: str, count: int) -> RobustlabError:
        wanted = f"float scores ({count}, {self.classes})"
        if self.robustlab_access == "labels":
            wanted = f"whole numbers ({count},) from 0 to {self.classes - 1}"
        return RobustlabError(f"function {self.source} gave {found} for {count} images; allowed: {wanted}")

    def extra_repr(self) -> str:
        """Part of a model's fingerprint."""
        return f"{self.source}, {self.identity}, {self.classes} classes, {self.robustlab_access}"
