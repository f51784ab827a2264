"""Where Square starts and what it tries next, for every norm that it is published for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from torch import Tensor

from robustlab.core import Ball
from robustlab.core import keys as _keys
from robustlab.kernels.squares import NUMBERS, can_paint, paint_squares

DRAWS = 6
"""Random numbers that a step takes."""

DRAW_LIMIT = 2**62
"""They are uniform in [0, DRAW_LIMIT)."""


class Moves(ABC):
    """What can be done to the samples `origin` (n, C, H, W) in `ball`.

    Samples are named by their indices `at` (m,), and `side` is a side of a square that `bound` has returned.
    """

    def __init__(self, ball: Ball, origin: Tensor) -> None:
        self.ball, self.origin = ball, origin

    @abstractmethod
    def bound(self, side: int) -> int:
        """The nearest side that this norm takes and that fits into the image."""

    @abstractmethod
    def start(self, at: Tensor, keys: Tensor) -> Tensor:
        """Images (m, C, H, W) in the ball to begin with; `keys` is (m,)."""

    @abstractmethod
    def propose(self, best: Tensor, at: Tensor, numbers: Tensor, side: int) -> Tensor:
        """Changed copies (m, C, H, W) of `best[at]`, in the ball, from `numbers` (m, DRAWS)."""

    def _place(self, numbers: Tensor, room: int) -> Tensor:
        """int64 (m,), uniform in [0, room)."""
        return ((numbers >> 31) * room) >> 31

    def _bits(self, numbers: Tensor, channels: int) -> Tensor:
        """bool (m, C): one coin for every channel."""
        return numbers[:, None] & _masks(channels, numbers.device) != 0

    def _corner(self, numbers_y: Tensor, numbers_x: Tensor, side: int) -> Tensor:
        """int64 (m,): the upper left pixel of a square that lies inside the image, as an index into H * W."""
        height, width = self.origin.shape[2:]
        return self._place(numbers_y, height - side + 1) * width + self._place(numbers_x, width - side + 1)


@lru_cache(maxsize=16)
def _masks(channels: int, device: torch.device) -> Tensor:
    """int64 (C,): one bit for every channel, of the 62 that a number has."""
    return 1 << (torch.arange(channels, device=device) % 62)


@lru_cache(maxsize=256)
def _window(shape: tuple[int, int, int], side: int, device: torch.device) -> Tensor:
    """int64 (C * side * side,): the values of the upper left square of an image (C, H, W), as indices into it."""
    index = torch.arange(math.prod(shape), device=device).reshape(shape)
    return index[:, :side, :side].flatten()


class LinfMoves(Moves):
    """Every value stands at one of its two extremes; a square is repainted with one of them for each channel."""

    def __init__(self, ball: Ball, origin: Tensor) -> None:
        super().__init__(ball, origin)
        self.high = ball.shown(ball.project(origin + ball.eps, origin), origin)
        self.low = ball.shown(ball.project(origin - ball.eps, origin), origin)

    def bound(self, side: int) -> int:
        """See `Moves.bound`."""
        return max(1, min(side, self.origin.shape[2], self.origin.shape[3]))

    def start(self, at: Tensor, keys: Tensor) -> Tensor:
        """See `Moves.start`: vertical stripes, a pixel wide."""
        _, channels, _, width = self.origin.shape
        up = _keys.integers(keys, (channels, 1, width), 0, 2, self.origin.device) != 0
        return torch.where(up, self.high[at], self.low[at])

    def propose(self, best: Tensor, at: Tensor, numbers: Tensor, side: int) -> Tensor:
        """See `Moves.propose`. Colours that change nothing are replaced: they would waste the query."""
        if can_paint(best):
            return paint_squares(best, self.low, self.high, at, numbers[:, :NUMBERS], side)
        shape = (self.origin.shape[1], self.origin.shape[2], self.origin.shape[3])
        inside = _window(shape, side, best.device) + self._corner(numbers[:, 0], numbers[:, 1], side)[:, None]
        flat = (inside + (at * math.prod(shape))[:, None]).flatten()
        high, low, old = (t.flatten().index_select(0, flat).view_as(inside) for t in (self.high, self.low, best))
        up = self._bits(numbers[:, 2], shape[0])
        new = self._paint(up, high, low)
        same = (new == old).all(dim=1)
        if bool(same.any()):
            # Flips that are not all off; then at least one channel changes, and all other colours are as likely.
            flips = self._bits(1 + numbers[:, 3] % (2 ** min(shape[0], 62) - 1), shape[0])
            new = self._paint(up ^ (flips & same[:, None]), high, low)
        candidate = best.index_select(0, at)
        candidate.view(len(at), -1).scatter_(1, inside, new)
        return candidate

    def _paint(self, up: Tensor, high: Tensor, low: Tensor) -> Tensor:
        """The values (m, C * side * side) of a square whose channels are `up` (m, C) or down."""
        shape = (len(up), up.shape[1], -1)
        return torch.where(up[:, :, None], high.view(shape), low.view(shape)).flatten(1)


def _pyramid(height: int, width: int) -> Tensor:
    """A bump (height, width) of nested rectangles around a centre: the published one, before it is scaled."""
    bump = torch.zeros(height, width)
    middle_y, middle_x = height // 2 + 1, width // 2 + 1
    top, left = middle_y - 1, middle_x - 1
    for ring in range(max(middle_y, middle_x)):
        size = 2 * ring + 1
        bump[max(top, 0) : min(top + size, height), max(left, 0) : min(left + size, width)] += 1 / (ring + 1) ** 2
        top, left = top - 1, left - 1
    return bump


@lru_cache(maxsize=256)
def _bumps(side: int, power: int, device: torch.device) -> Tensor:
    """(2, side, side) of unit norm: a positive bump over a negative one, and the same lying on its side."""
    half = side // 2
    upper, lower = (_unit(_pyramid(height, side), 2, (0, 1)) for height in (half, side - half))
    bump = _unit(torch.cat([upper, -lower]), power, (0, 1))
    return torch.stack([bump, bump.T]).to(device)


def _unit(x: Tensor, power: int, dim: int | tuple[int, ...]) -> Tensor:
    """`x` over its norm; 0 where it is 0."""
    norm: Tensor = torch.linalg.vector_norm(x, power, dim, keepdim=True)
    return x / norm.clamp(min=1e-12)


class WindowMoves(Moves):
    """Perturbation is taken from one window and given to another, in the shape of a pair of bumps: l_2 and l_1.

    What a window holds is measured by the sum of |value| ** power, of which the ball allows eps ** power in all.
    """

    def __init__(self, ball: Ball, origin: Tensor, power: int) -> None:
        super().__init__(ball, origin)
        self.power = power

    def bound(self, side: int) -> int:
        """See `Moves.bound`: odd, and at least 3 where the image is."""
        side = max(side, 3)
        return max(1, min(side + 1 - side % 2, self.origin.shape[2], self.origin.shape[3]))

    def start(self, at: Tensor, keys: Tensor) -> Tensor:
        """See `Moves.start`: a grid of five by five windows with a pair of bumps in each."""
        _, channels, height, width = self.origin.shape
        side = max(1, min(height, width) // 5)
        rows, columns = height // side, width // side
        draws = _keys.integers(keys, (channels + 1, rows, columns), 0, 2, self.origin.device)
        bumps = _bumps(side, self.power, self.origin.device)[draws[:, 0]]  # (m, rows, columns, side, side)
        tiles = bumps[:, None] * (2.0 * draws[:, 1:, :, :, None, None] - 1)
        delta = torch.zeros((len(at), channels, height, width), device=self.origin.device)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        grid = tiles.permute(0, 1, 2, 4, 3, 5).reshape(len(at), channels, rows * side, columns * side)
        delta[:, :, top : top + rows * side, left : left + columns * side] = grid
        return self._at_edge(delta, at)

    def propose(self, best: Tensor, at: Tensor, numbers: Tensor, side: int) -> Tensor:
        """See `Moves.propose`."""
        shape = (self.origin.shape[1], self.origin.shape[2], self.origin.shape[3])
        window = _window(shape, side, best.device)
        taker = window + self._corner(numbers[:, 0], numbers[:, 1], side)[:, None]
        giver = window + self._corner(numbers[:, 2], numbers[:, 3], side)[:, None]
        delta = (best.index_select(0, at) - self.origin.index_select(0, at)).flatten(1)
        squares = (len(at), shape[0], side * side)
        old = delta.gather(1, taker).view(squares)
        total = self._held(delta, 1).view(-1, 1, 1)
        emptied = delta.scatter(1, taker, 0.0)
        held = self._held(old, 2) + self._held(emptied.gather(1, giver).view(squares), 2)
        available = (self.ball.eps**self.power - total).clamp(min=0) / shape[0] + held
        lying = self._bits(numbers[:, 4], 1)[:, 0].long()
        signs = 2.0 * self._bits(numbers[:, 5], shape[0])[:, :, None] - 1
        fresh = _bumps(side, self.power, best.device)[lying].reshape(len(at), 1, -1) * signs
        fresh = _unit(fresh + _unit(old, self.power, 2), self.power, 2) * available ** (1 / self.power)
        delta = emptied.scatter_(1, giver, 0.0).scatter_(1, taker, fresh.view(len(at), -1))
        return self._at_edge(delta.view(len(at), *shape), at)

    def _held(self, delta: Tensor, dim: int) -> Tensor:
        return delta.abs().pow(self.power).sum(dim=dim, keepdim=True)

    def _at_edge(self, delta: Tensor, at: Tensor) -> Tensor:
        """Images whose perturbation is `delta` (m, C, H, W), scaled to the edge of the ball."""
        origin = self.origin.index_select(0, at)
        scaled = self.ball.eps * _unit(delta.flatten(1), self.power, 1).view_as(delta)
        return self.ball.shown(self.ball.project(origin + scaled, origin), origin)


def moves_in(ball: Ball, origin: Tensor) -> Moves:
    """The moves of Square in `ball`, by its norm."""
    if ball.norm_name == "linf":
        return LinfMoves(ball, origin)
    return WindowMoves(ball, origin, {"l2": 2, "l1": 1}[ball.norm_name])
