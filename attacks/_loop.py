"""The one loop that every gradient attack runs: loss, gradient, step, projection, and who leaves early."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.attacks._gradient import (
    Loss,
    cross_entropy,
    finite_rows,
    in_tiles,
    logits_and_gradient,
    logits_of,
    network_of,
)
from robustlab.core import Ball, frozen
from robustlab.core.errors import check_images, check_labels, invalid
from robustlab.core.keys import check_keys

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttackResult:
    """What an attack did.

    Attributes:
        images: float32 (N, C, H, W), in the threat model. A sample that the model gets wrong already is unchanged.
        attacked: bool (N,). False where logits or gradients that are not finite stopped the attack: such a sample
            says nothing about robustness, and must never be counted as broken.
        gradient_calls: input-gradients computed, summed over samples (a sample that leaves early costs fewer).
    """

    images: Tensor
    attacked: Tensor
    gradient_calls: int


@dataclass(frozen=True)
class Schedule:
    """What distinguishes one first-order attack from another: `steps` of length `step_size` in `ball`."""

    ball: Ball
    steps: int
    step_size: float
    random_start: bool


def ascend(
    model: nn.Module, images: Tensor, labels: Tensor, keys: Tensor, schedule: Schedule, loss: Loss = cross_entropy
) -> AttackResult:
    """Projected steepest ascent of `loss` over the ball around each image.

    A sample leaves the batch as soon as logits that were computed anyway show that it is broken, with the iterate
    that breaks it; the last iterate is returned unseen. With a random start the clean images cost one forward pass
    without gradient, so that what the model already gets wrong is not attacked. A sample whose logits or gradient
    stop being finite leaves with its last iterate that had finite logits.

    Shape: images (N, C, H, W) in [0, 1], labels int64 (N,), keys int64 (N,).
    Raises `ArgumentError` for bad images, labels or keys, and for a model without logits (N, K) or without gradient.
    """
    _check(model, images, labels, keys)
    with torch.inference_mode(False), torch.enable_grad():
        # Copies: a tensor made under inference mode cannot enter a graph, and the result must not alias the input.
        origin, labels = images.detach().clone(), labels.to(images.device, copy=True)
        result, attacked = origin.clone(), torch.ones(len(origin), dtype=torch.bool, device=origin.device)
        if not len(origin):
            return AttackResult(result, attacked, 0)
        with frozen(model):
            calls = _ascend(model, origin, labels, keys, schedule, loss, result, attacked)
    return AttackResult(result, attacked, calls)


def _ascend(
    model: nn.Module,
    origin: Tensor,
    labels: Tensor,
    keys: Tensor,
    schedule: Schedule,
    loss: Loss,
    result: Tensor,
    attacked: Tensor,
) -> int:
    """Fill `result` and `attacked` (in place); return the number of input-gradients."""
    network, ball = network_of(model), schedule.ball
    rows = torch.arange(len(origin), device=origin.device)  # Where in the batch each surviving sample came from.
    x = origin
    if schedule.random_start:
        logits = _clean_logits(model, origin)
        check_labels(labels, len(labels), logits.shape[1])
        finite = finite_rows(logits)
        attacked &= finite
        rows = torch.nonzero(finite & (logits.argmax(dim=1) == labels)).flatten()
        if not len(rows):
            return 0
        origin, labels = origin[rows], labels[rows]
        (x,) = in_tiles(model, lambda o, k: (ball.random_start(o, k),), origin, keys[rows.to(keys.device)])

    alive = False  # Whether any gradient value was not zero.

    def advance(x: Tensor, origin: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        nonlocal alive
        logits, gradient = logits_and_gradient(network, x, labels, loss)
        alive = alive or bool(gradient.any())
        following = ball.project(x + schedule.step_size * ball.ascent(gradient), origin)
        return logits, following, finite_rows(gradient)

    calls, previous = 0, origin
    for step in range(schedule.steps):
        logits, following, gradient_finite = in_tiles(model, advance, x, origin, labels)
        calls += len(rows)
        if step == 0 and not alive:
            _log.warning("%s: the first gradient is zero for all %d samples; is it masked?", _name(model), len(rows))
        logits_finite = finite_rows(logits)
        broken = logits_finite & (logits.argmax(dim=1) != labels)
        staying = logits_finite & gradient_finite & ~broken
        if not bool(staying.all()):
            out = torch.nonzero(~staying).flatten()
            seen = logits_finite[out].reshape(-1, 1, 1, 1)
            result[rows[out]] = torch.where(seen, x[out], previous[out])
            attacked[rows[out]] = broken[out]
            stay = torch.nonzero(staying).flatten()
            rows, x, origin, labels, following = (t.index_select(0, stay) for t in (rows, x, origin, labels, following))
            if not len(rows):
                return calls
        previous, x = x, following
    result[rows] = x
    return calls


def _clean_logits(model: nn.Module, images: Tensor) -> Tensor:
    network = network_of(model)
    with torch.no_grad():
        return in_tiles(model, lambda x: (logits_of(network, x),), images)[0]


def _name(model: nn.Module) -> str:
    return type(network_of(model)).__name__


def _check(model: object, images: object, labels: object, keys: object) -> None:
    if not isinstance(model, nn.Module):
        raise invalid("model", type(model).__name__, "a torch.nn.Module that returns logits (N, K)")
    count = len(check_images(images))
    check_labels(labels, count)
    check_keys(keys, count)
    if any(t.is_inference() for t in (*model.parameters(), *model.buffers())):
        raise invalid(
            "model",
            f"{_name(model)} made under torch.inference_mode()",
            "a model whose parameters were made outside it, since they take part in a gradient",
        )
