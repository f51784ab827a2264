"""The nearest point of a polyhedron in the image box by general solvers, and models whose boundary is known."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

NORMS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


def nearest(norm: str, x: np.ndarray, normal: np.ndarray, shift: float) -> float:
    """min ||d|| with <normal, d> >= shift > 0 and x + d in [0, 1]; inf where there is none."""
    size = len(x)
    if normal @ np.where(normal > 0, 1 - x, -x) < shift:
        return math.inf
    if norm == "l2":
        # The dual has one variable: the multiplier of the hyperplane, found by bisection.
        low, high = 0.0, 1.0
        step = lambda t: np.clip(x + t * normal, 0, 1) - x  # noqa: E731
        while normal @ step(high) < shift:
            high *= 2
        for _ in range(200):
            low, high = (low, mid) if normal @ step(mid := (low + high) / 2) >= shift else (mid, high)
        return float(np.linalg.norm(step(high)))
    # Variables d and the sizes that bound it: one for all in linf, one each in l1.
    sizes = 1 if norm == "linf" else size
    bound = np.ones((size, 1)) if norm == "linf" else np.eye(size)
    above = np.vstack([
        np.hstack([np.eye(size), -bound]), np.hstack([-np.eye(size), -bound]), np.append(-normal, np.zeros(sizes))[None]
    ])  # fmt: skip
    limits = np.concatenate([np.zeros(2 * size), [-shift]])
    ranges = [(-v, 1 - v) for v in x] + [(0, None)] * sizes
    solved = linprog(np.append(np.zeros(size), np.ones(sizes)), A_ub=above, b_ub=limits, bounds=ranges)
    assert solved.success
    return float(solved.fun)


def quadratic(x: np.ndarray, normal: np.ndarray, shift: float) -> float:
    """The same in l2 by a general solver, to check the bisection."""
    solved = minimize(
        lambda d: d @ d,
        np.where(normal > 0, 1 - x, -x),
        jac=lambda d: 2 * d,
        bounds=[(-v, 1 - v) for v in x],
        constraints={"type": "ineq", "fun": lambda d: normal @ d - shift, "jac": lambda d: normal},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solved.success
    return float(np.linalg.norm(solved.x))


def linear_model(classes: int, size: int, seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(size, classes)
    layer.weight.data = torch.randn(classes, size, generator=generator)
    layer.bias.data = 0.3 * torch.randn(classes, generator=generator)
    return nn.Sequential(nn.Flatten(), layer)


def exact_distances(norm: str, model: nn.Sequential, images: Tensor, labels: Tensor) -> Tensor:
    """Of every image (N, ...) to the nearest one that the linear model puts into another class."""
    layer = model[1]
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    found = []
    for x, y in zip(images.flatten(1).double().numpy(), labels.tolist(), strict=True):
        others = [k for k in range(len(bias)) if k != y]
        gaps = [(weight[y] - weight[k]) @ x + bias[y] - bias[k] for k in others]
        found.append(min(nearest(norm, x, weight[k] - weight[y], g) for k, g in zip(others, gaps, strict=True)))
    return torch.tensor(found, dtype=torch.float64)
