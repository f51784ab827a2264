"""What Square tries next in the l_inf ball, in one pass.

The proposal is that of Andriushchenko et al., "Square Attack", ECCV 2020; `robustlab.attacks.black_box` has it as torch
operations, for every device and type, with the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.core.errors import check_int, invalid
from robustlab.kernels import dispatch
from robustlab.kernels.ops import native_kernels
from robustlab.kernels.spec import shown

NUMBERS = 4
"""Random numbers in [0, 2^62) that a square takes: its line, its column, its colours, and those it takes instead."""


def can_paint(best: Tensor) -> bool:
    """Whether `paint_squares` takes images such as `best` here."""
    return best.is_cpu and best.dtype == torch.float32 and native_kernels() is not None


def paint_squares(best: Tensor, low: Tensor, high: Tensor, rows: Tensor, numbers: Tensor, side: int) -> Tensor:
    """Copies (m, C, H, W) of the images `rows` (m,) of `best` (N, C, H, W), none twice, with one square repainted.

    Every channel of a square of `side` by `side` pixels takes the values of `low` or of `high`, both as `best`; where
    that changes nothing, other colours are taken. rows: int64; numbers: int64 (m, `NUMBERS`); side: in [1, min(H, W)];
    images are float32.

    Raises `ArgumentError` for other types, shapes and sides, and where there are no compiled kernels.
    """
    native = native_kernels()
    if native is None:
        raise invalid("kernels", dispatch.backend(), "a compiled backend")
    if best.ndim != 4:
        raise invalid("best", shown(best), "a float32 tensor (N, C, H, W) on the cpu")
    check_int("side", side, 1, min(best.shape[2:]))
    count = rows.shape[:1]
    for name, tensor, shape, dtype in (
        ("best", best, best.shape, torch.float32),
        ("low", low, best.shape, torch.float32),
        ("high", high, best.shape, torch.float32),
        ("rows", rows, count, torch.int64),
        ("numbers", numbers, (*count, NUMBERS), torch.int64),
    ):
        if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_cpu:
            raise invalid(name, shown(tensor), f"a {dtype} tensor {tuple(shape)} on the cpu".replace("torch.", ""))
    given = [tensor.contiguous() for tensor in (best, low, high, rows, numbers)]
    out = best.new_empty(*count, *best.shape[1:])
    spans = [(tensor.data_ptr(), tensor.numel()) for tensor in (*given, out)]
    native.paint_squares(torch.get_num_threads(), *spans, tuple(best.shape[1:]), side)
    return out
