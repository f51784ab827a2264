"""FAB's step towards a linearised decision boundary, in one pass over rows that stay in the cache.

The step is that of Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML
2020; `robustlab.attacks.minimum_norm` has it as torch operations, for every device, type and norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.core.errors import invalid
from robustlab.kernels import dispatch
from robustlab.kernels.ops import native_kernels
from robustlab.kernels.spec import shown

BOUNDARY_NORMS = ("linf", "l2")
"""The norms that `boundary_step` knows."""


def can_step(norm_name: str, x: Tensor) -> bool:
    """Whether `boundary_step` takes rows such as `x` (n, D) in this norm here."""
    return norm_name in BOUNDARY_NORMS and x.is_cpu and x.dtype == torch.float32 and native_kernels() is not None


def boundary_step(
    norm_name: str, x: Tensor, origin: Tensor, normal: Tensor, gap: Tensor, *, alpha_max: float, eta: float
) -> Tensor:
    """The iterates (n, D) after `x` (n, D) in [0, 1], whose linearised boundary is where <normal, d> = -gap (n,).

    They lie between `eta` times the shortest steps onto the boundary from `x` and from `origin` (n, D), the latter with
    a weight of at most `alpha_max`, and in [0, 1]. All tensors are float32 on the CPU. Sums are taken in one order on
    every processor and for any number of threads. Raises `ArgumentError` for another norm, shape or type, and where
    there are no compiled kernels.
    """
    native = native_kernels()
    if native is None or norm_name not in BOUNDARY_NORMS:
        raise invalid("norm_name", norm_name, f"one of {', '.join(BOUNDARY_NORMS)}, with compiled kernels")
    if x.ndim != 2:
        raise invalid("x", shown(x), "a float32 tensor (n, D) on the cpu")
    for name, tensor, shape in (
        ("x", x, x.shape),
        ("origin", origin, x.shape),
        ("normal", normal, x.shape),
        ("gap", gap, x.shape[:1]),
    ):
        if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_cpu:
            raise invalid(name, shown(tensor), f"a float32 tensor {tuple(shape)} on the cpu")
    rows = [tensor.contiguous() for tensor in (x, origin, normal, gap)]
    out = torch.empty(x.shape)
    spans = [(tensor.data_ptr(), tensor.numel()) for tensor in (*rows, out)]
    native.boundary_step(dispatch.backend(), torch.get_num_threads(), *spans, norm_name == "l2", alpha_max, eta)
    return out
