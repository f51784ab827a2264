"""Which nodes of a traced graph can be fused, and as what; for the others, why not.

An operation is taken only where its result can be reproduced bit for bit: batch norms in evaluation mode, for one,
fold their constants in an order of torch's own (`freeze` has already made affine steps of those of compressed models).
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from robustlab.compress.composed import Shift
from robustlab.compress.layers import Affine
from robustlab.deploy.graph import rules
from robustlab.deploy.graph.operations import Conv, Operation, Pointwise, sources
from robustlab.deploy.graph.tracing import has_hooks
from robustlab.deploy.graph.view import Declined, View, channel_vector
from robustlab.deploy.packed import PackedLayer
from robustlab.kernels.program import Add, Div, Mul, Prelu, Relu, Step, Sub
from robustlab.models.blocks import ChannelBias, ChannelPReLU, Normalize

_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_CLAMPS = (nn.ReLU6, nn.Hardtanh)
_UNFUSED = "not an operation that is fused"


def recognise(view: View, node: fx.Node) -> Operation:
    """The operation of a node. Raises `Declined`."""
    if node.op == "call_module":
        operation = _module(view, node, str(node.target))
    elif node.op in ("call_function", "call_method"):
        operation = _call(view, node)
    else:
        raise Declined(_UNFUSED)
    for value in (*sources(operation), node):
        view.shape(value)
    if not view.seen[node].contiguous:
        raise Declined("its result is not contiguous")
    return operation


def _module(view: View, node: fx.Node, path: str) -> Operation:
    if path in view.traced.opaque:
        raise Declined(f"called as a whole: {view.traced.opaque[path]}")
    module = view.traced.root.get_submodule(path)
    if has_hooks(module):
        raise Declined("it has hooks")
    if len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
        raise Declined(_UNFUSED)
    x = node.args[0]
    if isinstance(module, PackedLayer):
        dimensions = 2 if module.scheme.geometry is None else 4
        if len(view.shape(x)) != dimensions or type(module) is not PackedLayer:
            raise Declined("neither rows of a linear layer nor images of a convolution")
        return Conv(x, module)
    kind = type(module)
    if kind in _NOTHING:
        return rules.dropout(view, node, {"x": x, "training": module.training and kind is not nn.Identity})
    if isinstance(module, _CLAMPS) and kind in _CLAMPS:
        return rules.hardtanh(view, node, {"x": x, "low": module.min_val, "high": module.max_val})
    if isinstance(module, nn.LeakyReLU) and kind is nn.LeakyReLU:
        return rules.leaky_relu(view, node, {"x": x, "slope": module.negative_slope})
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)) and kind in (nn.MaxPool2d, nn.AvgPool2d):
        return _pool(view, node, x, module)
    if kind in (nn.Flatten, nn.AdaptiveAvgPool2d):
        return rules.same_numbers(view, node, {"x": x})
    steps = _steps(module, view, x)
    if steps is None:
        norm = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
        float_layer = isinstance(module, (nn.Conv2d, nn.Linear))
        raise Declined("a batch norm, in torch's own order" if norm else "a float layer" if float_layer else _UNFUSED)
    return Pointwise(x, steps)


def _pool(view: View, node: fx.Node, x: fx.Node, module: nn.MaxPool2d | nn.AvgPool2d) -> Operation:
    arguments = {"x": x, "kernel": module.kernel_size, "stride": module.stride, "padding": module.padding}
    if isinstance(module, nn.MaxPool2d):
        arguments |= {"dilation": module.dilation, "return_indices": module.return_indices}
        return rules.max_pool(view, node, arguments)
    return rules.average_pool(view, node, arguments | {"divisor": module.divisor_override})


def _steps(module: nn.Module, view: View, x: fx.Node) -> tuple[Step, ...] | None:
    """The steps of a module that works on every number by itself, None for any other."""
    shape = view.shape(x)
    channels, dimensions = shape[1], len(shape)
    kind = type(module)
    if kind is nn.ReLU:
        return (Relu(),)
    if isinstance(module, nn.PReLU) and kind in (nn.PReLU, ChannelPReLU):
        return (Prelu(rules.slope_vector(module.weight, channels)),)
    if isinstance(module, Affine) and kind is Affine:
        return Mul(module.scale), Add(module.shift)
    if isinstance(module, Shift) and kind is Shift and module.rows == (dimensions == 2):
        return (Add(module.shift),)
    if isinstance(module, ChannelBias) and kind is ChannelBias:
        return (Add(channel_vector(module.bias, channels, dimensions)),)
    if isinstance(module, Normalize) and kind is Normalize:
        vectors = [channel_vector(value, channels, dimensions) for value in (module.mean, module.std)]
        return Sub(vectors[0]), Div(vectors[1])
    return None


_XY = ("x", "y", "alpha")
_SPATIAL = ("x", "kernel", "stride", "padding")
_RULES: dict[str, tuple[rules.Rule, tuple[str, ...]]] = {
    "relu": (rules.relu, ("x",)),
    "clamp": (rules.clamp, ("x", "low", "high")),
    "clamp_min": (rules.clamp, ("x", "low")),
    "clamp_max": (rules.clamp, ("x", "high")),
    "relu6": (rules.relu6, ("x",)),
    "hardtanh": (rules.hardtanh, ("x", "low", "high")),
    "leaky_relu": (rules.leaky_relu, ("x", "slope")),
    "prelu": (rules.prelu, ("x", "weight")),
    "dropout": (rules.dropout, ("x", "p", "training")),
    "reshape": (rules.same_numbers, ("x",)),
    "add": (rules.add, _XY),
    "sub": (rules.sub, _XY),
    "mul": (rules.mul, ("x", "y")),
    "div": (rules.div, ("x", "y")),
    "max_pool": (rules.max_pool, (*_SPATIAL, "dilation", "ceil", "return_indices")),
    "average_pool": (rules.average_pool, (*_SPATIAL, "ceil", "include_pad", "divisor")),
    "concat": (rules.concat, ("x", "dim")),
    "pad": (rules.pad, ("x", "pad", "mode", "value")),
}
_NAMES = {
    "input": "x", "other": "y", "tensors": "x", "min": "low", "max": "high", "min_val": "low", "max_val": "high",
    "negative_slope": "slope", "kernel_size": "kernel", "ceil_mode": "ceil", "count_include_pad": "include_pad",
    "divisor_override": "divisor",
}  # fmt: skip
_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu", torch.relu_: "relu", F.relu: "relu",
    torch.clamp: "clamp", torch.clip: "clamp", torch.clamp_: "clamp", torch.clamp_min: "clamp_min",
    torch.clamp_max: "clamp_max", F.relu6: "relu6", F.hardtanh: "hardtanh", F.leaky_relu: "leaky_relu",
    torch.prelu: "prelu", F.prelu: "prelu",
    F.dropout: "dropout", F.dropout1d: "dropout", F.dropout2d: "dropout", F.dropout3d: "dropout",
    F.alpha_dropout: "dropout", F.feature_alpha_dropout: "dropout",
    torch.flatten: "reshape", torch.reshape: "reshape", torch.mean: "reshape", F.adaptive_avg_pool2d: "reshape",
    operator.add: "add", operator.iadd: "add", torch.add: "add",
    operator.sub: "sub", operator.isub: "sub", torch.sub: "sub", torch.subtract: "sub",
    operator.mul: "mul", operator.imul: "mul", torch.mul: "mul", torch.multiply: "mul",
    operator.truediv: "div", operator.itruediv: "div", torch.div: "div", torch.true_divide: "div",
    F.max_pool2d: "max_pool", torch.max_pool2d: "max_pool", F.avg_pool2d: "average_pool",
    torch.cat: "concat", torch.concat: "concat", torch.concatenate: "concat", F.pad: "pad",
}  # fmt: skip
_METHODS = {
    "relu": "relu", "relu_": "relu", "clamp": "clamp", "clamp_": "clamp", "clip": "clamp", "clip_": "clamp",
    "clamp_min": "clamp_min", "clamp_min_": "clamp_min", "clamp_max": "clamp_max", "clamp_max_": "clamp_max",
    "flatten": "reshape", "view": "reshape", "reshape": "reshape", "contiguous": "reshape", "mean": "reshape",
    "add": "add", "add_": "add", "sub": "sub", "sub_": "sub", "mul": "mul", "mul_": "mul", "div": "div",
    "div_": "div", "prelu": "prelu",
}  # fmt: skip


def _call(view: View, node: fx.Node) -> Operation:
    name = _METHODS.get(str(node.target)) if node.op == "call_method" else _FUNCTIONS.get(node.target)
    if name is None:
        raise Declined(_UNFUSED)
    rule, parameters = _RULES[name]
    arguments = dict(zip(parameters, node.args, strict=False))
    arguments |= {_NAMES.get(key, key): value for key, value in node.kwargs.items()}
    if "x" not in arguments or ("y" in parameters and "y" not in arguments):
        raise Declined(_UNFUSED)
    return rule(view, node, arguments)
