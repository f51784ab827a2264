"""Norms of flat perturbations (n, D), their duals, and projections onto balls with a radius for every sample."""

from __future__ import annotations

import torch
from torch import Tensor

_ORDERS = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": torch.inf}
_DUALS = {"l1": "linf", "l2": "l2", "linf": "l1"}


def norm(name: str, x: Tensor) -> Tensor:
    """The norm per sample (n,) of `x` (n, ...); for ``l0`` the number of values that are not 0."""
    values: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), _ORDERS[name], dim=1)
    return values


def dual_norm(name: str, x: Tensor) -> Tensor:
    """The norm per sample (n,) that bounds a linear function on the unit ball of `name`, which is not ``l0``."""
    return norm(_DUALS[name], x)


def farthest(name: str, origin: Tensor) -> Tensor:
    """How far (n,) the farthest image in [0, 1] is from `origin` (n, ...)."""
    return norm(name, torch.maximum(origin, 1 - origin))


def column(values: Tensor, like: Tensor) -> Tensor:
    """`values` (n,) in the shape that broadcasts over `like` (n, ...)."""
    return values.reshape(-1, *([1] * (like.ndim - 1)))


def shrink(name: str, delta: Tensor, radius: Tensor) -> Tensor:
    """The nearest (in l2) to `delta` (n, ...) whose norm is at most `radius` (n,)."""
    limit = column(radius, delta)
    if name == "linf":
        return torch.minimum(torch.maximum(delta, -limit), limit)
    if name == "l2":
        return delta * (limit / column(norm("l2", delta), delta).clamp(min=1e-12)).clamp(max=1)
    if name == "l1":
        return _soft_threshold(delta, radius)
    return _largest(delta, radius)


def _soft_threshold(delta: Tensor, radius: Tensor) -> Tensor:
    """Onto l1 balls: Michelot 1986. The threshold is a function of which values are above it, so it settles exactly."""
    size = delta.abs().reshape(len(delta), -1)
    threshold = torch.zeros_like(radius)
    while True:
        above = size > threshold[:, None]
        kept = above.sum(dim=1)
        following = ((size * above).sum(dim=1) - radius) / kept.clamp(min=1)
        following = torch.where(kept > 0, torch.maximum(threshold, following), threshold)
        if not bool((following > threshold).any()):  # What is not finite ends here too.
            return delta.sign() * (size - threshold[:, None]).clamp(min=0).reshape(delta.shape)
        threshold = following


def _largest(delta: Tensor, count: Tensor) -> Tensor:
    """Zero all but the `count` (n,) largest values; among equal ones the first stay."""
    flat = delta.reshape(len(delta), -1)
    order = flat.abs().argsort(dim=1, descending=True, stable=True)
    places = torch.arange(flat.shape[1], device=flat.device) < count[:, None]
    return (flat * torch.zeros_like(places).scatter(1, order, places)).reshape(delta.shape)
