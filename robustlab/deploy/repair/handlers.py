"""How the functions of torch are repaired, by their names.

A handler gets the name, the function and its arguments, and returns the result, or NotImplemented to leave it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from robustlab.deploy.repair import straight
from robustlab.deploy.repair.quantized import dequantize, quantize

if TYPE_CHECKING:
    from robustlab.deploy.repair.interception import Repair

Handler = Callable[["Repair", str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_STAIRS = ("round", "floor", "ceil", "trunc", "fix")
_SIGNS = ("sign", "sgn")
_CLAMPS = ("clamp", "clip", "hardtanh", "relu6")
_WAVES = ("sin", "cos")
_SQUASHES = ("tanh", "sigmoid")
_COMPARISONS = {"gt": 1, "greater": 1, "ge": 1, "greater_equal": 1, "__gt__": 1, "__ge__": 1,
                "lt": -1, "less": -1, "le": -1, "less_equal": -1, "__lt__": -1, "__le__": -1}  # fmt: skip
_CASTS = ("float", "double", "half", "bfloat16", "to", "type", "type_as", "_to_copy",
          "int", "long", "short", "char", "byte")  # fmt: skip
_PRODUCTS = ("mul", "multiply", "__mul__", "__rmul__")
_QUANTIZERS = ("quantize_per_tensor", "quantize_per_channel", "quantize_per_token", "quantize_per_channel_group",
               "quantize_per_tensor_dynamic", "quantize_affine")  # fmt: skip
_DEQUANTIZERS = ("dequantize", "dequantize_per_tensor", "dequantize_per_channel", "dequantize_per_token",
                 "dequantize_per_channel_group", "dequantize_affine")  # fmt: skip
_FAKE_QUANTIZERS = ("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine",
                    "fused_moving_avg_obs_fake_quant", "_fake_quantize_learnable_per_tensor_affine",
                    "_fake_quantize_learnable_per_channel_affine")  # fmt: skip
_LAYERS = ("conv2d", "linear", "batch_norm", "conv1d")
_SATURATED = 0.99
_FLAT = 8.0


def _differentiable(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.requires_grad


def _in_place(func: Any) -> bool:
    called = str(getattr(func, "__name__", "")).partition(".")[0]
    return called.endswith("_") and not called.endswith("__")


def _plain(func: Any, x: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The exact value, without a graph; a function in place works on a copy."""
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    with torch.no_grad():
        return cast(Tensor, func(x.detach().clone() if _in_place(func) else x.detach(), *rest, **kwargs))


