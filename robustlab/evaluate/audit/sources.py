"""Where a gradient can come from: every source answers with the logits of the model under audit itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.core.subgradients import SIGN_SURROGATES
from robustlab.deploy import PackedLayer, StraightThrough
from robustlab.deploy.surrogate import Surrogate
from robustlab.evaluate.audit.repair import Repaired
from robustlab.evaluate.audit.straight import LEAK, replaced
from robustlab.kernels import ActivationSpec

DRAWS = 8
"""How many gradients are averaged where a model is random, or its gradient is looked for around an image."""


class Borrowed(nn.Module):
    """One network judged, the gradient of another followed, as in BPDA (Athalye et al. 2018) for the whole network.

    Where both give the same class, the logits are the other's, so that a loss on them says how far it still is; where
    they differ, those of the network that is judged. So the class is always right, and so is who leaves an attack early.

    Shape: images (N, C, H, W) -> logits (N, K).
    """

    def __init__(self, model: nn.Module, gradient: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.gradient = gradient

    def forward(self, images: Tensor) -> Tensor:
        """Logits with the classes of `model`."""
        with torch.no_grad():
            logits: Tensor = self.model(images.detach().clone())
        asked = torch.is_grad_enabled() and images.requires_grad
        with torch.enable_grad():
            other: Tensor = self.gradient(images if asked else images.detach().requires_grad_())
        agree = other.detach().argmax(1) == logits.argmax(1)
        value = torch.where(agree[:, None], other.detach(), logits)
        return replaced(other, value, torch.ones_like(value)) if asked else value


class Averaged(nn.Module):
    """The mean logits of several passes: expectation over transformation (Athalye et al. 2018).

    With a `radius`, every pass but the first sees the images under uniform noise of that size, which shows a gradient
    that is broken up into pieces at larger scale.

    Shape: images (N, C, H, W) -> logits (N, K).
    """

    def __init__(self, model: nn.Module, draws: int = DRAWS, radius: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.draws = draws
        self.radius = radius

    def forward(self, images: Tensor) -> Tensor:
        """Mean logits."""
        total: Tensor = self.model(images)
        for _ in range(self.draws - 1):
            moved = images
            if self.radius:
                moved = images + (2 * torch.rand_like(images) - 1) * self.radius
            total = total + self.model(moved)
        return total / self.draws


@dataclass(frozen=True)
class OpenSurrogate(StraightThrough):
    """`StraightThrough` that also lets a little through where a quantizer clamps."""

    @property
    def name(self) -> str:
        """See `Surrogate.name`."""
        return f"{super().name}-open"

    def quantizer_derivative(self, x: Tensor, activation: ActivationSpec) -> Tensor:
        """See `Surrogate.quantizer_derivative`."""
        return super().quantizer_derivative(x, activation).clamp(min=LEAK)


class WithSurrogate(nn.Module):
    """A model with packed layers that uses another surrogate while it is differentiated through this module.

    The layers hold their surrogate, and the backward pass runs after the forward pass, so an attack on this module has
    to run inside `active`.
    """

    def __init__(self, model: nn.Module, surrogate: Surrogate) -> None:
        super().__init__()
        self.model = model
        self.surrogate = surrogate

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the model."""
        logits: Tensor = self.model(images)
        return logits

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use the surrogate here, and give every layer its own back."""
        layers = [m for m in self.model.modules() if isinstance(m, PackedLayer)]
        before = [layer.surrogate for layer in layers]
        for layer in layers:
            layer.surrogate = self.surrogate
        try:
            yield
        finally:
            for layer, surrogate in zip(layers, before, strict=True):
                layer.surrogate = surrogate


@dataclass(frozen=True, eq=False)
class Source:
    """A model whose forward is the audited one's and whose gradient is another.

    Attributes:
        name: short, part of keys.
        kind: ``given``, or what replaces the gradient: ``repair``, ``surrogate``, ``average``, ``transfer``.
        text: what it is, for people.
    """

    name: str
    kind: str
    text: str
    model: nn.Module

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The model, ready to be attacked."""
        if isinstance(self.model, WithSurrogate):
            with self.model.active():
                yield self.model
        else:
            yield self.model


def make_sources(
    model: nn.Module, images: Tensor, eps: float, *, random: bool, reference: nn.Module | None
) -> list[Source]:
    """All sources that fit the model, the given gradient first. `images`: a few, to see what can be repaired."""

    def over(network: nn.Module) -> nn.Module:
        return Averaged(network) if random else network

    sources = [Source("given", "given", "the gradient of the model as given", model)]
    if random:
        sources.append(Source("draws", "average", f"mean gradient of {DRAWS} random passes", Averaged(model)))
    straight = Repaired(model)
    probe = images[:2].detach().clone().requires_grad_()
    with torch.enable_grad():
        straight(probe)
    if straight.seen:
        what = ", ".join(sorted(straight.seen))
        sources.append(Source("straight", "repair", f"straight-through in place of {what}", over(straight)))
        smooth = over(Repaired(model, smooth=True))
        text = f"gradient of the network with {what} smoothed"
        sources.append(Source("smooth", "repair", text, Borrowed(over(model), smooth)))
    best = straight if straight.seen else model
    around = Borrowed(over(model), Averaged(best, DRAWS, eps))
    sources.append(Source("around", "average", f"mean gradient of {DRAWS} images around", around))
    packed = [m for m in model.modules() if isinstance(m, PackedLayer)]
    if packed:
        binary = any(layer.scheme.activation is None for layer in packed)
        for sign in SIGN_SURROGATES if binary else ("approx",):
            surrogate = OpenSurrogate(sign)
            text = f"the surrogate {surrogate.name} in every packed layer"
            sources.append(Source(surrogate.name, "surrogate", text, WithSurrogate(model, surrogate)))
    if reference is not None:
        sources.append(Source("reference", "transfer", "the gradient of the reference model", Borrowed(over(model), reference)))
    return sources
