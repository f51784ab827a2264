"""Grids of weights: symmetric or affine, with a scale for the tensor, for every output channel, or for groups in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustlab.compress.coders import WeightCoder
from robustlab.compress.observers import weight_range, weight_scale
from robustlab.core.errors import check_choice, check_int, invalid
from robustlab.core.subgradients import clamp, round_ste

GRANULARITIES = ("tensor", "channel", "group")
WORD = 64
"""Input channels that fill a word of the kernels."""
_CANDIDATES = 80
_MOST = 1 << 20


@dataclass(frozen=True)
class WeightScheme:
    """Which weights share a grid, and whether 0 is in its middle.

    granularity: ``tensor``, ``channel`` (every output channel has a grid of its own) or ``group`` (so has every group
    of `group_size` input channels in it, a multiple of 64; the last group is smaller where the channels of a
    convolution's group do not divide, and layers of at most `group_size` have one).
    symmetric: codes in +-(2^(bits-1) - 1); else every grid has a whole zero point among its 2^bits codes (255 codes at
    8 bits), so that the range may be wider on one side of 0.
    """

    granularity: str = "channel"
    symmetric: bool = True
    group_size: int = WORD

    def __post_init__(self) -> None:
        check_choice("granularity", self.granularity, GRANULARITIES)
        if type(self.symmetric) is not bool:
            raise invalid("symmetric", self.symmetric, "True or False")
        check_int("group_size", self.group_size, WORD, _MOST)
        if self.group_size % WORD:
            raise invalid("group_size", self.group_size, f"a multiple of {WORD}")
        if self.granularity != "group" and self.group_size != WORD:
            raise invalid("group_size", self.group_size, f"{WORD}, or granularity group")

    @property
    def plain(self) -> bool:
        """Symmetric, per output channel: what every algorithm can have."""
        return self.symmetric and self.granularity == "channel"


PLAIN = WeightScheme()


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """value = scale * (code - zero_point), code in [low, high]. scale, zero_point: float32 (O, K), K groups.

    Group k holds `size` input channels of the weight (O, C, ...) from k * size on, the last one what is left.
    """

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int
    size: int

    def spread(self, vector: Tensor, weight: Tensor) -> Tensor:
        """A tensor (O, K) in a shape that broadcasts with the weight."""
        if vector.shape[1] > 1:
            vector = vector.repeat_interleave(self.size, dim=1)[:, : weight.shape[1]]
        return vector.reshape(*vector.shape, *([1] * (weight.ndim - 2)))

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest codes, float32 like the weight. Gradient: 1 / scale inside the range, 0 outside."""
        steps = round_ste(weight / self.spread(self.scale, weight))
        return clamp(steps + self.spread(self.zero_point, weight), self.low, self.high)

    def values(self, codes: Tensor) -> Tensor:
        """scale * (code - zero_point), one rounding."""
        return (codes - self.spread(self.zero_point, codes)) * self.spread(self.scale, codes)


def code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest code; at 8 bits the affine range is the symmetric one."""
    half = 1 << (bits - 1)
    return (1 - half if symmetric or bits == 8 else -half), half - 1


def find_grid(weight: Tensor, bits: int, rule: str, scheme: WeightScheme) -> WeightGrid:
    """The grid of a weight (O, C, ...) by a rule of `OBSERVERS`, see `weight_scale` and `weight_range`.

    With ``mse`` the affine range is the one of 80 shrunken ranges with the least squared error. The symmetric grid and
    the next coarser ones are candidates as well, so that no affine grid errs more than a symmetric one, and none of a
    group more than the one of its channel.
    """
    weight = weight.detach().float()
    size = weight.shape[1]
    if scheme.granularity == "tensor":
        found = [row_grid(weight.reshape(1, -1), bits, rule, scheme)]
    else:
        coarser = None if scheme.symmetric else row_grid(weight.reshape(1, -1), bits, rule, scheme)
        found = [row_grid(weight.flatten(1), bits, rule, scheme, coarser)]
        if scheme.granularity == "group":
            size, coarser = min(scheme.group_size, size), found[0]
            parts = weight.split(size, dim=1)
            found = [row_grid(part.flatten(1), bits, rule, scheme, coarser) for part in parts]
    low, high = code_range(bits, scheme.symmetric)
    if scheme.granularity == "tensor" and not bool(found[0][1].any()):
        low = 1 - (1 << (bits - 1))
    scale, zero = (torch.stack(column, dim=1).expand(len(weight), -1) for column in zip(*found, strict=True))
    return WeightGrid(scale.contiguous(), zero.contiguous(), low, high, size)


Row = tuple[Tensor, Tensor]


def row_grid(flat: Tensor, bits: int, rule: str, scheme: WeightScheme, coarser: Row | None = None) -> Row:
    """(scale (R,), zero point (R,)) of rows (R, n). For ``mse`` `coarser` is another candidate."""
    scale = weight_scale(flat, bits, rule)
    best = scale, torch.zeros_like(scale)
    if not scheme.symmetric:
        low, high = code_range(bits, scheme.symmetric)
        start, end = weight_range(flat, rule)
        if rule != "mse":
            return _affine(start, end, low, high)
        for index in range(_CANDIDATES):
            keep = 1 - index / _CANDIDATES
            best = _better(flat, best, _affine(start * keep, end * keep, low, high), bits, scheme)
    return best if coarser is None or rule != "mse" else _better(flat, best, coarser, bits, scheme)


def _affine(start: Tensor, end: Tensor, low: int, high: int) -> Row:
    """The grid that covers [start, end], which holds 0; 1 and 0 for an empty range."""
    scale = (end - start) / (high - low)
    empty = scale < torch.finfo(torch.float32).tiny
    scale = torch.where(empty, torch.ones_like(scale), scale)
    zero = torch.round(low - start / scale).clamp(low, high)
    return scale, torch.where(empty, torch.zeros_like(zero), zero)


def _better(flat: Tensor, one: Row, other: Row, bits: int, scheme: WeightScheme) -> Row:
    """For every row the grid with the smaller squared error, the first where they are equal."""
    low, high = code_range(bits, scheme.symmetric)
    errors = []
    for scale, zero in (one, other):
        least = torch.full_like(zero, low)
        if scheme.granularity == "tensor":
            # One zero point is that of the kernels, whose codes are symmetric where it is 0.
            least[zero == 0] = 1 - (1 << (bits - 1))
        codes = (torch.round(flat / scale[:, None]) + zero[:, None]).clamp(max=high).maximum(least[:, None])
        errors.append(((codes - zero[:, None]) * scale[:, None] - flat).square().sum(dim=1))
    keep = errors[0] <= errors[1]
    return torch.where(keep, one[0], other[0]), torch.where(keep, one[1], other[1])


class GridQuantizer(WeightCoder):
    """Weights on the grid of a `WeightScheme`, found anew from the weights (by `rule`) in every forward pass.

    value = scale * (code - zero_point), with a scale and a zero point for the tensor, for each output channel, or for
    each group in it. The grid has no gradient; that of the weight is 1 inside the range, 0 outside.
    """

    def __init__(self, bits: int, rule: str, scheme: WeightScheme) -> None:
        super().__init__()
        self.bits = bits
        self.rule = rule
        self.scheme = scheme

    @property
    def levels(self) -> int:
        """Codes of the range."""
        low, high = code_range(self.bits, self.scheme.symmetric)
        return high - low + 1

    def grid(self, weight: Tensor) -> WeightGrid:
        """The grid for this weight (O, C, ...)."""
        return find_grid(weight, self.bits, self.rule, self.scheme)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes float32 like the weight, scale (O, K)), see `WeightGrid`."""
        grid = self.grid(weight)
        return grid.codes(weight), grid.scale

    def forward(self, weight: Tensor) -> Tensor:
        """The fake-quantized weight."""
        grid = self.grid(weight)
        return grid.values(grid.codes(weight))

    def extra_repr(self) -> str:
        """Bits, rule and scheme, also part of a model's fingerprint."""
        return f"bits={self.bits}, rule={self.rule}, {self.scheme}"


class FixedGrid(GridQuantizer):
    """The same on a grid that stays."""

    scale: Tensor

    def __init__(self, bits: int, scheme: WeightScheme, grid: WeightGrid) -> None:
        super().__init__(bits, "given", scheme)
        self.register_buffer("scale", grid.scale.detach().clone())
        self.register_buffer("zero_points", grid.zero_point.detach().clone())
        self._place = (grid.low, grid.high, grid.size)

    def grid(self, weight: Tensor) -> WeightGrid:
        """The grid as it was given."""
        return WeightGrid(self.scale, self.get_buffer("zero_points"), *self._place)