def _elementwise(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args or not _differentiable(args[0]):
        return NotImplemented
    x, rest = args[0], args[1:]
    value = _plain(func, x, rest, kwargs)
    before = x.clone() if _in_place(func) else x  # what a function in place overwrites
    made = _repaired(self, name, func, before, value, rest, kwargs)
    if made is None:
        return func(*args, **kwargs)
    self.seen.add(name)
    return x.copy_(made) if _in_place(func) else made


def _repaired(
    self: Repair, name: str, func: Any, x: Tensor, value: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    if name in _STAIRS:
        if not self.smooth:
            return straight.straight(x, value)
        return x + {"floor": -0.5, "ceil": 0.5}.get(name, 0.0)
    if name in _SIGNS:
        return torch.tanh(2 * x / straight.spread(x)) if self.smooth else straight.signed(x, value)
    if name in _CLAMPS:
        if bool((value == x).all()) or bool((value >= 0).all() & (value == x.detach().clamp(min=0)).all()):
            return None  # Nothing is clamped, or it is a ReLU, whose zeros are honest.
        return straight.clamped(x, x if self.smooth else value)
    if name in _WAVES:
        fast = float(straight.spread(x)) > _FLAT
        return straight.coarse(x, value, func) if fast else None
    flat = float((x.detach().abs() > _FLAT).float().mean()) > 0.5
    if not flat:
        return None
    if self.smooth:
        return cast(Tensor, func(2 * x / straight.spread(x)))
    return straight.coarse(x, value, func)


def _softmax(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    exact = func(*args, **kwargs)
    x = args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not _differentiable(x) or not isinstance(dim, int) or not isinstance(exact, Tensor):
        return exact
    if float((exact.detach().amax(dim) > _SATURATED).float().mean()) < 0.1:
        return exact
    self.seen.add(name)
    if self.smooth and dim in (1, -1) and x.ndim == 2:
        return x - x.detach().amax(dim, keepdim=True)  # In the same order as the probabilities.
    return straight.warm_softmax(x, exact, dim)


def _compare(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) != 2 or not (_differentiable(args[0]) or _differentiable(args[1])):
        return NotImplemented
    mask = func(*args, **kwargs)
    self.track(mask, _COMPARISONS[name] * (args[0] - args[1]))
    return mask


def _cast(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*args, **kwargs)
    x = args[0]
    if not isinstance(result, Tensor) or result is x:
        return result
    difference = self.tracked(x)
    if difference is not None:
        if result.dtype == torch.bool:
            self.track(result, difference)
            return result
        return self.step(difference, result.dtype, x) if result.is_floating_point() else result
    floats = x if _differentiable(x) else self.codes(x)
    if floats is None or result.dtype == torch.bool or result.is_complex():
        return result
    if result.is_floating_point():
        return result if floats is x else straight.straight(floats.to(result.dtype), result)
    if floats is x:
        self.seen.add("cast")
    self.carry(result, straight.straight(floats, result.to(floats.dtype)))
    return result


def _product(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    differences = [self.tracked(a) for a in args]
    if len(args) != 2 or all(d is None for d in differences):
        return NotImplemented
    other = next((a for a, d in zip(args, differences, strict=True) if d is None), None)
    dtype = other.dtype if isinstance(other, Tensor) and other.is_floating_point() else torch.get_default_dtype()
    numbers = [a if d is None else self.step(d, dtype, a) for a, d in zip(args, differences, strict=True)]
    return torch.mul(*numbers)


def _where(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) != 3:
        return NotImplemented
    mask, chosen, other = args if name == "where" else (args[1], args[2], args[0])
    difference = self.tracked(mask)
    if difference is None:
        return NotImplemented
    result = func(*args, **kwargs)
    if not isinstance(result, Tensor) or not result.is_floating_point():
        return result
    switched = self.step(difference, result.dtype, mask)
    gap = torch.as_tensor(chosen - other).detach().nan_to_num()
    # The term is 0: it only brings the gradient of the switch.
    return result + (switched - switched.detach()) * gap.to(result.dtype)


def _fake_quantizer(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args and _differentiable(args[0]):
        self.seen.add("fake_quantize")  # torch's own backward is a straight-through estimator already
    return NotImplemented


def _weighted(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A layer with weights of a tensor type of their own, which may quantize its input and have no backward."""
    weight = args[1] if len(args) > 1 else kwargs.get("weight")
    x = args[0] if args else kwargs.get("input")
    if not _differentiable(x) or not _packed(weight):
        return NotImplemented
    with torch.no_grad():
        exact = func(*args, **kwargs)
    plain = cast(Any, weight).dequantize().to(cast(Tensor, x).dtype)
    args = (*args[:1], plain, *args[2:]) if len(args) > 1 else args
    kwargs = kwargs if len(args) > 1 else {**kwargs, "weight": plain}
    self.seen.add("quantized weight")
    return straight.straight(func(*args, **kwargs), exact)


def _packed(weight: object) -> bool:
    if not isinstance(weight, Tensor) or type(weight) in (Tensor, nn.Parameter, nn.Buffer):
        return False
    return type(weight).dequantize is not Tensor.dequantize


def _layer(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x = args[0] if args else kwargs.get("input")
    if isinstance(x, Tensor) and x.is_floating_point() and not x.requires_grad:
        joined = self.bridge(x)
        args, kwargs = ((joined, *args[1:]), kwargs) if args else ((), {**kwargs, "input": joined})
    result = _weighted(self, name, func, args, kwargs)
    if result is NotImplemented:
        result = func(*args, **kwargs)
    if _differentiable(result):
        self.passed(result)
    return result


def _table(*groups: tuple[tuple[str, ...], Handler]) -> dict[str, Handler]:
    return {name: handler for names, handler in groups for name in names}


ROUNDING = _table(
    ((*_STAIRS, *_SIGNS), _elementwise),
    (_CASTS, _cast),
    (_QUANTIZERS, quantize),
    (_DEQUANTIZERS, dequantize),
    (_FAKE_QUANTIZERS, _fake_quantizer),
    (_LAYERS, _weighted),
)
STEPS = _table((tuple(_COMPARISONS), _compare), (_PRODUCTS, _product), (("where", "masked_fill"), _where))
ALL = _table(
    ((*_CLAMPS, *_WAVES, *_SQUASHES), _elementwise),
    (("softmax",), _softmax),
    (_LAYERS, _layer),
)
