"""Balls of 8-bit images: what an attack returns is k/255 in every value, so that a PNG holds it without loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustlab.core import keys as _keys
from robustlab.core.balls import Ball
from robustlab.core.errors import invalid

_LEVELS = 255


def on_lattice(images: Tensor) -> Tensor:
    """bool (N,): whether every value of a sample is exactly float32(k) / 255, k = 0..255, as an 8-bit file decodes."""
    return (images == _levels(images).to(images.dtype) / _LEVELS).flatten(1).all(dim=1)


def _levels(images: Tensor) -> Tensor:
    """The nearest of 0..255, as whole numbers in float64; NaN stays."""
    return (images.double() * _LEVELS).round().clamp(0, _LEVELS)


@dataclass(frozen=True)
class Lattice(Ball):
    """The 8-bit images of a ball around an 8-bit image, e.g. ``Lattice(Linf(8 / 255))``.

    An iterate stays any point of `inner`, so that steps below half a level add up; what the model is shown, judged on
    and returned is the 8-bit image beside it, `shown`. An attack takes its gradient there too.

    Attributes:
        inner: the ball of images with any values.
    """

    eps: float = field(init=False, repr=False)
    inner: Ball

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Ball) or isinstance(self.inner, Lattice):
            raise invalid("inner", self.inner, "a ball such as Linf(8 / 255) or L2(0.5)")
        object.__setattr__(self, "eps", self.inner.eps)

    @property
    def norm_name(self) -> str:
        """That of `inner`."""
        return self.inner.norm_name

    @property
    def slug(self) -> str:
        """That of `inner` and ``-uint8``: ``linf-8of255-uint8``."""
        return f"{self.inner.slug}-uint8"

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """Bring `x` into `inner`; `shown` makes an 8-bit image of it."""
        return self.inner.project(x, origin)

    def random_start(self, origin: Tensor, keys: Tensor) -> Tensor:
        """See `Ball.random_start`: a draw from `inner`; in linf every 8-bit image is equally likely."""
        if self.norm_name != "linf" or self.eps == 0:
            return self.inner.random_start(origin, keys)
        edge = self._reach + 0.5
        levels = _keys.uniform(keys, origin.shape[1:], -edge, edge, origin.device).round()
        return self.project(origin + levels.clamp(-self._reach, self._reach) / _LEVELS, origin)

    @property
    def _reach(self) -> int:
        """Levels within eps, in linf."""
        return math.floor(min(self.eps, 1.0) * _LEVELS * (1 + 1e-9) + 1e-9)

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """See `Ball.distance`."""
        return self.inner.distance(x, origin)

    def ascent(self, gradient: Tensor, x: Tensor | None = None) -> Tensor:
        """See `Ball.ascent`."""
        return self.inner.ascent(gradient, x)

    def contains(self, x: Tensor, origin: Tensor) -> Tensor:
        """bool (N,): in `inner` and on the lattice."""
        return self.inner.contains(x, origin) & on_lattice(x)

    def check_origin(self, images: Tensor) -> None:
        """Raise `ArgumentError` if a value of `images` (N, ...) is not exactly float32(k) / 255."""
        off = torch.nonzero(~on_lattice(images)).flatten()
        if len(off):
            sample = images[int(off[0])].flatten()
            value = float(sample[sample != (_levels(sample).to(sample.dtype) / _LEVELS)][0])
            raise invalid(
                f"images[{int(off[0])}]", f"an image with the value {value!r}", "8-bit images: float32 k / 255"
            )

    def shown(self, x: Tensor, origin: Tensor) -> Tensor:
        """The 8-bit image beside `x` (N, ...), a point of `inner` around the 8-bit `origin`, that is in `inner` too.

        In linf every value goes to the nearest level within eps of the origin. In the other norms it goes to the
        nearest level, and where that leaves the ball, roundings away from the origin are taken back, those first that
        cost the least distance to `x` for what they bring.
        """
        centre = _levels(origin)
        if self.norm_name == "linf":
            moved = torch.minimum(torch.maximum(_levels(x), centre - self._reach), centre + self._reach)
            moved = moved.clamp(0, _LEVELS)
        else:
            moved = centre + self._steps((x.double() * _LEVELS - centre).flatten(1)).reshape(x.shape)
        return moved.to(x.dtype) / _LEVELS

    def _steps(self, wanted: Tensor) -> Tensor:
        """Whole steps (N, D) in levels for the wanted ones, no larger in the norm of `inner` than its eps."""
        power = {"l2": 2.0, "l1": 1.0}.get(self.norm_name)
        steps = wanted.round()
        if power is None:  # l0: a value that does not move is not moved by rounding either.
            return steps
        budget = (self.eps * _LEVELS * (1 + 1e-9)) ** power
        outside = torch.nonzero(steps.abs().pow(power).sum(dim=1) > budget).flatten()
        if not len(outside):
            return steps
        far, near = steps[outside].abs(), wanted[outside].abs().floor()
        brings = far.pow(power) - near.pow(power)  # 0 where rounding went towards the origin.
        cost = 2 * (wanted[outside].abs() - near) - 1  # How much farther from `wanted` squared: f^2 - (1 - f)^2.
        order = torch.where(brings > 0, cost / brings.clamp(min=1), torch.inf).argsort(dim=1, stable=True)
        missing = far.pow(power).sum(dim=1, keepdim=True) - budget
        before = brings.gather(1, order).cumsum(dim=1) - brings.gather(1, order)
        back = torch.zeros_like(far, dtype=torch.bool).scatter(1, order, before < missing)
        steps[outside] = torch.where(back, near, far) * wanted[outside].sign()
        return steps
