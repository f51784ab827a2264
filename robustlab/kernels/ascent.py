"""APGD's step in the l_inf ball, in one pass over what each image carries along.

The step is that of Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, algorithm 1; `robustlab.attacks.gradient` has it as torch operations, for every
device, type and norm.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustlab.core.errors import invalid
from robustlab.kernels import dispatch
from robustlab.kernels.ops import native_kernels
from robustlab.kernels.spec import shown


@dataclass(frozen=True)
class Points:
    """What N images carry along; float32 (N, ...), contiguous, and changed in place.

    Attributes:
        x: the iterate.
        old: the one before.
        best: the iterate with the largest loss.
        best_gradient: its gradient.
        origin: the centre of the ball; not changed.
    """

    x: Tensor
    old: Tensor
    best: Tensor
    best_gradient: Tensor
    origin: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in order."""
        return tuple(getattr(self, field.name) for field in fields(self))


def can_ascend(x: Tensor) -> bool:
    """Whether `ascent_step` takes images such as `x` here."""
    return x.is_cpu and x.dtype == torch.float32 and native_kernels() is not None


def ascent_step(
    points: Points,
    rows: Tensor,
    gradient: Tensor,
    *,
    better: Tensor,
    back: Tensor,
    first: Tensor,
    length: Tensor,
    eps: float,
    momentum: float,
) -> None:
    """Move the images `rows` (m,) of `points`, none of them twice, along the sign of `gradient` (m, ...).

    Where `better`, the iterate and its gradient are kept as the best ones before. Where `back`, the step starts from
    the best iterate and follows its gradient. It has the length `length` in every value, ends in the ball of radius
    `eps` and in [0, 1], and is then drawn by 1 - `momentum` towards where the last step led, unless it is the `first`.

    rows: int64; better, back, first: bool; length: float32; all (m,). Raises `ArgumentError` for other types and
    shapes, and where there are no compiled kernels.
    """
    native = native_kernels()
    if native is None:
        raise invalid("kernels", dispatch.backend(), "a compiled backend")
    for name, tensor in zip(("x", "old", "best", "best_gradient", "origin"), points.tensors(), strict=True):
        _check(name, tensor, points.x.shape, torch.float32)
        if not tensor.is_contiguous():
            raise invalid(name, shown(tensor), "a contiguous tensor")
    _check("rows", rows, rows.shape[:1], torch.int64)
    _check("gradient", gradient, (*rows.shape, *points.x.shape[1:]), torch.float32)
    for name, tensor in (("better", better), ("back", back), ("first", first)):
        _check(name, tensor, rows.shape, torch.bool)
    _check("length", length, rows.shape, torch.float32)
    given = [tensor.contiguous() for tensor in (gradient, rows, better, back, first, length)]
    spans = [(tensor.data_ptr(), tensor.numel()) for tensor in (*points.tensors(), *given)]
    native.ascent_step(dispatch.backend(), torch.get_num_threads(), *spans, eps, momentum)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_cpu:
        raise invalid(name, shown(tensor), f"a {dtype} tensor {tuple(shape)} on the cpu".replace("torch.", ""))
