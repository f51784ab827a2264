"""A last look at a plan: on random images it must return what the model returns.

Tracing writes down what a forward pass did once. A model whose passes differ for reasons outside torch (a counter, a
cache, numbers drawn in Python) cannot be written down so, and this is where it shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from robustlab.core.frozen import frozen
from robustlab.deploy.graph.plan import Plan


def agrees(plan: Plan, original: nn.Module, image: tuple[int, ...]) -> bool:
    """Whether plan and model return the same bits for two random images (C, H, W), torch's generator seeded alike."""
    images = torch.rand(2, *image, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(False), torch.no_grad(), frozen(original), torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        expected = original(images)
        torch.manual_seed(2)
        found = plan.run(images)
    left, right = pytree.tree_leaves(expected), pytree.tree_leaves(found)
    return len(left) == len(right) and all(map(_same, left, right))


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.shape == right.shape and left.dtype == right.dtype
        return same and torch.equal(left.nan_to_num(7.0), right.nan_to_num(7.0))
    return bool(left == right)
