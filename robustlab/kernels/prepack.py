"""Weights in the order the kernels read them: one flat uint8 tensor, as many bits as the weights have.

Output channels lie in panels of 16 lanes (each group's outputs padded with zeros), the taps of a window in *runs*: a
whole line of the kernel where its taps lie next to each other in the packed image (one group, horizontal dilation 1),
else one tap. All little-endian:

    form      activations             panels of
    signs     one bit                 [run][word][lane] uint32, 32 sign bits each (1 means -1)
    planes    a bits, w * a <= 4      [plane][run][word][lane] uint32, bit planes of two's complement codes
    codes     bytes                   [run][word][plane] uint64, bit 4 lane + i belongs to weight i of the word
    codes, 8-bit weights              [run][word][lane][4] int8

In bit forms every tap starts at a whole byte, in all forms every run at a whole word; what is padded is zero. Forms
other than signs end with one int32 for each lane, the sum of its codes (one bit: 0 and -1), for zero points.
Depthwise layers have one channel per lane instead: [tap] bits, or [tap][group of 64 channels][plane] uint64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.core.errors import check_int, invalid
from robustlab.kernels.layout import Shape, check_codes, check_shape, join_planes, plane_bits, to_bits, to_bytes
from robustlab.kernels.spec import check_weight_zero_point, shown, zero_point_unit

LANES = 16
_SERIAL = 4  # bit-serial products win where weight bits times activation bits are at most this


@dataclass(frozen=True)
class WeightForm:
    """Everything that decides how weights are prepacked.

    shape: (O, C/groups, kh, kw). activation_bits: 0 where activations are signs. lines: whether taps of a kernel line
    are neighbours in the image, that is, horizontal dilation 1. zero_point: of the weight codes, a multiple of 0.5.
    Raises `ArgumentError` for values that do not fit together.
    """

    shape: Shape
    bits: int
    groups: int = 1
    activation_bits: int = 0
    lines: bool = True
    zero_point: float = 0.0

    def __post_init__(self) -> None:
        check_int("bits", self.bits, 1, 8)
        check_shape(self.shape, self.groups)
        check_int("activation_bits", self.activation_bits, 0, 8)
        object.__setattr__(self, "zero_point", check_weight_zero_point(self.bits, self.zero_point))
        if not isinstance(self.lines, bool):
            raise invalid("lines", self.lines, "True or False")
        if self.activation_bits == 0 and self.bits != 1:
            raise invalid("bits", self.bits, "1 where activations are signs")
        if self.summed and self.groups > 1:
            raise invalid("groups", self.groups, f"1 for {self.bits}-bit weights with zero point {self.zero_point}")

    @property
    def depthwise(self) -> bool:
        """One input and one output channel in every group."""
        return self.groups > 1 and self.shape[1] == 1 and self.shape[0] == self.groups

    @property
    def kind(self) -> str:
        """``signs``, ``planes`` or ``codes``."""
        if self.activation_bits == 0:
            return "signs"
        serial = self.bits * self.activation_bits <= _SERIAL and self.zero_point == 0 and not self.depthwise
        return "planes" if serial else "codes"

    @property
    def summed(self) -> bool:
        """Whether codes less their zero point leave int8, so that the kernels need the sums of the activations too."""
        if self.bits == 1 or self.kind != "codes":
            return False
        factor = zero_point_unit(self.zero_point)
        half = 1 << (self.bits - 1)
        return factor * (-half - self.zero_point) < -128 or factor * (half - 1 - self.zero_point) > 127

    @property
    def run_taps(self) -> int:
        """Taps of a run."""
        return self.shape[3] if self.groups == 1 and self.lines else 1

    @property
    def panels(self) -> int:
        """Panels of 16 outputs, all groups."""
        return self.groups * -(-(self.shape[0] // self.groups) // LANES)

    @property
    def run_words(self) -> int:
        """32-bit words of a run."""
        channels = self.shape[1]
        return -(-self.run_taps * channels // 4) if self.kind == "codes" else -(-self.run_taps * -(-channels // 8) // 4)

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes, without their sums."""
        taps = self.shape[2] * self.shape[3]
        if self.depthwise:
            return int(taps * -(-self.shape[0] // 64) * 8 * self.bits)
        words = taps // self.run_taps * self.run_words
        return self.panels * words * self.bits * (8 if self.kind == "codes" else 64)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the prepacked tensor."""
        lanes = -(-self.shape[0] // 64) * 64 if self.depthwise else self.panels * LANES
        return self.code_bytes + (0 if self.kind == "signs" else 4 * lanes)


cached_form = lru_cache(maxsize=4096)(WeightForm)


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """Prepacked weights: `data` is opaque (uint8, 1-D, see the module), `form` says how it came about.

    Raises `ArgumentError` if the two do not fit together.
    """

    data: Tensor
    form: WeightForm

    def __post_init__(self) -> None:
        size = self.form.packed_bytes
        if self.data.dtype != torch.uint8 or tuple(self.data.shape) != (size,):
            raise invalid("data", shown(self.data), f"uint8 of shape ({size},)")

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        return self.form.bits

    @property
    def shape(self) -> Shape:
        """(O, C/groups, kh, kw)."""
        return self.form.shape

    @property
    def taps(self) -> int:
        """K, the weights of one output channel."""
        return prod(self.form.shape[1:])


def pack_weight(
    codes: Tensor,
    bits: int,
    groups: int = 1,
    *,
    activation_bits: int = 0,
    lines: bool = True,
    zero_point: float = 0.0,
) -> PackedWeight:
    """Prepack int8 codes (O, C/groups, kh, kw): {-1, +1} at one bit, else two's complement (see `weight_limits`).

    activation_bits: of the activations they will meet, 0 for signs; lines: see `WeightForm`.
    Raises `ArgumentError` for codes out of range or values that do not fit together.
    """
    check_codes(codes, bits, zero_point)
    out, channels, height, width = codes.shape
    form = cached_form((out, channels, height, width), bits, groups, activation_bits, lines, zero_point)
    codes = codes.cpu()
    return PackedWeight(torch.cat([_pack(codes, form), _sums(codes, form)]), form)


def _in_panels(codes: Tensor, form: WeightForm) -> Tensor:
    """Codes (O, ...) -> (panels, 16, ...), every group padded to whole panels."""
    grouped = codes.reshape(form.groups, -1, *codes.shape[1:])
    padding = [0, 0] * (grouped.ndim - 2) + [0, -grouped.shape[1] % LANES]
    return F.pad(grouped, padding).reshape(form.panels, LANES, *codes.shape[1:])


def _in_runs(codes: Tensor, form: WeightForm) -> Tensor:
    """Codes (O, C/groups, kh, kw) -> (O, runs, words, values of a word), padded with zeros."""
    out, channels, height, width = form.shape
    values, unit = (4, 1) if form.kind == "codes" else (32, 8)
    taps = F.pad(codes.permute(0, 2, 3, 1), (0, -channels % unit))
    runs = taps.reshape(out, height * width // form.run_taps, -1)
    return F.pad(runs, (0, -runs.shape[2] % values)).reshape(out, runs.shape[1], -1, values)


def _pack(codes: Tensor, form: WeightForm) -> Tensor:
    if form.depthwise:
        rows = codes.reshape(form.shape[0], -1).T  # (taps, channels)
        rows = F.pad(rows, (0, -rows.shape[1] % 64)).reshape(rows.shape[0], -1, 64)
        return to_bytes(plane_bits(rows, form.bits).permute(1, 2, 0, 3)).flatten()
    panels = _in_panels(_in_runs(codes, form), form)  # (panel, lane, run, word, value)
    if form.kind == "codes" and form.bits == 8:
        return panels.permute(0, 2, 3, 1, 4).contiguous().view(torch.uint8).flatten()
    planes = plane_bits(panels, form.bits)
    if form.kind == "codes":
        return to_bytes(planes.permute(1, 3, 4, 0, 2, 5).flatten(-2)).flatten()
    return to_bytes(planes.permute(1, 0, 3, 4, 2, 5)).flatten()


def _sums(codes: Tensor, form: WeightForm) -> Tensor:
    if form.kind == "signs":
        return torch.empty(0, dtype=torch.uint8)
    values = (codes.to(torch.int32) - 1) // 2 if form.bits == 1 else codes.to(torch.int32)
    sums = values.flatten(1).sum(1, dtype=torch.int32)
    lanes = F.pad(sums, (0, -len(sums) % 64)) if form.depthwise else _in_panels(sums, form).flatten()
    return lanes.contiguous().view(torch.uint8)


def unpack_data(data: Tensor, form: WeightForm) -> Tensor:
    """int8 codes (O, C/groups, kh, kw) of a prepacked tensor."""
    out, channels, height, width = form.shape
    bits, codes = form.bits, data.cpu()[: form.code_bytes]
    if form.depthwise:
        rows = to_bits(codes.reshape(height * width, -1, bits, 8)).permute(2, 0, 1, 3).flatten(-2)
        return join_planes(rows)[:, :out].T.reshape(form.shape).contiguous()
    runs, words = height * width // form.run_taps, form.run_words
    if form.kind == "codes" and bits == 8:
        panels = codes.view(torch.int8).reshape(form.panels, runs, words, LANES, 4).permute(0, 3, 1, 2, 4)
    elif form.kind == "codes":
        planes = to_bits(codes.reshape(form.panels, runs, words, bits, 8)).reshape(
            *[form.panels, runs, words, bits], LANES, 4
        )
        panels = join_planes(planes.permute(3, 0, 4, 1, 2, 5))
    else:
        planes = to_bits(codes.reshape(form.panels, bits, runs, words, LANES, 4))
        panels = join_planes(planes.permute(1, 0, 4, 2, 3, 5))
    used = panels.reshape(form.groups, -1, runs, panels.shape[3] * panels.shape[4])[:, : out // form.groups]
    unit = channels if form.kind == "codes" else -(-channels // 8) * 8
    taps = used.reshape(out, runs, -1)[..., : form.run_taps * unit].reshape(out, height, width, unit)
    return taps[..., :channels].permute(0, 3, 1, 2).contiguous()


def unpack_weight(weight: PackedWeight) -> Tensor:
    """int8 codes (O, C/groups, kh, kw): the exact inverse of `pack_weight`."""
    return unpack_data(weight.data, weight.form)
