"""frozen(): a model that tries hard to change is found as it was, also after an exception."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustlab.core import frozen


class Restless(nn.Module):
    """Changes buffers in place and by assignment, draws random numbers, and can fail at the end."""

    def __init__(self, fail: bool) -> None:
        super().__init__()
        self.fail = fail
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = self.seen + 1
        np.random.random()  # noqa: NPY002
        x = x + torch.rand(1)
        if self.fail:
            raise RuntimeError("model failure")
        out: Tensor = self.body(x)
        return out


@pytest.mark.parametrize("fail", [False, True])
def test_everything_is_restored(fail: bool) -> None:
    model = Restless(fail).train()
    model.body[0].eval()
    model.body[0].bias.requires_grad_(False)  # type: ignore[union-attr,operator]
    model.body[0].weight.grad = torch.full((3, 3), 7.0)  # type: ignore[union-attr]
    grad = model.body[0].weight.grad
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    modes = {name: module.training for name, module in model.named_modules()}
    wants = {name: p.requires_grad for name, p in model.named_parameters()}
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    def use() -> None:
        with frozen(model):
            assert not any(m.training for m in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
            model(torch.rand(4, 3))

    if fail:
        with pytest.raises(RuntimeError, match="model failure"):
            use()
    else:
        use()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wants
    assert model.body[0].weight.grad is grad and bool((grad == 7).all())
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name][0] and torch.equal(buffer, buffers[name][1]), name
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
