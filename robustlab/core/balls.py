"""Threat-model balls, intersected with the image box [0, 1]: project, random start, contains, steepest ascent.

"Inside the ball" is decided here and nowhere else.
"""

from __future__ import annotations

import logging
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from robustlab.core import keys as _keys
from robustlab.core.errors import check_number, invalid

_log = logging.getLogger(__name__)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *([1] * (like.ndim - 1)))


def _flat_norm(x: Tensor) -> Tensor:
    """L2 norm per sample (N,), accumulated in float64 so that the ball's edge is exact to float32."""
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1).double(), dim=1)
    return norm


def format_eps(eps: float) -> str:
    """A radius over the key alphabet [a-z0-9.+-]: ``8of255``, ``0.5of255`` or ``0.5``, whichever is shorter.

    Exact: two radii have the same text only if they are the same number, so that no two conditions share a key.
    """
    decimal = repr(float(eps) + 0.0).removesuffix(".0")
    levels = round(eps * 255, 4)
    fraction = f"{repr(levels + 0.0).removesuffix('.0')}of255"
    exact = levels < 1e6 and "e" not in fraction and levels / 255 == eps
    return fraction if exact and len(fraction) < len(decimal) else decimal


def parse_eps(text: str) -> float:
    """The inverse of `format_eps`; `ArgumentError` for a text of another form."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,4})?)of255|(\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?)", text)
    if match is None:
        raise invalid("radius", text, "a number such as 0.5, or 255ths such as 8of255 or 0.5of255")
    return float(match[1]) / 255 if match[1] else float(match[2])


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
    def ascent(self, gradient: Tensor, x: Tensor | None = None) -> Tensor:
        """The unit-norm step along which a linear function with this gradient grows fastest; 0 where it is 0.

        With `x`, the image that the step starts from, a sparse step spends nothing on values that the box holds back.
        """

    def shown(self, x: Tensor, origin: Tensor) -> Tensor:
        """What the model is shown, judged on and returned for an iterate `x` (N, ...) in the ball: `x` itself.

        A ball of discrete images returns the image near `x` that is one of them.
        """
        return x

    def check_origin(self, images: Tensor) -> None:  # noqa: B027, most balls take every image
        """Raise `ArgumentError` if `images` (N, ...) cannot be centres of the ball; they always can be here."""

    def contains(self, x: Tensor, origin: Tensor) -> Tensor:
        """bool (N,): in the ball up to eps * (1 + 1e-5) + 1e-6, and in [0, 1]. NaN is outside."""
        flat = x.flatten(1)
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
        if bool(torch.isnan(x.sum())):  # One pass to know that there is no NaN; -inf with inf are looked at in vain.
            x = torch.where(torch.isnan(x), origin, x)
        return x.clamp((origin - self.eps).clamp_(min=0), (origin + self.eps).clamp_(max=1))

    def random_start(self, origin: Tensor, keys: Tensor) -> Tensor:
        """See `Ball.random_start`."""
        noise = _keys.uniform(keys, origin.shape[1:], -self.eps, self.eps, origin.device)
        return self.project(origin + noise, origin)

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.distance`."""
        # Rounding to float32 changes a difference by less than a part in 10^7, and is monotone.
        difference = (x - origin).abs_().flatten(1)
        return (difference.amax(dim=1) if difference.shape[1] else difference.new_zeros(len(x))).double()

    def ascent(self, gradient: Tensor, x: Tensor | None = None) -> Tensor:
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

    def ascent(self, gradient: Tensor, x: Tensor | None = None) -> Tensor:
        """See `Ball.ascent`."""
        norm = _flat_norm(gradient)
        inverse = torch.where(norm > 0, 1 / norm.clamp(min=1e-300), torch.zeros_like(norm))
        return (gradient.double() * _per_sample(inverse, gradient)).to(gradient.dtype)


_SPARSITY = 0.01  # Tramer & Boneh 2019, section 4.1: the step goes to the 1 % of the values with the largest gradient.


