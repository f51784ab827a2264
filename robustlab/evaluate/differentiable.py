"""What an attack differentiates: a model itself, or the same model with a straight-through gradient where it rounds."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.core import Tiled, frozen
from robustlab.deploy import gradient_kind
from robustlab.deploy.repair import Repaired
from robustlab.evaluate.probe import input_gradient, margin

_log = logging.getLogger(__name__)

STRAIGHT = "surrogate:straight-through"
OWN = "surrogate:own"
_STEP = 4 / 255


@dataclass(frozen=True, eq=False)
class Differentiable:
    """The module that attacks are given, which answers exactly as the model does, and what its gradient is.

    gradient: ``exact``; ``surrogate:NAME``, where ``own`` is what a model that rounds came with and
    ``straight-through`` what was put in its place; or ``none``.
    """

    model: nn.Module
    gradient: str


def differentiable(name: str, model: nn.Module, images: Tensor, tile: int) -> Differentiable:
    """Find a gradient of `model` on images (N, 3, H, W), 1 <= N <= tile, and say in the log what is unusual about it.

    A model whose layers state a surrogate keeps it. Any other one is searched for rounding, signs, casts and quantizers
    as it runs. Where it has them, its own gradient stays if a step along it moves the model's margins as far as one
    along the straight-through gradient does, as with the estimator that a network was trained with. Comparisons are
    only looked at where nothing else has a gradient.
    """
    kind = gradient_kind(model)
    if kind != "exact":
        own, reason = input_gradient(name, model, images, tile)
        return Differentiable(model, kind) if own is not None else _none(name, model, reason)
    straight = Repaired(model, scope="rounding")
    found, reason = input_gradient(name, straight, images, tile)
    own = found
    if straight.seen:
        own, reason = input_gradient(name, model, images, tile)
        if _usable(found) and (not _usable(own) or _rise(model, images, found, tile) > _rise(model, images, own, tile)):
            return _straight(name, straight)
    if _usable(own):
        return Differentiable(model, OWN if straight.seen else kind)
    stepped = Repaired(model, scope="steps")
    found, _ = input_gradient(name, stepped, images, tile)
    if stepped.seen and _usable(found):
        return _straight(name, stepped)
    return Differentiable(model, kind) if own is not None else _none(name, model, reason)


def _usable(gradient: Tensor | None) -> bool:
    return gradient is not None and bool((gradient != 0).any())


def _rise(model: nn.Module, images: Tensor, gradient: Tensor | None, tile: int) -> float:
    """How far a step along the gradient moves the mean margin."""
    assert gradient is not None
    with torch.inference_mode(False), torch.no_grad(), frozen(model):
        ask = Tiled(model, tile)
        logits = ask(images)
        classes = logits.argmax(dim=1)
        moved = ask((images + _STEP * gradient.nan_to_num().sign()).clamp(0, 1))
        rise = margin(moved, classes) - margin(logits, classes)
    return float(rise.double().mean().nan_to_num())


def _straight(name: str, repaired: Repaired) -> Differentiable:
    what = ", ".join(sorted(repaired.seen))
    _log.warning("model %s has no useful gradient through: %s; attacks follow a straight-through one", name, what)
    return Differentiable(repaired, STRAIGHT)


def _none(name: str, model: nn.Module, reason: str) -> Differentiable:
    _log.warning("model %s has no gradient (%s): gradient attacks on it are not_attacked", name, reason)
    return Differentiable(model, "none")
