"""Logits and input-gradients of a model, one fixed-shape tile at a time where the model asks for that."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.core import Tiled
from robustlab.core.errors import check_labels, invalid
from robustlab.core.tiles import pad_rows, tiles

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, K), labels (N,)) -> loss per sample (N,). An attack ascends it."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label], per sample (N,), in float64.

    In float32 the label's part of the gradient, p - 1, rounds to 0 for a margin above 17, and what is left of the
    gradient points elsewhere: a confident model would look more robust than it is.
    """
    return F.cross_entropy(logits.double(), labels, reduction="none")


def network_of(model: nn.Module) -> nn.Module:
    """The model that is called: what a `Tiled` wraps, else `model` itself."""
    return model.model if isinstance(model, Tiled) else model


def in_tiles(model: nn.Module, function: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> list[Tensor]:
    """Apply `function` to aligned batches (N, ...), N >= 1, and join each of its results along the samples.

    For a `Tiled` model every call gets exactly `tile` samples, so that neither a result's last bits nor the peak
    memory depend on N. Otherwise there is one call with everything.
    """
    if not isinstance(model, Tiled):
        return list(function(*batches))
    parts = []
    for start, stop in tiles(len(batches[0]), model.tile):
        results = function(*(pad_rows(batch[start:stop], model.tile) for batch in batches))
        parts.append([result[: stop - start] for result in results])
    return parts[0] if len(parts) == 1 else [torch.cat(joined) for joined in zip(*parts, strict=True)]


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Call `network` on images (N, C, H, W) and return its logits (N, K); `ArgumentError` if it gives anything else."""
    # A copy: writing into it cannot reach the caller's images, and torch lets it happen where a leaf would raise.
    handed = images.clone()
    version = handed._version
    logits = network(handed)
    allowed = f"a model that returns floating-point logits ({len(images)}, K), K >= 2, for {len(images)} images"
    if not isinstance(logits, Tensor):
        raise invalid("model", f"{type(network).__name__} returning {type(logits).__name__}", allowed)
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2 or not logits.is_floating_point():
        shown = f"{type(network).__name__} returning {logits.dtype} of shape {tuple(logits.shape)}"
        raise invalid("model", shown, allowed)
    if handed._version != version:
        raise invalid("model", type(network).__name__, "a model that leaves its input images unchanged")
    return logits


def logits_and_gradient(
    network: nn.Module, images: Tensor, labels: Tensor, loss: Loss = cross_entropy
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and the gradient (N, C, H, W) of the loss, summed over samples, with respect to `images`.

    Call it with gradients enabled and parameters frozen. Raises `ArgumentError` if the model has no gradient.
    """
    x = images.detach().requires_grad_()
    logits = logits_of(network, x)
    check_labels(labels, len(labels), logits.shape[1])
    gradient = None
    if logits.requires_grad:
        (gradient,) = torch.autograd.grad(loss(logits, labels).sum(), x, allow_unused=True)
    if gradient is None:
        raise invalid(
            "model",
            f"{type(network).__name__}, whose output has no gradient",
            "a model that differentiates with respect to its images (a float model, or one made by"
            " robustlab.deploy(), which has a surrogate gradient), or an attack with needs_gradient = False",
        )
    return logits.detach(), gradient


def finite_rows(x: Tensor) -> Tensor:
    """bool (N,): whether all values of a sample are finite."""
    flat = x.reshape(len(x), -1)
    finite = torch.isfinite(flat.sum(dim=1))  # One pass; a sum can overflow, so only what fails is looked at closely.
    return finite if bool(finite.all()) else torch.isfinite(flat).all(dim=1)
