"""Pairs of layers between which a positive factor per channel can move without changing the function."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from robustlab.compress.structure import shared_names
from robustlab.core.errors import invalid

_ELEMENTWISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Dropout)
_POOLING = (nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_ELEMENTWISE_FUNCTIONS = (torch.relu, F.relu, F.leaky_relu)
_POOLING_FUNCTIONS = (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)
_METHODS = ("relu", "contiguous", "clone")
_FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError, AssertionError)


def find_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """(first, second) layers, in the order they run, found in the graph that torch.fx traces.

    Both are plain float convolutions or linear layers that run once and have one name; the second has no groups or is
    depthwise. The output of the first has one reader, and so has everything up to the second; in between lie only
    operations f with f(a x) = a f(x) for a > 0, channel by channel: ReLU, leaky ReLU, pooling, dropout, and between a
    convolution and a linear layer one flatten. Everything else, a sum, a batch norm or ReLU6, ends the search.
    Raises `ArgumentError` for a model that cannot be traced.
    """
    try:
        graph = fx.Tracer().trace(model)
    except (*_FAILURES, fx.proxy.TraceError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise invalid("model", type(model).__name__, f"for cle a model that torch.fx can trace ({reason})") from error
    modules = dict(model.named_modules())
    shared = shared_names(model)
    targets = [node.target for node in graph.nodes if node.op == "call_module"]

    def is_layer(node: fx.Node) -> bool:
        if node.op != "call_module" or node.target in shared or targets.count(node.target) > 1:
            return False
        module = modules[str(node.target)]
        plain = type(module) in (nn.Conv2d, nn.Linear) and not module._forward_hooks and not module._forward_pre_hooks
        return plain and module.get_parameter("weight").dtype == torch.float32

    pairs = []
    for node in graph.nodes:
        if not is_layer(node):
            continue
        first = modules[node.target]
        reader, flattened = _reader(node, modules, isinstance(first, nn.Conv2d))
        if reader is None or not is_layer(reader):
            continue
        second = modules[str(reader.target)]
        if _fit(first, second, flattened):
            pairs.append((str(node.target), str(reader.target)))
    return pairs


def _reader(node: fx.Node, modules: dict[str, nn.Module], convolution: bool) -> tuple[fx.Node | None, bool]:
    """(the first node behind `node` that is not passed through, whether a flatten lies between); None for several."""
    flattened = False
    while len(node.users) == 1:
        (node,) = node.users
        if convolution and not flattened and _flattens(node, modules):
            flattened = True
        elif not _passes(node, modules) or (flattened and not _any_shape(node, modules)):
            return node, flattened
    return None, flattened


def _passes(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) in (*_ELEMENTWISE, *_POOLING)
    if node.op == "call_function":
        return node.target in (*_ELEMENTWISE_FUNCTIONS, *_POOLING_FUNCTIONS)
    return node.op == "call_method" and node.target in _METHODS


def _any_shape(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether it works element by element, so that it may stand behind a flatten."""
    if node.op == "call_module":
        return type(modules[str(node.target)]) in _ELEMENTWISE
    return node.target in (*_ELEMENTWISE_FUNCTIONS, *_METHODS)


def _flattens(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """A flatten of everything but the first axis."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
    if (node.op, node.target) not in (("call_method", "flatten"), ("call_function", torch.flatten)):
        return False
    return node.args[1:] == (1,) and not node.kwargs


def _fit(first: nn.Module, second: nn.Module, flattened: bool) -> bool:
    outputs = len(first.get_parameter("weight"))
    if isinstance(second, nn.Linear):
        per_channel = second.in_features % outputs == 0 if flattened else second.in_features == outputs
        return per_channel and (flattened or isinstance(first, nn.Linear))
    assert isinstance(second, nn.Conv2d)
    depthwise = second.groups == second.in_channels
    return isinstance(first, nn.Conv2d) and second.in_channels == outputs and (second.groups == 1 or depthwise)