@dataclass(frozen=True)
class L1(Ball):
    """The absolute values of the perturbation sum up to at most eps, e.g. ``L1(12)``."""

    @property
    def norm_name(self) -> str:
        """``l1``."""
        return "l1"

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.project`. The nearest point of ball and box (Croce & Hein, "Mind the box", ICML 2021, section 3).

        It is origin + s * clamp(w - t, 0, room), where s * w is the difference, room what the box leaves in its
        direction, and t >= 0 the smallest threshold at which the ball is not left.
        """
        if self.eps == 0:  # No threshold below the largest value leaves exactly nothing.
            return origin.clone()
        centre = origin.flatten(1).double()
        wanted = torch.where(torch.isnan(x), origin, x).flatten(1).double().clamp(-1e6, 1e6) - centre
        length = wanted.abs()
        room = torch.where(wanted > 0, 1 - centre, centre)
        step = torch.minimum(length, room)
        outside = torch.nonzero(step.sum(dim=1) > self.eps).flatten()
        if len(outside):
            far, limit = length[outside], room[outside]
            step[outside] = torch.minimum((far - _threshold(far, limit, self.eps)).clamp(min=0), limit)
        result = (centre + step * wanted.sign()).to(x.dtype)
        # Rounding must not lengthen a step: over many values that would leave the ball.
        longer = (result.double() - centre).abs() > step
        flat = origin.flatten(1)
        return torch.where(longer, torch.nextafter(result, flat), result).clamp(0, 1).reshape(x.shape)

    def random_start(self, origin: Tensor, keys: Tensor) -> Tensor:
        """See `Ball.random_start`: signed exponentials over their sum and one more (Barthe et al. 2005)."""
        drawn = _keys.uniform(keys, origin.shape[1:], -1.0, 1.0, origin.device).double()
        last = -torch.log1p(-_keys.uniform(_keys.derive(keys, "radius"), ()).double()).to(origin.device)
        exponential = -torch.log1p(-drawn.abs().clamp(max=1 - 2**-24))
        total = exponential.flatten(1).sum(dim=1) + last
        share = exponential * drawn.sign() / _per_sample(total.clamp(min=1e-300), origin)
        return self.project(origin + (min(self.eps, 1e6) * share).to(origin.dtype), origin)

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.distance`."""
        return (x.double() - origin.double()).abs().flatten(1).sum(dim=1)

    def ascent(self, gradient: Tensor, x: Tensor | None = None) -> Tensor:
        """A step of l1-norm 1, equal parts on the 1 % of the values with the largest gradient; 0 where it is 0.

        The steepest step goes to one value alone, which is slow in many dimensions: Tramer & Boneh, "Adversarial
        training and robustness for multiple perturbations", NeurIPS 2019, section 4.1. With `x`, values on the bound
        of the box that the gradient points to do not take part.
        """
        if x is not None:
            stuck = torch.where(gradient > 0, x >= 1, x <= 0)
            gradient = torch.where(stuck, torch.zeros_like(gradient), gradient)
        count = max(1, math.ceil(_SPARSITY * gradient[0].numel())) if len(gradient) else 1
        return sparse_sign(gradient, torch.full((len(gradient),), count, device=gradient.device))


def _threshold(length: Tensor, room: Tensor, eps: float) -> Tensor:
    """(N, 1): t >= 0 with sum min(max(length - t, 0), room) = eps for each row (N, D), whose sum at 0 is above eps.

    The sum falls with t and is linear between 2 D corners. Newton's method lands on t once it is in the right piece;
    a bracket and a bisection in every third step bring it there.
    """
    low, high = torch.zeros_like(length[:, :1]), length.amax(dim=1, keepdim=True)
    t = low
    for iteration in range(200):
        left = length - t
        excess = torch.minimum(left.clamp(min=0), room).sum(dim=1, keepdim=True) - eps
        low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
        close = (excess.abs() <= 1e-12 * eps) | (high - low <= 1e-15 * high)
        if bool(close.all()):
            break
        slope = ((left > 0) & (left <= room)).sum(dim=1, keepdim=True)
        newton = t + excess / slope.clamp(min=1)
        middle = (low + high) / 2
        useful = (newton > low) & (newton < high) & (slope > 0) & (iteration % 3 < 2)
        t = torch.where(close, t, torch.where(useful, newton, middle))
    return t


def sparse_sign(gradient: Tensor, count: Tensor) -> Tensor:
    """The signs of the `count` (N,) largest values of each sample, over their number: l1-norm 1, or 0 for all zeros."""
    flat = gradient.flatten(1)
    if not flat.numel():
        return gradient.clone()
    most = min(int(count.max()), flat.shape[1])
    _, where = flat.abs().topk(most, dim=1)
    chosen = flat.gather(1, where).sign()
    chosen = chosen * (torch.arange(most, device=flat.device) < count[:, None])
    chosen = chosen / chosen.abs().sum(dim=1, keepdim=True).clamp(min=1)
    return torch.zeros_like(flat).scatter(1, where, chosen).reshape(gradient.shape)


@dataclass(frozen=True)
class L0(Ball):
    """At most eps values of an image change, each by any amount, e.g. ``L0(24)``.

    Values are counted, not pixels: a pixel whose three channels change counts as three.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps != math.inf and self.eps != int(self.eps):
            raise invalid("eps", self.eps, "a whole number of values")

    @property
    def norm_name(self) -> str:
        """``l0``."""
        return "l0"

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.project`. The largest changes are kept, among equal ones the first."""
        x = torch.where(torch.isnan(x), origin, x).clamp(0, 1)
        change = (x - origin).abs().flatten(1)
        if self.eps >= change.shape[1]:
            return x
        kept = change.argsort(dim=1, descending=True, stable=True)[:, : int(self.eps)]
        mask = torch.zeros_like(change, dtype=torch.bool).scatter(1, kept, True).reshape(x.shape)
        return torch.where(mask, x, origin)

    def random_start(self, origin: Tensor, keys: Tensor) -> Tensor:
        """See `Ball.random_start`: eps values, drawn without replacement, become uniform in [0, 1]."""
        drawn = _keys.uniform(keys, origin.shape[1:], device=origin.device)
        if not origin.numel():
            return origin.clone()
        order = _keys.uniform(_keys.derive(keys, "values"), origin.shape[1:], device=origin.device).flatten(1)
        chosen = order.argsort(dim=1)[:, : int(min(self.eps, order.shape[1]))]
        mask = torch.zeros_like(order, dtype=torch.bool).scatter(1, chosen, True).reshape(origin.shape)
        return torch.where(mask, drawn, origin)

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.distance`: the number of values that differ."""
        return (x != origin).flatten(1).sum(dim=1).double()

    def ascent(self, gradient: Tensor, x: Tensor | None = None) -> Tensor:
        """See `Ball.ascent`: one value, where the gradient is largest, moves by 1."""
        flat = gradient.flatten(1)
        place = flat.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign()).reshape(gradient.shape)

    def contains(self, x: Tensor, origin: Tensor) -> Tensor:
        """bool (N,): at most eps values differ, and all are in [0, 1]. NaN is outside."""
        flat = x.flatten(1)
        return ((flat >= 0) & (flat <= 1)).all(dim=1) & (self.distance(x, origin) <= self.eps)


BALLS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2, "l1": L1, "l0": L0}
"""Norm -> its ball."""


def parse_ball(text: str) -> Ball:
    """The inverse of `Ball.slug`, such as ``linf-8of255``, ``l2`` for an infinite radius, ``l1-12-uint8`` for 8 bits.

    Raises `ArgumentError` for a text of another form.
    """
    from robustlab.core.lattice import Lattice  # It builds on this module.

    plain = text.removesuffix("-uint8")
    name, _, eps = plain.partition("-")
    if name not in BALLS:
        raise invalid("ball", text, " or ".join(f"{norm}-EPS[-uint8]" for norm in BALLS))
    ball = BALLS[name](parse_eps(eps) if eps else math.inf)
    if name == "linf" and 1 < ball.eps < math.inf:
        _log.warning("linf radius %s holds every image: values are in [0, 1]; 8/255 is written linf-8of255", eps)
    return ball if plain == text else Lattice(ball)
