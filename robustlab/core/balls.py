"""Threat-model balls, intersected with the image box [0, 1]: project, random start, contains, steepest ascent.

"Inside the ball" is decided here and nowhere else.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from robustlab.core import keys as _keys
from robustlab.core.errors import check_number, invalid


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *([1] * (like.ndim - 1)))


def _flat_norm(x: Tensor) -> Tensor:
    """L2 norm per sample (N,), accumulated in float64 so that the ball's edge is exact to float32."""
    norm: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1).double(), dim=1)
    return norm


def format_eps(eps: float) -> str:
    """A radius over the key alphabet [a-z0-9.+-]: ``8of255`` or ``0.5``, whichever is shorter.

    Exact: two radii have the same text only if they are the same number, so that no two conditions share a key.
    """
    decimal = repr(float(eps) + 0.0).removesuffix(".0")
    levels = round(eps * 255)
    fraction = f"{levels}of255"
    return fraction if levels / 255 == eps and len(fraction) < len(decimal) else decimal


def parse_eps(text: str) -> float:
    """The inverse of `format_eps`; `ArgumentError` for a text of another form."""
    match = re.fullmatch(r"(\d{1,6})of255|(\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?)", text)
    if match is None:
        raise invalid("radius", text, "a number such as 0.5, or whole 255ths such as 8of255")
    return int(match[1]) / 255 if match[1] else float(match[2])


@dataclass(frozen=True)
class Ball(ABC):
    """All images within `eps` of the original, in some norm, and in [0, 1].

    `eps` is in image units; infinity means all images, for attacks that look for the nearest one.
    """

    eps: float

    def __post_init__(self) -> None:
        if self.eps != math.inf:
            check_number("eps", self.eps, 0.0)

    @property
    @abstractmethod
    def norm_name(self) -> str:
        """The field's name of the norm, lower case: ``linf``, ``l2``."""

    @property
    def slug(self) -> str:
        """Part of a condition's key, such as ``linf-8of255``; the norm alone for an infinite radius."""
        return self.norm_name if self.eps == math.inf else f"{self.norm_name}-{format_eps(self.eps)}"

    @abstractmethod
    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """Bring `x` (N, ...) back into the ball around `origin` and into [0, 1]. NaN becomes the origin."""

    @abstractmethod
    def random_start(self, origin: Tensor, keys: Tensor) -> Tensor:
        """One uniform draw from the ball per sample, projected to [0, 1]; `keys` is (N,)."""

    @abstractmethod
    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """Norm of the perturbation per sample, float64 (N,)."""

    @abstractmethod
    def ascent(self, gradient: Tensor) -> Tensor:
        """The unit-norm step along which a linear function with this gradient grows fastest; 0 where it is 0."""

    def contains(self, x: Tensor, origin: Tensor) -> Tensor:
        """bool (N,): in the ball up to eps * (1 + 1e-5) + 1e-6, and in [0, 1]. NaN is outside."""
        flat = x.reshape(len(x), -1)
        in_box = ((flat >= 0) & (flat <= 1)).all(dim=1)
        return in_box & (self.distance(x, origin) <= self.eps * (1 + 1e-5) + 1e-6)


@dataclass(frozen=True)
class Linf(Ball):
    """Every channel value moves by at most eps, e.g. ``Linf(8/255)``."""

    @property
    def norm_name(self) -> str:
        """``linf``."""
        return "linf"

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.project`."""
        x = torch.where(torch.isnan(x), origin, x)
        return torch.minimum(torch.maximum(x, (origin - self.eps).clamp(min=0)), (origin + self.eps).clamp(max=1))

    def random_start(self, origin: Tensor, keys: Tensor) -> Tensor:
        """See `Ball.random_start`."""
        noise = _keys.uniform(keys, origin.shape[1:], -self.eps, self.eps, origin.device)
        return self.project(origin + noise, origin)

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.distance`."""
        difference = (x.double() - origin.double()).abs().reshape(len(x), -1)
        return difference.amax(dim=1) if difference.shape[1] else difference.new_zeros(len(x))

    def ascent(self, gradient: Tensor) -> Tensor:
        """See `Ball.ascent`."""
        return gradient.sign()


@dataclass(frozen=True)
class L2(Ball):
    """The perturbation of an image has Euclidean norm at most eps, e.g. ``L2(0.5)``."""

    @property
    def norm_name(self) -> str:
        """``l2``."""
        return "l2"

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.project`. Scaling first and clipping second keeps both: clipping only shortens the difference."""
        # Finite first: infinity would scale to inf * 0 = NaN. A whole box is 1 wide, so 1e6 is as good as infinity.
        delta = torch.where(torch.isnan(x), torch.zeros_like(x), x.clamp(-1e6, 1e6) - origin)
        norm = _flat_norm(delta)
        factor = torch.where(norm > self.eps, self.eps / norm.clamp(min=1e-300), torch.ones_like(norm))
        return (origin + delta * _per_sample(factor.to(x.dtype), x)).clamp(0, 1)

    def random_start(self, origin: Tensor, keys: Tensor) -> Tensor:
        """See `Ball.random_start`: a normal direction, and a radius eps * u^(1/d)."""
        direction = self.ascent(_keys.normal(keys, origin.shape[1:], origin.device))
        dimensions = max(1, origin[0].numel() if len(origin) else 1)
        radius = self.eps * _keys.uniform(_keys.derive(keys, "radius"), ()).double() ** (1 / dimensions)
        return self.project(origin + direction * _per_sample(radius.to(origin), origin), origin)

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.distance`."""
        return _flat_norm(x.double() - origin.double())

    def ascent(self, gradient: Tensor) -> Tensor:
        """See `Ball.ascent`."""
        norm = _flat_norm(gradient)
        inverse = torch.where(norm > 0, 1 / norm.clamp(min=1e-300), torch.zeros_like(norm))
        return (gradient.double() * _per_sample(inverse, gradient)).to(gradient.dtype)


BALLS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2}
"""Norm -> its ball."""


def parse_ball(text: str) -> Ball:
    """The inverse of `Ball.slug`, such as ``linf-8of255``, or ``l2`` for an infinite radius.

    Raises `ArgumentError` for a text of another form.
    """
    name, _, eps = text.partition("-")
    if name not in BALLS:
        raise invalid("ball", text, " or ".join(f"{norm}-EPS" for norm in BALLS))
    return BALLS[name](parse_eps(eps) if eps else math.inf)
