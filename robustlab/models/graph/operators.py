"""Operators of a graph, by their ONNX names and with their meaning there, as differentiable torch functions.

Each takes its inputs (None for one that is left out) and its attributes, and returns its output or outputs. Rounding
is differentiated straight through (Bengio et al. 2013).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.models.graph.inputs import Attributes, Inputs, Operator, needed, optional
from robustlab.models.graph.shapes import SHAPES
from robustlab.models.graph.windows import WINDOWS


class RoundStraightThrough(torch.autograd.Function):
    """Round half to even; the derivative of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Round."""
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Straight through."""
        return grads[0]


def round_ste(x: Tensor) -> Tensor:
    """`RoundStraightThrough`."""
    rounded: Tensor = RoundStraightThrough.apply(x)
    return rounded


class _GridFunction(torch.autograd.Function):
    """The nearest of the levels k * scale, first <= k <= last, found with a true division.

    The derivative is 1 where k before clamping is one of them, else 0. `first` and `last` are numbers, or tensors
    beside a tensor `scale`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Any, first: Any, last: Any) -> Tensor:
        """Quantize and de-quantize, in place on one copy: this runs at every activation of an attacked network."""
        ctx.save_for_backward(x)
        ctx.bounds = ((first - 0.5) * scale, (last + 0.5) * scale)
        return x.detach().clamp(first * scale, last * scale).div_(scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Straight through where the code is in its range."""
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        if isinstance(low, Tensor):
            return grads[0] * ((x > low) & (x < high)), None, None, None
        return torch.ops.aten.hardtanh_backward(grads[0], x, low, high), None, None, None


def _grid(inputs: Inputs, a: Attributes) -> Tensor:
    """Ours: quantize and de-quantize. Attributes low, high, and scale, zero_point or, as inputs, those of an `axis`."""
    x = needed(inputs, 0)
    if len(inputs) == 1:
        scale, zero_point = a["scale"], a["zero_point"]
    else:
        scale, zero_point = (_on_axis(needed(inputs, i).to(x), x.ndim, a["axis"]) for i in (1, 2))
    result: Tensor = _GridFunction.apply(x, scale, a["low"] - zero_point, a["high"] - zero_point)
    return result


def _on_axis(vector: Tensor, dims: int, axis: int) -> Tensor:
    if vector.ndim != 1:
        return vector
    shape = [1] * dims
    shape[axis] = -1
    return vector.reshape(shape)


def _clip(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    low, high = optional(inputs, 1), optional(inputs, 2)
    least = a.get("min") if low is None else low.item()
    most = a.get("max") if high is None else high.item()
    return x if least is None and most is None else x.clamp(least, most)


def _gemm(inputs: Inputs, a: Attributes) -> Tensor:
    left, right = needed(inputs, 0), needed(inputs, 1)
    left = left.transpose(0, 1) if a.get("transA") else left
    right = right.transpose(0, 1) if a.get("transB") else right
    result = float(a.get("alpha", 1.0)) * (left @ right)
    extra = optional(inputs, 2)
    return result if extra is None else result + float(a.get("beta", 1.0)) * extra


def _divide(inputs: Inputs, a: Attributes) -> Tensor:
    x, y = needed(inputs, 0), needed(inputs, 1)
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(inputs: Inputs, a: Attributes) -> Tensor:
        result = needed(inputs, 0)
        for index in range(1, len(inputs)):
            result = function(result, needed(inputs, index))
        return result

    return run


def _mean(inputs: Inputs, a: Attributes) -> Tensor:
    total = _fold(torch.add)(inputs, a)
    assert isinstance(total, Tensor)
    return total / len(inputs)


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda inputs, a: function(needed(inputs, 0))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda inputs, a: function(needed(inputs, 0), needed(inputs, 1))


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Operator:
    def run(inputs: Inputs, a: Attributes) -> Tensor:
        x, axis = needed(inputs, 0), int(a.get("axis", -1))
        if a.get("flattened"):  # before opset 13: all axes from `axis` on are one
            return function(x.flatten(axis), -1).reshape(x.shape)
        return function(x, axis)

    return run


def _batch_norm(inputs: Inputs, a: Attributes) -> Tensor:
    x, weight, bias, mean, variance = (needed(inputs, i) for i in range(5))
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, float(a.get("epsilon", 1e-5)))


