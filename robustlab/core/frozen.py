"""Use a model without leaving a trace on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


def _evaluating(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError:  # exported programs have no modes, and refuse to be asked
        for module in model.modules():
            module.training = False


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Put `model` in eval mode without parameter gradients, and restore everything at the end.

    Restored: the training flag of every submodule, every parameter's `requires_grad` and `grad`, every buffer's
    identity and values, and the global random states of torch (CPU) and NumPy (a model with noise in it may draw).
    """
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [(b, b.detach().clone(), b._version) for b in model.buffers()]
    registered = [(module, dict(module._buffers)) for module in model.modules()]
    random_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    try:
        _evaluating(model)
        for parameter, _, _ in parameters:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for module, named in registered:
            module._buffers.clear()
            module._buffers.update(named)
        with torch.no_grad():
            for buffer, values, version in buffers:
                if buffer._version != version:
                    buffer.copy_(values)
        torch.random.set_rng_state(random_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
