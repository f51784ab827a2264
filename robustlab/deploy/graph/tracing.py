"""From a model to the graph of its operations: symbolic tracing with packed layers and known modules as leaves.

What cannot be traced becomes a leaf itself: the smallest sub-module whose code depends on values, keeps state, has
hooks, or makes tensors while it runs is called as it is, and only the operations around it are seen.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustlab.compress.composed import Shift
from robustlab.compress.layers import Affine
from robustlab.core.frozen import frozen
from robustlab.deploy.packed import PackedLayer
from robustlab.models.blocks import ChannelBias, ChannelPReLU, Normalize

_LEAVES = (PackedLayer, Affine, ChannelBias, ChannelPReLU, Normalize, Shift)


class Root(nn.Module):
    """A model called with its images and nothing else, so that the graph has one input; its path is ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """What the model returns."""
        return self.model(images)


@dataclass(frozen=True)
class Traced:
    """The graph of `root`, and why some sub-modules in it are called as a whole (path -> reason)."""

    root: Root
    graph: fx.Graph
    opaque: dict[str, str]


def trace(model: nn.Module) -> Traced:
    """Trace `model`, leaving it as it was. Never raises for what a model does: see `Traced.opaque`."""
    root = Root(model)
    tracer = _Tracer({name for name, module in root.named_modules() if module.training})
    with frozen(model), torch.no_grad():
        graph = tracer.trace(root)
    return Traced(root, graph, tracer.opaque)


def has_hooks(module: nn.Module) -> bool:
    """True if calling the module runs more than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Proxy(fx.Proxy):
    """A symbol that notes ``x += y`` as the in-place operation it is on a tensor."""

    def _in_place(self, function: Callable[[Any, Any], Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)

    def _refuse(self, other: Any) -> Any:
        raise TypeError("an in-place operation that is not recorded")

    __ifloordiv__ = __imod__ = __ipow__ = __iand__ = __ior__ = __ixor__ = __imatmul__ = _refuse
    __ilshift__ = __irshift__ = _refuse


class _Tracer(fx.Tracer):  # type: ignore[misc,unused-ignore]
    def __init__(self, training: set[str]) -> None:
        super().__init__()
        self.training = training
        self.opaque: dict[str, str] = {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The symbol of a node."""
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Modules of torch and those the graph pass knows."""
        return type(m) in _LEAVES or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into `m`, or note a call of it where that does not work."""
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return self.create_proxy("call_module", path, args, kwargs)
        if has_hooks(m) or path in self.training:
            reason = "it has hooks" if has_hooks(m) else "it is in training mode"
            return self._leaf(path, reason, args, kwargs)
        before, state = len(self.graph.nodes), _state(m)
        try:
            result = forward(*args, **kwargs)
            changed = _changed(m, state)
        except Exception as error:  # a forward may raise anything when it is shown symbols
            result, changed = None, " ".join(str(error).split())[:200] or type(error).__name__
        if not changed:
            return result
        _restore(m, state)
        for node in reversed(list(self.graph.nodes)[before:]):
            self.graph.erase_node(node)
        return self._leaf(path, changed, args, kwargs)

    def _leaf(self, path: str, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Proxy:
        self.opaque[path] = reason
        return self.create_proxy("call_module", path, args, kwargs)

    def create_arg(self, a: Any) -> Any:
        """Refuse tensors that the forward made: one drawn at random would be drawn once and for all."""
        if isinstance(a, Tensor) and a not in self.tensor_attrs and not isinstance(a, nn.Parameter):
            raise ValueError("its forward makes a tensor")
        return super().create_arg(a)


_State = tuple[dict[str, Any], list[dict[str, Any]]]
_REGISTERED = ("_parameters", "_buffers", "_modules")


def _state(module: nn.Module) -> _State:
    return dict(vars(module)), [dict(vars(module)[name]) for name in _REGISTERED]


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[key] is b[key] for key in a)


def _changed(module: nn.Module, state: _State) -> str:
    attributes, registered = _state(module)
    same = _same(attributes, state[0]) and all(_same(a, b) for a, b in zip(registered, state[1], strict=True))
    return "" if same else "its forward sets attributes"


def _restore(module: nn.Module, state: _State) -> None:
    vars(module).clear()
    vars(module).update(state[0])
    for name, saved in zip(_REGISTERED, state[1], strict=True):
        vars(module)[name].clear()
        vars(module)[name].update(saved)
