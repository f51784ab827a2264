"""Where a gradient can come from: every source answers with the logits of the model under audit itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.core.subgradients import SIGN_SURROGATES
from robustlab.deploy import PackedLayer, StraightThrough, gradient_kind
from robustlab.deploy.repair import LEAK, Repaired, replaced
from robustlab.deploy.repair.graph import repair_graph
from robustlab.deploy.surrogate import Surrogate
from robustlab.kernels import ActivationSpec

DRAWS = 8
"""How many gradients are averaged where a model is random, or its gradient is looked for around an image."""


class Borrowed(nn.Module):
    """One network judged, the gradient of another followed, as in BPDA (Athalye et al. 2018) for the whole network.

    Where both give the same class, the logits are the other's, so that a loss on them says how far it still is; else
    they are those of the network that is judged. So the class is always right, and so is who leaves an attack early.

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


class Noisy(nn.Module):
    """A network that sees its images under uniform noise of a radius.

    Its mean gradient over several passes shows the slope at that scale where the gradient itself is broken into pieces.

    Shape: images (N, C, H, W) -> logits (N, K).
    """

    def __init__(self, model: nn.Module, radius: float) -> None:
        super().__init__()
        self.model = model
        self.radius = radius

    def forward(self, images: Tensor) -> Tensor:
        """Logits of other images in every pass."""
        logits: Tensor = self.model(images + (2 * torch.rand_like(images) - 1) * self.radius)
        return logits


class Tempered(nn.Module):
    """Logits divided so that they span at most 10: in the same order, and no probability underflows.

    Shape: images (N, C, H, W) -> logits (N, K).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Scaled logits; the scale has no gradient."""
        logits: Tensor = self.model(images)
        span = (logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)).detach()
        return logits / (span / SPAN).clamp(min=1.0)


SPAN = 10.0


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
        draws: how many of its gradients are averaged into one (expectation over transformation, Athalye et al. 2018).
    """

    name: str
    kind: str
    text: str
    model: nn.Module
    draws: int = 1

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The model, ready to be attacked."""
        if isinstance(self.model, WithSurrogate):
            with self.model.active():
                yield self.model
        else:
            yield self.model


def is_exact(model: nn.Module, images: Tensor) -> bool:
    """Whether the gradient of a model is the derivative of what it computes, as torch has it.

    Not so for packed layers, where it rounds or quantizes on the images (N, C, H, W), and where a function has a
    backward of its own.
    """
    if gradient_kind(model) != "exact":
        return False
    watched = Repaired(model, scope="rounding")
    with torch.enable_grad():
        logits = watched(images.detach().clone().requires_grad_())
    return not (watched.seen or repair_graph(logits, functions=True))


def make_sources(
    model: nn.Module, images: Tensor, radius: float, *, random: bool, reference: nn.Module | None
) -> list[Source]:
    """All sources that fit the model, the given gradient first.

    images: a few, to see what can be repaired; radius: of the noise of ``around``; random: whether the model is.
    """
    draws = DRAWS if random else 1
    sources = [Source("given", "given", "the gradient of the model as given", model)]
    if random:
        sources.append(Source("draws", "average", f"mean gradient of {DRAWS} random passes", model, DRAWS))
    straight = Repaired(model)
    with torch.enable_grad():
        straight(images[:2].detach().clone().requires_grad_())
    best: nn.Module = model
    if straight.seen:
        best = straight
        what = ", ".join(sorted(straight.seen))
        sources.append(Source("straight", "repair", f"straight-through in place of {what}", straight, draws))
        smooth = Borrowed(model, Repaired(model, smooth=True))
        sources.append(Source("smooth", "repair", f"the network with {what} smoothed", smooth, draws))
    around = Borrowed(model, Noisy(best, radius))
    sources.append(Source("around", "average", f"mean gradient of {DRAWS} images around", around, DRAWS))
    packed = [m for m in model.modules() if isinstance(m, PackedLayer)]
    if packed:
        binary = any(layer.scheme.activation is None for layer in packed)
        for sign in SIGN_SURROGATES if binary else ("approx",):
            surrogate = OpenSurrogate(sign)
            text = f"the surrogate {surrogate.name} in every packed layer"
            sources.append(Source(surrogate.name, "surrogate", text, WithSurrogate(model, surrogate), draws))
    if reference is not None:
        borrowed = Borrowed(model, reference)
        sources.append(Source("reference", "transfer", "the gradient of the reference model", borrowed, draws))
    return sources
