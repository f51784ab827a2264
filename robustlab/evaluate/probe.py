"""One tile through a model before the run: does it take these images, answer as it should, and have a gradient?"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from robustlab.core import Tiled, frozen
from robustlab.core.errors import invalid
from robustlab.core.tiles import pad_rows
from robustlab.datasets import Dataset
from robustlab.deploy import ForeignModel, class_names, input_size

_log = logging.getLogger(__name__)

# What the code of a model raises where images do not fit it; torch's own errors are RuntimeErrors.
_MODEL_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def check_parameters(name: str, model: nn.Module) -> None:
    """Raise `ArgumentError` for a model whose tensors were made under inference mode: they track no changes."""
    if any(t.is_inference() for t in (*model.parameters(), *model.buffers())):
        raise invalid(f"model {name}", "made under torch.inference_mode()", "a model made outside it")


def check_answers(name: str, model: nn.Module, images: Tensor, data: Dataset, tile: int) -> None:
    """Raise `ArgumentError` unless the model takes images (1 <= N <= tile) of `data` and gives a logit for each class.

    It must also leave its input as it is: with what it writes there it would change what others are shown.
    """
    argument = f"model {name}"
    made_for = input_size(model)
    if made_for is not None and tuple(made_for) != tuple(data.image_size):
        sizes = " and ".join("x".join(map(str, size)) for size in (made_for, data.image_size))
        raise invalid(argument, f"made for other images than those of {data.name} ({sizes})", "images of one size")
    shape = "x".join(str(size) for size in images.shape[1:])
    with torch.inference_mode(False), torch.no_grad():
        batch = pad_rows(images, tile)
        shown = batch.clone()  # The images can be the data set's own memory.
        version = shown._version
        try:
            with frozen(model):
                logits = model(shown)
        except _MODEL_ERRORS as error:
            raise invalid(argument, _reason(error), f"a model of {shape} images as in {data.name}") from error
        written = shown._version != version or not torch.equal(shown, batch)
    if written:
        raise invalid(argument, "writing into its input", "a model that leaves its input images unchanged")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != tile:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise invalid(argument, f"output {found}", f"logits ({tile}, classes) for {tile} images")
    names = class_names(model)
    if names is not None and tuple(names) != tuple(data.class_names):
        odd = next(
            (n for one, other in ((data.class_names, names), (names, data.class_names)) for n in one if n not in other),
            "in another order",
        )
        raise invalid(argument, f"made for other classes ({odd})", f"models of the classes of {data.name}")
    if not logits.is_floating_point() or logits.shape[1] != len(data.class_names):
        found = f"{logits.shape[1]} logits of {logits.dtype}"
        allowed = f"float logits, one for each of the {len(data.class_names)} classes of {data.name}"
        if isinstance(model, ForeignModel) and names is None and logits.shape[1] > len(data.class_names):
            allowed += f" (or a side-car {model.source}.json whose class_names are all of the model's)"
        raise invalid(argument, found, allowed)


def input_gradient(name: str, model: nn.Module, images: Tensor, tile: int) -> tuple[Tensor | None, str]:
    """How the margin of the model's own predictions falls with its images, (N, 3, H, W), or None and the reason."""
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        leaf = images.detach().clone().requires_grad_()
        reason = "its output does not depend on its images through operations with a gradient"
        gradient = None
        try:
            logits = Tiled(model, tile)(leaf)
            if logits.requires_grad:
                loss = margin(logits, logits.argmax(dim=1))
                (gradient,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
        except torch.OutOfMemoryError as error:
            raise invalid(f"model {name}", _reason(error), f"a model whose gradient fits for {tile} images") from error
        except _MODEL_ERRORS as error:
            reason = _reason(error)  # Such as an operator without a derivative, or one that breaks another's.
    return gradient, reason


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """The largest other logit minus that of the class, for each of N: logits (N, K >= 2), classes int64 (N,)."""
    own = logits.gather(1, classes[:, None])[:, 0]
    return logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1) - own
