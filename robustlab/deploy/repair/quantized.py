"""Whole numbers and quantized tensors between the operations that make them and those that turn them into floats again.

They have no gradient in torch. Beside each of them a float tensor is kept that has: of the same value beside the codes
that a cast made, and of what they stand for beside a quantized tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustlab.deploy.repair import straight

if TYPE_CHECKING:
    from robustlab.deploy.repair.interception import Repair

_FAILURES = (RuntimeError, TypeError, ValueError, LookupError, NotImplementedError, AttributeError)
_SHAPING = frozenset(
    {"reshape", "view", "flatten", "permute", "transpose", "contiguous", "clone", "expand", "squeeze", "unsqueeze",
     "max_pool2d", "t", "movedim", "__getitem__"}
)  # fmt: skip


def _differentiable(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.requires_grad


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", "")).partition(".")[0]


def quantize(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A quantizer's exact result; the float beside it has derivative 1 inside the range and 0 where it clamps."""
    if not args or not _differentiable(args[0]):
        return NotImplemented
    x: Tensor = args[0]
    with torch.no_grad():
        result = func(x.detach(), *args[1:], **kwargs)
    if isinstance(result, Tensor):
        self.seen.add("quantize")
        inside = _inside(name, x.detach(), result, args, kwargs)
        self.keep(result, x if inside is None else straight.replaced(x, x, inside.to(x.dtype)))
    return result


def _inside(name: str, x: Tensor, result: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """bool, the shape of x: where no code is clamped; None where that is unknown, as with dynamic ranges."""
    if name not in ("quantize_per_tensor", "quantize_per_channel") or len(args) < 3:
        return None
    scale, zero = (torch.as_tensor(a).to(torch.float32) for a in args[1:3])
    if name == "quantize_per_channel":
        axis = args[3] if len(args) > 3 else kwargs.get("axis")
        if not isinstance(axis, int):
            return None
        shape = [1] * x.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    elif scale.numel() != 1:
        return None
    low, high = _range(name, result, args, kwargs)
    position = x.float() / scale + zero
    return (position >= low - 0.5) & (position <= high + 0.5)


def _range(name: str, result: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, float]:
    """The lowest and the highest code."""
    whole = result.int_repr() if result.is_quantized else result
    limits = torch.iinfo(whole.dtype)
    at = 3 if name == "quantize_per_tensor" else 4
    low = args[at] if len(args) > at else kwargs.get("quant_min")
    high = args[at + 1] if len(args) > at + 1 else kwargs.get("quant_max")
    known = all(isinstance(v, int) and not isinstance(v, bool) for v in (low, high))
    return (float(low), float(high)) if known else (float(limits.min), float(limits.max))  # type: ignore[arg-type]


def dequantize(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a quantized tensor stands for, joined to what it was made of."""
    values = self.values(args[0]) if args else None
    if values is None:
        return NotImplemented
    with torch.no_grad():
        exact = func(*args, **kwargs)
    return straight.straight(values.to(exact.dtype), exact)


def carried(self: Repair, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Any other function: where it takes codes, it is run on the floats beside them as well."""
    if not any(isinstance(a, Tensor) and (self.codes(a) is not None or self.values(a) is not None) for a in args):
        return func(*args, **kwargs)
    in_place = _name(func).endswith("_") and not _name(func).endswith("__")
    floats = [self.codes(a) for a in args]
    values = self.values(args[0])
    if in_place:
        floats = [None if f is None else f.clone() for f in floats]
    result = func(*args, **kwargs)
    if not isinstance(result, Tensor) or result.dtype == torch.bool:
        return result
    if values is not None and _name(func) in _SHAPING:
        self.keep(result, func(values, *args[1:], **kwargs))
        return result
    if all(f is None for f in floats):
        return result
    try:
        beside = func(*(a if f is None else f for a, f in zip(args, floats, strict=True)), **kwargs)
    except _FAILURES:
        return result
    if not isinstance(beside, Tensor) or beside.shape != result.shape or not beside.requires_grad:
        return result
    if result.is_floating_point():
        return straight.straight(beside.to(result.dtype), result)
    self.carry(result, straight.straight(beside, result.to(beside.dtype)))
    return result
