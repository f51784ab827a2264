"""A small network with honest gradients, images that it gets right, and masks around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

SIZE = 6
CLASSES = 4
EPS = 0.03


class Network(nn.Module):
    """Two linear layers with a ReLU between them; a function of the images, one inside, and one of the logits."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        inside: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.one = nn.Linear(3 * SIZE * SIZE, 24)
        self.two = nn.Linear(24, CLASSES)
        with torch.no_grad():
            for layer in (self.one, self.two):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)
                layer.bias.zero_()
        self.before, self.inside, self.after = before, inside, after
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.one(self.before(images - 0.5).flatten(1)))
        logits: Tensor = self.after(10 * self.two(self.inside(hidden)))
        return logits


class Toy:
    """`count` images, labelled by the network; a few lie on the wrong side, so that accuracy is below 1."""

    name = "toy"
    class_names = tuple("abcd")
    image_size = (SIZE, SIZE)

    def __init__(self, count: int = 24, network: nn.Module | None = None) -> None:
        generator = torch.Generator().manual_seed(5)
        self.images = torch.rand(count, 3, SIZE, SIZE, generator=generator)
        with torch.no_grad():
            self.labels = (network or Network())(self.images).argmax(1)
        self.labels[0] = (self.labels[0] + 1) % CLASSES
        self.fingerprint = f"toy-{count}"

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = list(ids)
        return self.images[rows].clone(), self.labels[rows].clone()


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


def fine_round(x: Tensor) -> Tensor:
    """So fine that the answers stay; in place, as exports have it."""
    return (x * 1000).round_() / 1000


MASKS: dict[str, Network] = {
    "round": Network(inside=fine_round),
    "zero-backward": Network(inside=NoBackward.apply),
    "cut": Network(inside=lambda x: torch.round(x * 1000).detach() / 1000),
    "cut-input": Network(before=lambda x: torch.from_numpy(x.detach().numpy().copy())),
    "saturated": Network(after=lambda z: 1000 * z),
    "softmax": Network(after=lambda z: torch.softmax(1000 * z, 1)),
    "clamp": Network(after=lambda z: (100 * (z - z.detach().amax(1, keepdim=True))).clamp(-1, 0)),
}
"""Masks that keep the class of every image."""
