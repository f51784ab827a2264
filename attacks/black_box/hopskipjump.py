"""HopSkipJump: Chen, Jordan, Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", IEEE S&P 2020.

From a misclassified image: walk to the decision boundary (bisection), estimate its normal from the labels of points
around, jump along it into the misclassified side, and again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._attack import Access, Attack, look
from robustlab.attacks._goal import Goal
from robustlab.attacks._victim import Victim
from robustlab.attacks.black_box._labels import Decisions
from robustlab.core import L2, Ball, Linf
from robustlab.core import keys as _keys
from robustlab.core.errors import check_int

_FIRST_PROBES = 100  # The number of probes at the first jump; it grows with the root of the jumps. Published.
_MOST_PROBES = 10_000
_FIRST_RADIUS = 0.1  # Of the first probes, which lie on a sphere. Published.
_FINEST = 2.0**-20  # Of a bisection, of the distance: float32 pixels resolve no more.
_COARSE = 1e-3  # Of the bisection between the image and the noise. Published.
_PLAIN_TRIES, _TRIES = 100, 1000
_DRAWN_AT_ONCE = 2**20  # Values of the directions of one sample; they, not the batch, decide where draws are cut.
_ASKED_AT_ONCE = 2**24  # Values of the images that a model is asked about together, 64 MB.
_HALVINGS = 40  # Of a jump; it is then shorter than a float32 pixel resolves.


@dataclass(frozen=True)
class HopSkipJump(Attack):
    """The nearest misclassified image, from nothing but the predicted classes.

    It starts at uniform noise that is not predicted as the label, blended with the image. If 100 draws are, it goes on
    with noise in blocks of growing size, for the classes that look like noise. A sample for which no start is found is
    returned unchanged.

    With a radius, a sample leaves as soon as an image in the ball is found, and is returned unchanged if none is; with
    an infinite radius the nearest image is returned. The images in between lie in the image box, outside the ball.
    Published with up to 25,000 queries. On linear models of 48 values 10,000 come within 2 % of the projection; with
    768 values l2 is within 9 %, and linf 26 % too far in the median: more values need more queries.

    Attributes:
        steps: most queries on each sample, besides the clean look, at least 1.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> import torch
        >>> from robustlab.core import L2
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.full((2, 3, 2, 2), 0.5)
        >>> labels = model(images).argmax(dim=1)
        >>> attack = HopSkipJump(L2(0.5), steps=500)
        >>> attack.slug
        'hopskipjump500-l2-0.5'
        >>> bool((attack.run(model, images, labels).queries <= 501).all())
        True
    """

    steps: int = 10_000

    name: ClassVar[str] = "hopskipjump"
    access: ClassVar[Access] = "labels"
    targetable: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    bounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        rows, _, attacked = look(victim, origin, goal)
        result = origin.clone()
        if len(rows) and self.ball.eps > 0:
            decisions = Decisions(victim, self.ball, origin[rows], goal.at(rows), rows, self.steps)
            _Walk(decisions, keys[rows.to(keys.device)]).run()
            attacked[rows] = decisions.finite
            # What broke down in the middle is no success, whatever was found before.
            found = torch.nonzero(decisions.finite).flatten()
            result[rows[found]] = decisions.nearest[found]
        return result, attacked


class _Walk:
    """The walks of n samples, in step. `x` holds a misclassified image of each, close to the boundary."""

    def __init__(self, decisions: Decisions, keys: Tensor) -> None:
        self.decisions, self.keys, self.origin = decisions, keys, decisions.origin
        self.flat = decisions.ball.norm_name == "linf"
        self.unit = L2(math.inf)
        self.norm: Ball = Linf(math.inf) if self.flat else self.unit
        self.x = self.origin.clone()
        self.size = self.x[0].numel()
        self.tolerance = max(_FINEST, 1 / self.size**2 if self.flat else 1 / self.size**1.5)

    def run(self) -> None:
        """Until no sample has queries left, or wants to go on."""
        at = self._land(self._start())
        jump = 0
        while len(at):
            jump += 1
            at = self._land(self._jump(at, self._normal(at, jump), jump))

    def _start(self) -> Tensor:
        """The samples for which a start was found, (m,)."""
        found = []
        waiting = self.decisions.going()
        channels, height, width = self.x.shape[1:]
        for attempt in range(_TRIES):
            if not len(waiting):
                break
            side = 1 if attempt < _PLAIN_TRIES else 2 ** (1 + attempt % max(1, int(math.log2(max(height, width)))))
            keys = _keys.derive(self.keys[waiting.cpu()], f"start {attempt}")
            noise = _keys.uniform(keys, (channels, -(-height // side), -(-width // side)), device=self.x.device)
            noise = noise.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)[:, :, :height, :width]
            wrong = self.decisions.ask(noise, waiting)
            self.x[waiting[wrong]] = noise[wrong]
            found.append(waiting[wrong])
            waiting = self.decisions.going(waiting[~wrong])
        at = torch.cat(found) if found else waiting
        self._bisect(at, _COARSE, flat=False)
        return at

    def _land(self, at: Tensor) -> Tensor:
        """Bring misclassified `x` of the samples `at` to the boundary; the samples that go on are returned."""
        at = self.decisions.going(at)
        self._bisect(at, self.tolerance, flat=self.flat)
        self.decisions.note(self.x[at], at)
        return self.decisions.going(at)

    def _bisect(self, at: Tensor, tolerance: float, *, flat: bool) -> None:
        """Shorten `x` - origin while it stays misclassified, by scaling it or, if `flat`, by clipping it.

        `tolerance` is a share of its length.
        """
        away, origin = self.x[at], self.origin[at]
        longest = (away.double() - origin.double()).abs().flatten(1).amax(dim=1)
        low, high = torch.zeros_like(longest), torch.ones_like(longest)

        def between(share: Tensor, which: Tensor) -> Tensor:
            delta = away[which] - origin[which]
            part = (share * longest[which] if flat else share).to(away.dtype).reshape(-1, 1, 1, 1)
            if flat:
                return origin[which] + torch.minimum(torch.maximum(delta, -part), part)
            return origin[which] + part * delta

        while True:
            which = torch.nonzero((high - low > tolerance) & self.decisions.can_ask(at)).flatten()
            if not len(which):
                return
            middle = (low[which] + high[which]) / 2
            candidate = between(middle, which).clamp_(0, 1)
            wrong = self.decisions.ask(candidate, at[which])
            high[which] = torch.where(wrong, middle, high[which])
            low[which] = torch.where(wrong, low[which], middle)
            self.x[at[which[wrong]]] = candidate[wrong]

    def _normal(self, at: Tensor, jump: int) -> Tensor:
        """The direction (m, C, H, W) into the misclassified side, of unit l2-norm, from labels around the boundary."""
        x = self.x[at]
        # The published radius, sqrt(d) theta dist and d theta dist with theta = d^-1.5 and d^-2, is dist / d for both.
        distance = self.norm.distance(x, self.origin[at])
        radius = distance / self.size if jump > 1 else torch.full_like(distance, _FIRST_RADIUS)
        wanted = self.decisions.left[at].clamp(max=min(int(_FIRST_PROBES * math.sqrt(jump)), _MOST_PROBES))
        keys = _keys.derive(self.keys[at.cpu()], f"jump {jump}")
        block = max(1, min(int(wanted.max()), _DRAWN_AT_ONCE // self.size))
        width = max(1, _ASKED_AT_ONCE // (block * self.size))
        normal = torch.zeros_like(x)
        for start in range(0, len(at), width):
            part = slice(start, start + width)
            normal[part] = self._vote(at[part], x[part], radius[part].to(x.dtype), wanted[part], keys[part], block)
        return self.unit.ascent(normal)

    def _vote(self, at: Tensor, x: Tensor, radius: Tensor, wanted: Tensor, keys: Tensor, block: int) -> Tensor:
        """The sum of random directions, each times how its label differs from the mean label, +1 or -1."""
        every, signed = torch.zeros_like(x), torch.zeros_like(x)
        votes = torch.zeros_like(radius)
        length = radius.reshape(-1, 1, 1, 1, 1)
        for first in range(0, int(wanted.max()), block):
            directions = self._directions(_keys.derive(keys, f"probes {first}"), (block, *x.shape[1:]))
            points = (x[:, None] + length * directions).clamp_(0, 1)
            directions = (points - x[:, None]) / length
            asked = first + torch.arange(block, device=at.device) < wanted[:, None]
            wrong = self.decisions.ask(points[asked], at[:, None].expand_as(asked)[asked])
            vote = torch.zeros(asked.shape, dtype=x.dtype, device=x.device)
            vote[asked] = 2 * wrong.to(x.dtype) - 1
            every += torch.einsum("nk,nkchw->nchw", asked.to(x.dtype), directions)
            signed += torch.einsum("nk,nkchw->nchw", vote, directions)
            votes += vote.sum(dim=1)
        mean = (votes / wanted).reshape(-1, 1, 1, 1)
        return torch.where(mean.abs() == 1, mean * every, signed - mean * every)

    def _directions(self, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(m, *shape): directions of unit l2-norm, Gaussian for l_2 and uniform for l_inf, as published."""
        drawn = _keys.uniform(keys, shape, -1.0, 1.0) if self.flat else _keys.normal(keys, shape)
        drawn = drawn.to(self.x.device)
        norm = torch.linalg.vector_norm(drawn.flatten(2), dim=2)
        unit: Tensor = drawn / norm.clamp(min=1e-12).reshape(len(drawn), -1, 1, 1, 1)
        return unit

    def _jump(self, at: Tensor, normal: Tensor, jump: int) -> Tensor:
        """Go along the normal, less and less far, until the image is misclassified; `at` is returned."""
        start = self.x[at]
        step = self.norm.distance(start, self.origin[at]).to(start.dtype) / math.sqrt(jump)
        direction = normal.sign() if self.flat else normal
        which = torch.arange(len(at), device=at.device)
        for _ in range(_HALVINGS):
            which = which[self.decisions.can_ask(at[which])]
            if not len(which):
                break
            candidate = (start[which] + step[which].reshape(-1, 1, 1, 1) * direction[which]).clamp_(0, 1)
            wrong = self.decisions.ask(candidate, at[which])
            self.x[at[which[wrong]]] = candidate[wrong]
            which = which[~wrong]
            step = step / 2
        return at
