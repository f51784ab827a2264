"""The rules: what a kind of call is fused as. Each takes the call's arguments by name; each may raise `Declined`."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isnan
from typing import Any

import torch
from torch import Tensor, fx

from robustlab.deploy.graph.operations import Concat, Operation, Pointwise, Pool, Subsample, Sum
from robustlab.deploy.graph.view import Declined, View, float32, node_of, pair
from robustlab.kernels.program import Add, AddAll, Clamp, Div, DivAll, Mul, MulAll, Prelu, Relu, Step, Sub

Arguments = dict[str, Any]
Rule = Callable[[View, fx.Node, Arguments], Operation]


def relu(view: View, node: fx.Node, a: Arguments) -> Operation:
    """max(x, 0)."""
    return Pointwise(node_of(a["x"]), (Relu(),))


def clamp_step(low: Any, high: Any) -> Clamp:
    """A clamp whose bounds are numbers or None."""
    bounds = [inf * sign if bound is None else bound for bound, sign in ((low, -1), (high, 1))]
    if not all(isinstance(bound, (int, float)) and not isnan(bound) for bound in bounds) or bounds[0] > bounds[1]:
        raise Declined("its bounds are no numbers, or in the wrong order")
    return Clamp(float32(bounds[0]), float32(bounds[1]))


def clamp(view: View, node: fx.Node, a: Arguments) -> Operation:
    """min(max(x, low), high)."""
    return Pointwise(node_of(a["x"]), (clamp_step(a.get("low"), a.get("high")),))


def relu6(view: View, node: fx.Node, a: Arguments) -> Operation:
    """A clamp to [0, 6]."""
    return Pointwise(node_of(a["x"]), (clamp_step(0.0, 6.0),))


def hardtanh(view: View, node: fx.Node, a: Arguments) -> Operation:
    """A clamp to [-1, 1] unless it says otherwise."""
    return Pointwise(node_of(a["x"]), (clamp_step(a.get("low", -1.0), a.get("high", 1.0)),))


def leaky_relu(view: View, node: fx.Node, a: Arguments) -> Operation:
    """A PReLU with one slope."""
    x = node_of(a["x"])
    slope = a.get("slope", 0.01)
    if not isinstance(slope, (int, float)):
        raise Declined("its slope is computed")
    return Pointwise(x, (Prelu(torch.full((view.channels(x),), float(slope))),))


def prelu(view: View, node: fx.Node, a: Arguments) -> Operation:
    """A PReLU whose slopes are a parameter."""
    x = node_of(a["x"])
    slopes = view.constant(a.get("weight"))
    if slopes is None or slopes.ndim != 1:
        raise Declined("its slopes are computed")
    return Pointwise(x, (Prelu(slope_vector(slopes, view.channels(x))),))


def slope_vector(slopes: Tensor, channels: int) -> Tensor:
    """Slopes (1,) or (C,) of a PReLU as (C,)."""
    slopes = slopes.detach()
    return slopes.expand(channels).contiguous() if len(slopes) == 1 else slopes.contiguous()


def dropout(view: View, node: fx.Node, a: Arguments) -> Operation:
    """Nothing in evaluation mode."""
    if a.get("training", True) is not False:
        raise Declined("a dropout in training mode")
    return Pointwise(node_of(a["x"]), ())


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def same_numbers(view: View, node: fx.Node, a: Arguments) -> Operation:
    """What reshapes or averages, where that leaves every number as it is: one pixel to rows, or no change at all."""
    x = node_of(a["x"])
    if _without_ones(view.shape(x)) != _without_ones(view.shape(node)):
        averages = "mean" in str(node.target) or "pool" in str(node.target)
        raise Declined("an average in torch's own order of additions" if averages else "it changes the shape")
    return Pointwise(x, ())


def add(view: View, node: fx.Node, a: Arguments) -> Operation:
    """x + y: of two values, or of one and a constant."""
    if a.get("alpha", 1) != 1:
        raise Declined("it scales an operand")
    left, right = a["x"], a["y"]
    nodes = [value for value in (left, right) if isinstance(value, fx.Node) and value.op != "get_attr"]
    if len(nodes) == 2 and view.shape(nodes[0]) == view.shape(nodes[1]):
        return Sum(nodes[0], nodes[1])
    return _with_constant(view, *_computed_first(left, right), Add, AddAll)


def mul(view: View, node: fx.Node, a: Arguments) -> Operation:
    """x * constant."""
    return _with_constant(view, *_computed_first(a["x"], a["y"]), Mul, MulAll)


def sub(view: View, node: fx.Node, a: Arguments) -> Operation:
    """x - constant."""
    if a.get("alpha", 1) != 1:
        raise Declined("it scales an operand")
    return _with_constant(view, a["x"], a["y"], Sub, lambda number: AddAll(-number))


def div(view: View, node: fx.Node, a: Arguments) -> Operation:
    """x / constant."""
    if a.get("rounding_mode") is not None:
        raise Declined("it rounds its result")
    return _with_constant(view, a["x"], a["y"], Div, DivAll)


def _computed_first(left: Any, right: Any) -> tuple[Any, Any]:
    constant = not isinstance(left, fx.Node) or left.op == "get_attr"
    return (right, left) if constant else (left, right)


def _with_constant(
    view: View, left: Any, right: Any, per_channel: Callable[[Tensor], Step], for_all: Callable[[float], Step]
) -> Operation:
    x = node_of(left)
    if isinstance(right, (int, float)) and not isinstance(right, bool):
        return Pointwise(x, (for_all(float32(right)),))
    constant = view.constant(right)
    if constant is None:
        raise Declined("its operands have different shapes")
    return Pointwise(x, (per_channel(view.per_channel(constant, x)),))


def max_pool(view: View, node: fx.Node, a: Arguments) -> Operation:
    """The largest value of each window."""
    if a.get("return_indices") or pair(a.get("dilation", 1)) != (1, 1):
        raise Declined("it returns indices or is dilated")
    return _pool(view, node, a, "max", ())


def average_pool(view: View, node: fx.Node, a: Arguments) -> Operation:
    """The sum of each window in row-major order, divided once, which is what torch does."""
    height, width = pair(a["kernel"])
    if pair(a.get("padding", 0)) != (0, 0) or a.get("divisor") is not None:
        raise Declined("an average over padding or with another divisor")
    return _pool(view, node, a, "sum", (DivAll(float(height * width)),))


def _pool(view: View, node: fx.Node, a: Arguments, kind: str, steps: tuple[Step, ...]) -> Operation:
    x, kernel, padding = node_of(a["x"]), pair(a["kernel"]), pair(a.get("padding", 0))
    stride = a.get("stride")
    strides = kernel if stride is None or stride == [] else pair(stride)
    before, after = view.shape(x), view.shape(node)
    if len(before) != 4:
        raise Declined("its operand is no image")
    for axis in (0, 1):
        whole = (before[2 + axis] + 2 * padding[axis] - kernel[axis]) // strides[axis] + 1
        if after[2 + axis] != whole:
            raise Declined("its last window is not whole")
    return Pool(x, kind, kernel, strides, padding, steps)


def concat(view: View, node: fx.Node, a: Arguments) -> Operation:
    """Channels one after the other."""
    parts, axis = a["x"], a.get("dim", 0)
    if not isinstance(parts, (list, tuple)) or not parts:
        raise Declined("its operands are computed")
    nodes = tuple(node_of(part) for part in parts)
    if any(part.op == "get_attr" for part in nodes) or axis not in (1, 1 - len(view.shape(node))):
        raise Declined("it joins other axes than channels")
    return Concat(nodes)


def pad(view: View, node: fx.Node, a: Arguments) -> Operation:
    """Zero channels around an image of which every s-th pixel may have been taken, as ``x[:, :, ::s, ::s]``."""
    amounts = a["pad"]
    numbers = isinstance(amounts, (list, tuple)) and len(amounts) == 6 and all(type(n) is int for n in amounts)
    if not numbers or any(amounts[:4]) or min(amounts) < 0 or a.get("mode", "constant") != "constant" or a.get("value"):
        raise Declined("a padding of other axes than channels, or not with zeros")
    x = node_of(a["x"])
    stride = 1
    if x.op == "call_function" and getattr(x.target, "__name__", "") == "getitem":
        stride = _stride(x)
        x = node_of(x.args[0])
    if len(view.shape(x)) != 4:
        raise Declined("its operand is no image")
    return Subsample(x, stride, amounts[4], amounts[5])


def _stride(node: fx.Node) -> int:
    """s of ``x[:, :, ::s, ::s]``. Raises `Declined` for any other index."""
    index = node.args[1]
    if isinstance(index, tuple) and len(index) == 4 and all(type(part) is slice for part in index):
        steps = [part.step or 1 for part in index]  # type: ignore[union-attr]
        whole = all(part.start in (None, 0) and part.stop is None for part in index)  # type: ignore[union-attr]
        if whole and steps[:2] == [1, 1] and steps[2] == steps[3] and type(steps[2]) is int:
            return steps[2]
    raise Declined("it pads what another index took")
