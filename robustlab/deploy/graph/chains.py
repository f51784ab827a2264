"""Lowering, first half: from the operations of a segment to chains, each of which becomes one node of a program.

A chain starts with a convolution, a pool or a load and goes on step by step; a value is a place in a chain. What is
read elsewhere is stored there, as often as it is needed in another form, and the chain goes on with what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from robustlab.deploy.graph.operations import Concat, Conv, Operation, Pointwise, Pool, Subsample, Sum
from robustlab.kernels.program import Add, Scale, Step


@dataclass(frozen=True)
class Input:
    """A value that torch hands to the program."""

    node: fx.Node


@dataclass(frozen=True)
class Load:
    """The start of a chain that reads a stored value."""

    source: fx.Node


@dataclass(frozen=True)
class AddStored:
    """The step that adds a value stored elsewhere."""

    source: fx.Node


Root = Input | Load | Conv | Pool | Concat | Subsample


@dataclass(eq=False)
class Chain:
    """A root and what follows: steps, and the values that stand between them."""

    root: Root
    items: list[Step | AddStored | fx.Node] = field(default_factory=list)

    @property
    def extensible(self) -> bool:
        """Whether steps may follow in the same node of the program."""
        return isinstance(self.root, (Load, Conv, Pool))

    @property
    def values(self) -> tuple[fx.Node, ...]:
        """The values in it, in order."""
        return tuple(item for item in self.items if isinstance(item, fx.Node))

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """Values it reads that are stored elsewhere."""
        root = self.root
        if isinstance(root, Input):
            start: tuple[fx.Node, ...] = ()
        else:
            start = root.parts if isinstance(root, Concat) else (root.source,)
        return (*start, *(item.source for item in self.items if isinstance(item, AddStored)))


@dataclass
class Lowered:
    """The chains of a segment, each after those it reads; where every value stands; other names of values."""

    chains: list[Chain]
    home: dict[fx.Node, Chain]
    alias: dict[fx.Node, fx.Node]

    def value(self, node: fx.Node) -> fx.Node:
        """The value that a node is another name of, or the node."""
        while node in self.alias:
            node = self.alias[node]
        return node


def lower(operations: Mapping[fx.Node, Operation], inputs: tuple[fx.Node, ...]) -> Lowered:
    """Chains of the operations (in the order of the graph) of one segment with these inputs."""
    work = _Lowering()
    for node in inputs:
        work.start(Input(node), node)
    for node, operation in operations.items():
        work.place(node, operation)
    return Lowered(work.ordered(), work.home, work.alias)


class _Lowering:
    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.home: dict[fx.Node, Chain] = {}
        self.alias: dict[fx.Node, fx.Node] = {}

    def _value(self, node: fx.Node) -> fx.Node:
        while node in self.alias:
            node = self.alias[node]
        return node

    def start(self, root: Root, node: fx.Node | None = None) -> Chain:
        """A new chain, with `node` as its first value."""
        chain = Chain(root)
        self.chains.append(chain)
        if node is not None:
            self.end(chain, node)
        return chain

    def end(self, chain: Chain, node: fx.Node) -> None:
        """Make `node` the value at the end of a chain."""
        chain.items.append(node)
        self.home[node] = chain

    def place(self, node: fx.Node, operation: Operation) -> None:
        """Add an operation."""
        if isinstance(operation, Conv):
            layer = operation.layer
            chain = self.start(Conv(self._value(operation.source), layer))
            chain.items.append(Scale(layer.scheme.unit_scale(layer.scale)))
            if layer.bias is not None:
                chain.items.append(Add(layer.bias))
            self.end(chain, node)
        elif isinstance(operation, Pointwise):
            source = self._value(operation.source)
            if not operation.steps:
                self.alias[node] = source
                return
            chain = self._continued(source)
            chain.items.extend(operation.steps)
            self.end(chain, node)
        elif isinstance(operation, Sum):
            self._sum(node, self._value(operation.left), self._value(operation.right))
        elif isinstance(operation, Pool):
            source = self._value(operation.source)
            root = Pool(source, operation.kind, operation.kernel, operation.stride, operation.padding, ())
            chain = self.start(root)
            chain.items.extend(operation.steps)
            self.end(chain, node)
        elif isinstance(operation, Concat):
            self.start(Concat(tuple(self._value(part) for part in operation.parts)), node)
        else:
            source = self._value(operation.source)
            self.start(Subsample(source, operation.stride, operation.front, operation.back), node)

    def _continued(self, value: fx.Node) -> Chain:
        """The chain that ends with `value`, or a new one that loads it."""
        chain = self.home[value]
        if chain.extensible and chain.items[-1] is value:
            return chain
        return self.start(Load(value))

    def _sum(self, node: fx.Node, left: fx.Node, right: fx.Node) -> None:
        """Continue the operand that was made last where it can wait for the other one; else load one of them."""
        ends = [(left, right), (right, left)]
        if self.chains.index(self.home[right]) > self.chains.index(self.home[left]):
            ends.reverse()
        for value, other in ends:
            chain = self.home[value]
            if chain.extensible and chain.items[-1] is value and not self._depends(self.home[other], chain):
                break
        else:
            value, other = ends[0]
            chain = self.start(Load(value))
        chain.items.append(AddStored(other))
        self.end(chain, node)

    def _depends(self, chain: Chain, on: Chain) -> bool:
        """Whether `chain` needs `on`, itself included."""
        seen: set[int] = set()
        stack = [chain]
        while stack:
            current = stack.pop()
            if current is on:
                return True
            if id(current) not in seen:
                seen.add(id(current))
                stack.extend(self.home[value] for value in current.reads)
        return False

    def ordered(self) -> list[Chain]:
        """The chains, each after those it reads."""
        done: dict[int, Chain] = {}

        def visit(chain: Chain) -> None:
            stack: list[tuple[Chain, bool]] = [(chain, False)]
            while stack:
                current, expanded = stack.pop()
                if id(current) in done:
                    continue
                if expanded:
                    done[id(current)] = current
                    continue
                stack.append((current, True))
                stack.extend((self.home[value], False) for value in reversed(current.reads))

        for chain in self.chains:
            visit(chain)
        return list(done.values())
