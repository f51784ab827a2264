"""Which operations run together: the graph is cut into maximal segments that one program can run."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from robustlab.deploy.graph.observing import Observed, Unfit
from robustlab.deploy.graph.operations import Conv, Operation, sources
from robustlab.deploy.graph.recognise import recognise
from robustlab.deploy.graph.tracing import Traced
from robustlab.deploy.graph.view import Declined, View

_BOOKKEEPING = ("placeholder", "output", "get_attr")


@dataclass(frozen=True)
class Segment:
    """Operations that one program runs, in the order of the graph, and the values that go in and come out."""

    operations: Mapping[fx.Node, Operation]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]

    @property
    def packed(self) -> int:
        """Packed layers in it."""
        return sum(isinstance(operation, Conv) for operation in self.operations.values())


@dataclass(frozen=True)
class Partition:
    """Segments and single nodes in the order they run, and why each of the nodes stays in torch."""

    order: tuple[Segment | fx.Node, ...]
    reasons: Mapping[fx.Node, str]


def partition(traced: Traced, observed: Observed) -> Partition:
    """Cut the graph. Raises `Unfit` where in-place operations allow no order."""
    view = View(traced, observed.seen)
    operations: dict[fx.Node, Operation] = {}
    reasons: dict[fx.Node, str] = {}
    for node in traced.graph.nodes:
        if node.op in _BOOKKEEPING:
            continue
        try:
            operations[node] = recognise(view, node)
        except Declined as reason:
            reasons[node] = str(reason)
    while True:
        live = _live(traced.graph, operations)
        groups = _groups(traced.graph, {node: operations[node] for node in operations if node in live})
        alone = [node for group in groups if not any(isinstance(operations[n], Conv) for n in group) for node in group]
        if not alone:
            break
        for node in alone:
            reasons[node] = "no packed layer next to it"
            del operations[node]
    segments = [_segment(group, operations, live) for group in groups]
    order = _ordered(traced.graph, segments, live, observed.readers)
    kept = {node: reasons[node] for node in order if isinstance(node, fx.Node) and node in reasons}
    return Partition(order, kept)


def _reads(node: fx.Node, operations: Mapping[fx.Node, Operation]) -> tuple[fx.Node, ...]:
    operation = operations.get(node)
    return tuple(node.all_input_nodes) if operation is None else sources(operation)


def _groups(graph: fx.Graph, operations: Mapping[fx.Node, Operation]) -> list[list[fx.Node]]:
    """Connected operations between which no path leads through torch.

    The level of a node counts how often its longest path enters and leaves torch; levels never fall along a path, so
    operations of one level cannot wait for each other through torch.
    """
    level: dict[fx.Node, int] = {}
    parent: dict[fx.Node, fx.Node] = {}

    def find(node: fx.Node) -> fx.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in graph.nodes:
        fused = node in operations
        level[node] = max((level[x] + (not fused and x in operations) for x in _reads(node, operations)), default=0)
        if fused:
            parent[node] = node
            for x in _reads(node, operations):
                if x in operations and level[x] == level[node]:
                    parent[find(x)] = find(node)
    groups: dict[fx.Node, list[fx.Node]] = {}
    for node in parent:
        groups.setdefault(find(node), []).append(node)
    return list(groups.values())


def _live(graph: fx.Graph, operations: Mapping[fx.Node, Operation]) -> dict[fx.Node, set[fx.Node]]:
    """Every node that is needed, with the nodes that read it. Calls that may have an effect of their own are needed."""
    live: dict[fx.Node, set[fx.Node]] = {}
    for node in reversed(graph.nodes):
        needed = node in live or node.op in ("output", "placeholder")
        sizes = node.op == "call_method" and node.target in ("size", "dim")
        pure = node in operations or node.op == "get_attr" or sizes or node.target in (getattr, operator.getitem)
        if needed or not pure:
            live.setdefault(node, set())
            for x in _reads(node, operations):
                live.setdefault(x, set()).add(node)
    return live


def _segment(
    nodes: list[fx.Node], operations: Mapping[fx.Node, Operation], live: Mapping[fx.Node, set[fx.Node]]
) -> Segment:
    inside = {node: operations[node] for node in nodes}
    inputs = dict.fromkeys(x for operation in inside.values() for x in sources(operation) if x not in inside)
    outputs = tuple(node for node in nodes if any(user not in inside for user in live[node]))
    return Segment(inside, tuple(inputs), outputs)


def _ordered(
    graph: fx.Graph,
    segments: list[Segment],
    live: Mapping[fx.Node, set[fx.Node]],
    readers: Mapping[fx.Node, frozenset[fx.Node]],
) -> tuple[Segment | fx.Node, ...]:
    """Segments and nodes, each after what it reads, and what writes into memory after what read it before."""
    unit_of: dict[fx.Node, int] = {}
    units: list[Segment | fx.Node] = []
    member = {node: segment for segment in segments for node in segment.operations}
    place: dict[int, int] = {}
    for node in graph.nodes:
        if node not in live or node.op == "output":
            continue
        segment = member.get(node)
        if segment is None:
            unit_of[node] = len(units)
            units.append(node)
        elif id(segment) in place:
            unit_of[node] = place[id(segment)]
        else:
            unit_of[node] = place[id(segment)] = len(units)
            units.append(segment)
    before: list[set[int]] = [set() for _ in units]
    for node, users in live.items():
        for user in users:
            if user.op != "output" and unit_of[user] != unit_of[node]:
                before[unit_of[user]].add(unit_of[node])
    for writer, earlier in readers.items():
        if writer in unit_of and writer not in member:
            before[unit_of[writer]] |= {unit_of[node] for node in earlier if node in unit_of} - {unit_of[writer]}
    order: list[Segment | fx.Node] = []
    waiting = dict.fromkeys(range(len(units)))
    while waiting:
        ready = next((unit for unit in waiting if before[unit].isdisjoint(waiting)), None)
        if ready is None:
            raise Unfit("an in-place operation stands between operations that belong together")
        order.append(units[ready])
        del waiting[ready]
    return tuple(order)