def _layer_norm(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    shape = x.shape[int(a.get("axis", -1)) % x.ndim :]
    weight, bias = needed(inputs, 1).expand(shape), optional(inputs, 2)
    return F.layer_norm(x, shape, weight, None if bias is None else bias.expand(shape), float(a.get("epsilon", 1e-5)))


def _instance_norm(inputs: Inputs, a: Attributes) -> Tensor:
    x, weight, bias = (needed(inputs, i) for i in range(3))
    return F.instance_norm(x, weight=weight, bias=bias, eps=float(a.get("epsilon", 1e-5)))


def _prelu(inputs: Inputs, a: Attributes) -> Tensor:
    x, slope = needed(inputs, 0), needed(inputs, 1)
    return torch.where(x < 0, x * slope, x)


def _where(inputs: Inputs, a: Attributes) -> Tensor:
    return torch.where(needed(inputs, 0), needed(inputs, 1), needed(inputs, 2))


def _dynamic_quantize(inputs: Inputs, a: Attributes) -> tuple[Tensor, Tensor, Tensor]:
    """Codes in 0..255 (as floats), scale and zero point of the whole tensor; scale and zero point pass no gradient."""
    x = needed(inputs, 0)
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero_point = (-low / scale).clamp(0, 255).round()
    return (round_ste(x / scale) + zero_point).clamp(0, 255), scale, zero_point


def _matmul_integer(inputs: Inputs, a: Attributes) -> Tensor:
    left, right = _centred(inputs, 0, 2, row=True), _centred(inputs, 1, 3, row=False)
    return left @ right


def _centred(inputs: Inputs, index: int, zero_point: int, *, row: bool) -> Tensor:
    x, offset = needed(inputs, index).float(), optional(inputs, zero_point)
    if offset is None:
        return x
    return x - (offset.float().unsqueeze(-1) if row and offset.ndim == 1 else offset.float())


def _erf_gelu(inputs: Inputs, a: Attributes) -> Tensor:
    approximate = a.get("approximate", "none")
    return F.gelu(needed(inputs, 0), approximate="tanh" if approximate == "tanh" else "none")


def _quick_gelu(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    result: Tensor = x * torch.sigmoid(float(a.get("alpha", 1.702)) * x)
    return result


def _einsum(inputs: Inputs, a: Attributes) -> Tensor:
    result: Tensor = torch.einsum(a["equation"], *(needed(inputs, i) for i in range(len(inputs))))
    return result


def _scaled(inputs: Inputs, a: Attributes) -> Tensor:
    """Ours: codes of one grid read on another; attributes of both, see `robustlab.deploy.foreign`."""
    x = needed(inputs, 0)
    result: Tensor = (x / a["scale"] + (a["zero_point"] - a["new_zero_point"])) * a["new_scale"]
    return result


OPERATORS: dict[str, Operator] = {
    **SHAPES,
    **WINDOWS,
    "Grid": _grid,
    "Regrid": _scaled,
    "Relu": _unary(torch.relu),
    "Sigmoid": _unary(torch.sigmoid),
    "Tanh": _unary(torch.tanh),
    "Exp": _unary(torch.exp),
    "Log": _unary(torch.log),
    "Sqrt": _unary(torch.sqrt),
    "Neg": _unary(torch.neg),
    "Abs": _unary(torch.abs),
    "Reciprocal": _unary(torch.reciprocal),
    "Erf": _unary(torch.erf),
    "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos),
    "Round": _unary(round_ste),
    "Floor": _unary(lambda x: x + (x.floor() - x).detach()),
    "Ceil": _unary(lambda x: x + (x.ceil() - x).detach()),
    "Softsign": _unary(F.softsign),
    "Softplus": _unary(F.softplus),
    "Mish": _unary(F.mish),
    "Identity": _unary(lambda x: x),
    "Dropout": _unary(lambda x: x),
    "HardSwish": _unary(F.hardswish),
    "HardSigmoid": lambda i, a: (float(a.get("alpha", 0.2)) * needed(i, 0) + float(a.get("beta", 0.5))).clamp(0.0, 1.0),
    "LeakyRelu": lambda i, a: F.leaky_relu(needed(i, 0), float(a.get("alpha", 0.01))),
    "Elu": lambda i, a: F.elu(needed(i, 0), float(a.get("alpha", 1.0))),
    "Celu": lambda i, a: F.celu(needed(i, 0), float(a.get("alpha", 1.0))),
    "Selu": _unary(F.selu),
    "ThresholdedRelu": lambda i, a: F.threshold(needed(i, 0), float(a.get("alpha", 1.0)), 0.0),
    "Gelu": _erf_gelu,
    "QuickGelu": _quick_gelu,
    "PRelu": _prelu,
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _divide,
    "Pow": _binary(torch.pow),
    "Max": _fold(torch.maximum),
    "Min": _fold(torch.minimum),
    "Sum": _fold(torch.add),
    "Mean": _mean,
    "Equal": _binary(torch.eq),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Not": _unary(torch.logical_not),
    "Where": _where,
    "Clip": _clip,
    "MatMul": _binary(torch.matmul),
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Softmax": _softmax(lambda x, axis: x.softmax(axis)),
    "LogSoftmax": _softmax(lambda x, axis: x.log_softmax(axis)),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "MatMulInteger": _matmul_integer,
}
