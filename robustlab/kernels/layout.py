"""Weights at their real bit-width: the canonical planes of a file.

Canonical: uint8 (bits, O, ceil(K / 8)), the K = kh * kw * C/groups weights of an output channel in (kh, kw, C/groups)
order, little-endian bits. One bit: 1 means -1. More bits: two's complement planes. What the kernels read is another
order of the same bits, made when a model is loaded: see `robustlab.kernels.prepack`.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.core.errors import check_int, invalid
from robustlab.kernels.spec import shown, weight_limits

Shape = tuple[int, int, int, int]


def check_shape(shape: tuple[int, ...], groups: int) -> None:
    """Raise `ArgumentError` unless `shape` is (O, C/groups, kh, kw) and groups divide O."""
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise invalid("shape", shape, "(O, C/groups, kh, kw)")
    for size in shape:
        check_int("shape", size, 1)
    check_int("groups", groups, 1)
    if shape[0] % groups:
        raise invalid("groups", groups, f"a divisor of the {shape[0]} output channels")


def check_codes(codes: Tensor, bits: int, zero_point: float = 0.0) -> None:
    """Raise `ArgumentError` unless `codes` is a non-empty int8 (O, C/groups, kh, kw) within `weight_limits`."""
    check_int("bits", bits, 1, 8)
    if not isinstance(codes, Tensor) or codes.dtype != torch.int8 or codes.ndim != 4 or codes.numel() == 0:
        raise invalid("codes", shown(codes), "a non-empty int8 tensor (O, C/groups, kh, kw)")
    if bits == 1:
        if not bool((codes.abs() == 1).all()):
            raise invalid("codes", "a tensor with other values", "-1 and +1 at 1 bit")
        return
    low, high = weight_limits(bits, zero_point)
    found = [int(v) for v in torch.aminmax(codes)]
    if found[0] < low or found[1] > high:
        raise invalid("codes", f"a tensor with values in {found}", f"[{low}, {high}] at {bits} bits")


def to_bytes(bits: Tensor) -> Tensor:
    """Join bits (uint8 0/1) of the last axis, whose length is a multiple of 8, into little-endian bytes."""
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    return (bits.reshape(*bits.shape[:-1], -1, 8) * weights).sum(-1, dtype=torch.uint8)


def to_bits(data: Tensor) -> Tensor:
    """Inverse of `to_bytes`."""
    return ((data.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(-2)


def plane_bits(codes: Tensor, bits: int) -> Tensor:
    """Planes (bits, *shape) of 0/1 of int8 codes: the sign at one bit, else two's complement."""
    if bits == 1:
        return (codes < 0).to(torch.uint8).unsqueeze(0)
    unsigned = codes.contiguous().view(torch.uint8)
    return torch.stack([(unsigned >> b) & 1 for b in range(bits)])


def join_planes(planes: Tensor) -> Tensor:
    """Inverse of `plane_bits`."""
    bits = planes.shape[0]
    if bits == 1:
        return torch.ones_like(planes[0], dtype=torch.int8) - 2 * planes[0].to(torch.int8)
    codes = planes[-1].to(torch.int16) * -(1 << (bits - 1))
    for b in range(bits - 1):
        codes += planes[b].to(torch.int16) << b
    return codes.to(torch.int8)


def weight_planes(codes: Tensor, bits: int, zero_point: float = 0.0) -> Tensor:
    """Canonical planes of int8 codes (O, C/groups, kh, kw): uint8 (bits, O, ceil(K / 8)), unused bits zero.

    Raises `ArgumentError` for codes out of range.
    """
    check_codes(codes, bits, zero_point)
    rows = codes.cpu().permute(0, 2, 3, 1).reshape(codes.shape[0], -1)
    planes = plane_bits(rows, bits)
    return to_bytes(F.pad(planes, (0, -planes.shape[2] % 8)))


def from_planes(planes: Tensor, bits: int, shape: Shape, zero_point: float = 0.0) -> Tensor:
    """int8 codes (O, C/groups, kh, kw) of canonical planes: the exact inverse of `weight_planes`.

    Raises `ArgumentError` for a wrong shape or type, unused bits that are not zero, or codes out of range.
    """
    check_int("bits", bits, 1, 8)
    check_shape(shape, 1)
    out, channels, height, width = shape
    taps = prod(shape[1:])
    expected = (bits, out, -(-taps // 8))
    if not isinstance(planes, Tensor) or planes.dtype != torch.uint8 or tuple(planes.shape) != expected:
        raise invalid("planes", shown(planes), f"uint8 of shape {expected}")
    unpacked = to_bits(planes.cpu())
    if bool(unpacked[..., taps:].any()):
        raise invalid("planes", "a tensor with bits set behind the last weight", "zero bits there")
    codes = join_planes(unpacked[..., :taps]).reshape(out, height, width, channels).permute(0, 3, 1, 2).contiguous()
    check_codes(codes, bits, zero_point)
    return codes
