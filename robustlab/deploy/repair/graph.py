"""What was not intercepted while a network ran is found in its graph, and lets the gradient through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ZERO_NODES = ("Round", "Floor", "Ceil", "Trunc", "Sign", "Sgn")
_OURS = ("_ReplacedBackward", "_WarmBackward", "_ImageConvBackward")


def repair_graph(output: Tensor, *, functions: bool) -> set[str]:
    """Let the gradient through where an operation in the graph of `output` turns all of it into zeros.

    Only for operations that keep the shape: steps that were not intercepted (in TorchScript), and with `functions`
    those with a backward of one's own. Returns the names of the operations that are watched.
    """
    watched: set[str] = set()
    seen: set[Any] = set()
    pending = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        pending.extend(following for following, _ in node.next_functions)
        name = type(node).__name__
        own = functions and isinstance(node, torch.autograd.function.BackwardCFunction) and name not in _OURS
        if own or name.startswith(_ZERO_NODES):
            node.register_hook(_let_through)
            watched.add(name.removesuffix("Backward"))
    return watched


def _let_through(inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> Any:
    """For rows where a gradient comes in and none leaves, pass on what comes in."""
    coming = next((g for g in outputs if g is not None), None)
    if coming is None:
        return None
    made = list(inputs)
    for index, leaving in enumerate(made):
        if leaving is None or leaving.shape != coming.shape:
            continue
        dead = ~leaving.flatten(1).any(1) if leaving.ndim > 1 else ~leaving.any().reshape(1)
        if bool(dead.any()):
            made[index] = torch.where(dead.reshape(-1, *([1] * (leaving.ndim - 1))), coming, leaving)
        return tuple(made)
    return None
