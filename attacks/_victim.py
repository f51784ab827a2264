"""What an attack may ask of a model: labels, logits and gradients, in tiles of one shape where the model wants that."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustlab.attacks._goal import Goal, Loss, cross_entropy, finite_rows
from robustlab.attacks._images import FastImageGradients
from robustlab.core import Tiled
from robustlab.core.errors import ArgumentError, invalid
from robustlab.core.tiles import DEFAULT_TILE, pad_rows, tiles


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
    count, joined = len(batches[0]), list[Tensor]()
    for start, stop in tiles(count, model.tile):
        results = function(*(pad_rows(batch[start:stop], model.tile) for batch in batches))
        if count <= model.tile:
            return [result[:count] for result in results]
        if not joined:
            joined = [result.new_empty(count, *result.shape[1:]) for result in results]
        for whole, result in zip(joined, results, strict=True):
            whole[start:stop] = result[: stop - start]
    return joined


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


def no_gradient(network: nn.Module) -> ArgumentError:
    """The error for a model that does not differentiate with respect to its images."""
    return invalid(
        "model",
        f"{type(network).__name__}, whose output has no gradient",
        "a model that differentiates with respect to its images (a float model, or one made by"
        " robustlab.deploy(), which has a surrogate gradient), or an attack with needs_gradient = False",
    )


View = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) -> what the model is shown instead, differentiable."""


def logits_and_gradient(
    network: nn.Module, images: Tensor, goal: Goal, loss: Loss = cross_entropy, view: View | None = None
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and the gradient (N, C, H, W) of the loss, summed over samples, with respect to `images`.

    With a `view` the model is shown ``view(images)``. Call it with parameters frozen. Raises `ArgumentError` if the
    model has no gradient.
    """
    with torch.enable_grad(), FastImageGradients():
        x = images.detach().requires_grad_()
        logits = logits_of(network, x if view is None else view(x))
        goal.check(logits.shape[1])
        gradient = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(loss(logits, goal).sum(), x, allow_unused=True)
    if gradient is None:
        raise no_gradient(network)
    return logits.detach(), gradient


class Victim:
    """A model under attack: answers in tiles, counted for every sample.

    Attributes:
        network: the model that is called, without a `Tiled` around it.
        tile: how many samples a call gets, or None if it gets all.
        queries: int64 (N,), forward passes on each of the N samples under attack, those of gradients included.
        gradients: int64 (N,), input-gradients of each sample.
    """

    def __init__(self, model: nn.Module, count: int, draws: int = 1) -> None:
        """`draws`: how often a gradient is taken and averaged (expectation over the randomness of a model)."""
        self.network = network_of(model)
        self.tile = model.tile if isinstance(model, Tiled) else None
        self.queries = torch.zeros(count, dtype=torch.int64)
        self.gradients = torch.zeros(count, dtype=torch.int64)
        self._model = model
        self._draws = draws

    def turn(self, count: int, device: torch.device) -> int:
        """How many of `count` samples to ask at once, where samples can take turns."""
        # Without tiles of its own, what a CPU is asked at once should stay in its cache.
        return self.tile or (DEFAULT_TILE if device.type == "cpu" else count)

    def in_tiles(self, function: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> list[Tensor]:
        """Apply `function` to aligned batches (n, ...), n >= 1, tile by tile; it does not count."""
        return in_tiles(self._model, function, *batches)

    def count(self, rows: Tensor, *, gradient: bool = False) -> None:
        """Count one forward pass, or one gradient (of all its draws), for each entry of `rows` (n,).

        A sample that stands in `rows` several times was asked about that often.
        """
        where = rows.cpu()
        times = torch.full((len(where),), self._draws if gradient else 1, dtype=torch.int64)
        self.queries.index_add_(0, where, times)
        if gradient:
            self.gradients.index_add_(0, where, times)

    def part(self, count: int, draws: int) -> Victim:
        """The same model with counters of its own, for an attack on `count` of the samples; see `add`."""
        return Victim(self._model, count, draws)

    def add(self, part: Victim, rows: Tensor) -> None:
        """Add what `part` has counted of the samples `rows` (n,)."""
        where = rows.cpu()
        self.queries.index_add_(0, where, part.queries)
        self.gradients.index_add_(0, where, part.gradients)

    def logits(self, images: Tensor, rows: Tensor) -> Tensor:
        """Logits (n, K), without a gradient, of `images` (n, C, H, W) made from the samples `rows` (n,)."""
        self.count(rows)
        with torch.no_grad():
            return self.in_tiles(lambda x: (logits_of(self.network, x),), images)[0]

    def labels(self, images: Tensor, rows: Tensor) -> Tensor:
        """int64 (n,): the class with the largest logit, -1 where not all are finite. Label-only attacks get no more."""
        logits = self.logits(images, rows)
        return logits.argmax(dim=1).masked_fill(~finite_rows(logits), -1)

    def differentiate_tile(
        self, images: Tensor, goal: Goal, loss: Loss, view: View | None = None
    ) -> tuple[Tensor, Tensor]:
        """`logits_and_gradient` of one tile, the mean over the draws; it does not count."""
        logits, gradient = logits_and_gradient(self.network, images, goal, loss, view)
        for _ in range(self._draws - 1):
            again, more = logits_and_gradient(self.network, images, goal, loss, view)
            logits, gradient = logits + again, gradient + more
        return (logits, gradient) if self._draws == 1 else (logits / self._draws, gradient / self._draws)

    def differentiate(self, images: Tensor, goal: Goal, loss: Loss, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, K) and input-gradients (n, C, H, W) of the samples `rows` (n,), whose goal is `goal`."""
        self.count(rows, gradient=True)

        def tile(x: Tensor, labels: Tensor, *targets: Tensor) -> tuple[Tensor, Tensor]:
            return self.differentiate_tile(x, Goal(labels, *targets), loss)

        logits, gradient = self.in_tiles(tile, images, *goal_tensors(goal))
        return logits, gradient


def goal_tensors(goal: Goal) -> tuple[Tensor, ...]:
    """Labels, and targets if there are any: what `in_tiles` takes; ``Goal(*tensors)`` is the goal again."""
    return (goal.labels,) if goal.targets is None else (goal.labels, goal.targets)
