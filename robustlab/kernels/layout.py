"""Weights at their real bit-width: the canonical planes of a file, and the prepacked form the kernels read.

Both concatenate the K = kh * kw * C/groups weights of an output channel in (kh, kw, C/groups) order.

Canonical: uint8 (bits, O, ceil(K / 8)), little-endian bits. One bit: 1 means -1. More bits: two's complement planes.

Prepacked: one flat uint8 tensor, output channels in panels of 16 lanes (O padded with zeros), little-endian words:
    1 bit      [panel][word of 32 weights][lane] uint32, bit i of word w is weight 32 w + i
    2..8 bits  [panel][group of 4 weights][plane] uint64, bit 4 lane + i of group j is weight 4 j + i
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.core.errors import check_int, invalid
from robustlab.kernels.spec import shown

LANES = 16


def largest_code(bits: int) -> int:
    """Largest magnitude of a weight code: 1 for one bit, else 2^(bits-1) - 1 (symmetric)."""
    return max(1, (1 << (bits - 1)) - 1)


def packed_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Bytes of the prepacked form of (O, C/groups, kh, kw) weights."""
    panels, taps = -(-shape[0] // LANES), prod(shape[1:])
    return panels * (-(-taps // 32) * LANES * 4 if bits == 1 else -(-taps // 4) * bits * 8)


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """Prepacked weights: `data` is opaque (uint8, 1-D, see the module), `shape` is (O, C/groups, kh, kw).

    Raises `ArgumentError` if the parts do not fit together.
    """

    data: Tensor
    bits: int
    shape: tuple[int, int, int, int]
    groups: int = 1

    def __post_init__(self) -> None:
        check_int("bits", self.bits, 1, 8)
        _check_shape(self.shape, self.groups)
        size = packed_bytes(self.shape, self.bits)
        if self.data.dtype != torch.uint8 or tuple(self.data.shape) != (size,):
            raise invalid("data", shown(self.data), f"uint8 of shape ({size},)")

    @property
    def taps(self) -> int:
        """K, the weights of one output channel."""
        return prod(self.shape[1:])


def _check_shape(shape: tuple[int, ...], groups: int) -> None:
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise invalid("shape", shape, "(O, C/groups, kh, kw)")
    for size in shape:
        check_int("shape", size, 1)
    check_int("groups", groups, 1)
    if shape[0] % groups:
        raise invalid("groups", groups, f"a divisor of the {shape[0]} output channels")


def _check_codes(codes: Tensor, bits: int) -> None:
    check_int("bits", bits, 1, 8)
    if not isinstance(codes, Tensor) or codes.dtype != torch.int8 or codes.ndim != 4 or codes.numel() == 0:
        raise invalid("codes", shown(codes), "a non-empty int8 tensor (O, C/groups, kh, kw)")
    if bits == 1:
        if not bool((codes.abs() == 1).all()):
            raise invalid("codes", "a tensor with other values", "-1 and +1 at 1 bit")
        return
    limit = largest_code(bits)
    low, high = (int(v) for v in torch.aminmax(codes))
    if low < -limit or high > limit:
        raise invalid("codes", f"a tensor with values in [{low}, {high}]", f"[-{limit}, {limit}] at {bits} bits")


def _rows(codes: Tensor) -> Tensor:
    return codes.permute(0, 2, 3, 1).reshape(codes.shape[0], -1)


def _to_bytes(bits: Tensor) -> Tensor:
    """Join bits (uint8 0/1) of the last axis, whose length is a multiple of 8, into little-endian bytes."""
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    return (bits.reshape(*bits.shape[:-1], -1, 8) * weights).sum(-1, dtype=torch.uint8)


def _to_bits(data: Tensor) -> Tensor:
    """Inverse of `_to_bytes`."""
    return ((data.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(-2)


def _plane_bits(rows: Tensor, bits: int) -> Tensor:
    """Planes (bits, O, K) of 0/1: the sign at one bit, else two's complement."""
    if bits == 1:
        return (rows < 0).to(torch.uint8).unsqueeze(0)
    unsigned = rows.view(torch.uint8)
    return torch.stack([(unsigned >> b) & 1 for b in range(bits)])


def _join_planes(planes: Tensor) -> Tensor:
    """Inverse of `_plane_bits`."""
    bits = planes.shape[0]
    if bits == 1:
        return torch.ones_like(planes[0], dtype=torch.int8) - 2 * planes[0].to(torch.int8)
    codes = planes[-1].to(torch.int16) * -(1 << (bits - 1))
    for b in range(bits - 1):
        codes += planes[b].to(torch.int16) << b
    return codes.to(torch.int8)


def _codes(rows: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    out, channels, height, width = shape
    return rows.reshape(out, height, width, channels).permute(0, 3, 1, 2).contiguous()


def pack_weight(codes: Tensor, bits: int, groups: int = 1) -> PackedWeight:
    """Prepack int8 codes (O, C/groups, kh, kw): {-1, +1} at one bit, |code| <= 2^(bits-1) - 1 at 2..8 bits.

    Raises `ArgumentError` for codes out of range or groups that do not divide O.
    """
    _check_codes(codes, bits)
    out, channels, height, width = codes.shape
    _check_shape((out, channels, height, width), groups)
    planes = _plane_bits(_rows(codes.cpu()), bits)
    step = 32 if bits == 1 else 4
    planes = F.pad(planes, (0, -planes.shape[2] % step, 0, -out % LANES))
    planes = planes.reshape(bits, -1, LANES, planes.shape[2] // step, step)
    # (plane, panel, lane, word, bit) -> (panel, word, plane, lane, bit); one bit has one plane, so both forms agree
    data = _to_bytes(planes.permute(1, 3, 0, 2, 4).reshape(-1, 64)).flatten().contiguous()
    return PackedWeight(data, bits, (out, channels, height, width), groups)


def unpack_rows(data: Tensor, bits: int, shape: tuple[int, int, int, int]) -> Tensor:
    """Unpack prepacked data into int8 codes (O, C/groups, kh, kw), without checks."""
    out, taps, step = shape[0], prod(shape[1:]), 32 if bits == 1 else 4
    planes = _to_bits(data).reshape(-(-out // LANES), -(-taps // step), bits, LANES, step)
    planes = planes.permute(2, 0, 3, 1, 4).reshape(bits, -(-out // LANES) * LANES, -1)
    return _codes(_join_planes(planes[:, :out, :taps]), shape)


def unpack_weight(weight: PackedWeight) -> Tensor:
    """int8 codes (O, C/groups, kh, kw): the exact inverse of `pack_weight`."""
    return unpack_rows(weight.data.cpu(), weight.bits, weight.shape)


def weight_planes(codes: Tensor, bits: int) -> Tensor:
    """Canonical planes of int8 codes (O, C/groups, kh, kw): uint8 (bits, O, ceil(K / 8)), unused bits zero.

    Raises `ArgumentError` for codes out of range.
    """
    _check_codes(codes, bits)
    planes = _plane_bits(_rows(codes.cpu()), bits)
    return _to_bytes(F.pad(planes, (0, -planes.shape[2] % 8)))


def from_planes(planes: Tensor, bits: int, shape: tuple[int, int, int, int]) -> Tensor:
    """int8 codes (O, C/groups, kh, kw) of canonical planes: the exact inverse of `weight_planes`.

    Raises `ArgumentError` for a wrong shape or type, unused bits that are not zero, or codes out of range.
    """
    check_int("bits", bits, 1, 8)
    _check_shape(shape, 1)
    taps = prod(shape[1:])
    expected = (bits, shape[0], -(-taps // 8))
    if not isinstance(planes, Tensor) or planes.dtype != torch.uint8 or tuple(planes.shape) != expected:
        raise invalid("planes", shown(planes), f"uint8 of shape {expected}")
    unpacked = _to_bits(planes.cpu())
    if bool(unpacked[..., taps:].any()):
        raise invalid("planes", "a tensor with bits set behind the last weight", "zero bits there")
    codes = _codes(_join_planes(unpacked[..., :taps]), shape)
    _check_codes(codes, bits)
    return codes
