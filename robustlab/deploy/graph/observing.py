"""What flows through a graph: it is run once on example images, and every value's shape and memory are noted.

The run also finds what the fused order of operations could not reproduce: a tensor that is read after an in-place
operation changed it, or images that the model writes into.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustlab.core.frozen import frozen
from robustlab.deploy.graph.tracing import Traced

_BATCH = 2


class Unfit(Exception):
    """The graph cannot be fused; the text says why."""


@dataclass(frozen=True)
class Seen:
    """A tensor of the example run: its shape and whether it was float32 on the CPU, channels first and contiguous."""

    shape: tuple[int, ...]
    floats: bool
    contiguous: bool


def _method(name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(value, name)(*args, **kwargs)


def attribute(root: nn.Module, path: str) -> Any:
    """The parameter, buffer or attribute of `root` that a path names."""
    value: Any = root
    for part in path.split("."):
        value = getattr(value, part)
    return value


def function_of(root: nn.Module, node: fx.Node) -> Callable[..., Any]:
    """What a node calls, with the node's arguments."""
    if node.op == "call_module":
        return root.get_submodule(str(node.target))
    if node.op == "call_method":
        return partial(_method, str(node.target))
    if node.op == "get_attr":
        return partial(attribute, root, str(node.target))
    assert callable(node.target)
    return node.target


@dataclass(frozen=True)
class Observed:
    """What an example run found.

    seen: every node's value that is a tensor. readers: nodes that write into an operand -> nodes that read the same
    memory before, which must stay before.
    """

    seen: dict[fx.Node, Seen]
    readers: dict[fx.Node, frozenset[fx.Node]]


def observe(traced: Traced, image: tuple[int, ...]) -> Observed:
    """Run the graph on two random images (C, H, W) in [0, 1].

    Raises `Unfit`, and whatever the model raises for images of this size.
    """
    # Tensors made in inference mode do not count their versions.
    with torch.inference_mode(False), frozen(traced.root), torch.no_grad():
        images = torch.rand(_BATCH, *image, generator=torch.Generator().manual_seed(0))
        run = _Run(images)
        for node in traced.graph.nodes:
            if node.op == "placeholder":
                run.write(node, images)
            elif node.op == "output":
                fx.map_arg(node.args, partial(run.read, node))
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), partial(run.read, node))
                run.write(node, function_of(traced.root, node)(*args, **kwargs))
    if images._version:
        raise Unfit("the model writes into its images")
    return Observed(run.seen, run.before)


class _Run:
    """The values of an example run, all kept alive so that no two share memory by chance."""

    def __init__(self, images: Tensor) -> None:
        self.values: dict[fx.Node, Any] = {}
        self.versions: dict[fx.Node, int] = {}
        self.seen: dict[fx.Node, Seen] = {}
        self.before: dict[fx.Node, frozenset[fx.Node]] = {}
        self.readers: dict[int, set[fx.Node]] = {}

    def read(self, reader: fx.Node, node: fx.Node) -> Any:
        value = self.values[node]
        if isinstance(value, Tensor):
            if value._version != self.versions[node]:
                raise Unfit(f"{node.name} is read after an in-place operation changed it")
            self.readers.setdefault(_memory(value), set()).add(reader)
        return value

    def write(self, node: fx.Node, value: Any) -> None:
        self.values[node] = value
        for operand in node.all_input_nodes:
            if operand in self.versions and self.values[operand]._version != self.versions[operand]:
                earlier = self.readers[_memory(self.values[operand])] - {node}
                self.before[node] = self.before.get(node, frozenset()) | earlier
        if isinstance(value, Tensor):
            self.versions[node] = value._version
            floats = value.dtype == torch.float32 and value.is_cpu and type(value) in (Tensor, nn.Parameter)
            self.seen[node] = Seen(tuple(value.shape), floats, value.is_contiguous())


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
