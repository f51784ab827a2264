"""Lowering, second half, part two: from chains to the nodes of a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from torch import Tensor, fx

from robustlab.deploy.graph.chains import AddStored, Chain, Input, Load, Lowered, lower
from robustlab.deploy.graph.needs import (
    FLOAT,
    SIGNS,
    Form,
    Needs,
    PooledSigns,
    accumulator_bound,
    find_bounds,
    find_needs,
    form_read,
    live_items,
    passes_forms_on,
)
from robustlab.deploy.graph.observing import Seen
from robustlab.deploy.graph.operations import Concat, Conv, Pool, Subsample
from robustlab.deploy.graph.partition import Segment
from robustlab.deploy.graph.thresholds import is_monotone, threshold
from robustlab.kernels import ActivationSpec, ConvGeometry
from robustlab.kernels.program import (
    Add,
    AddValue,
    Div,
    Mul,
    Program,
    ProgramBuilder,
    Step,
    Store,
    StoreBelow,
    StoreCodes,
    StoreSigns,
    Sub,
)

Item = Step | AddStored | fx.Node
AddNode = Callable[[list[Step]], tuple[int, ...]]
Made = dict[tuple[fx.Node, Form], Step]


@dataclass(frozen=True)
class BuiltSegment:
    """The program of a segment, and where each output of the segment comes from.

    picks: an output of the program, or, where a value is only another name of input i, -1 - i.
    """

    program: Program
    picks: tuple[int, ...]


def build_segment(segment: Segment, seen: dict[fx.Node, Seen]) -> BuiltSegment:
    """The program of a segment, with rows as images of one pixel."""
    lowered = lower(segment.operations, segment.inputs)
    bounds = find_bounds(lowered)
    needs = find_needs(lowered, segment.outputs, bounds)
    work = _Emitter(lowered, bounds, needs)
    for node in segment.inputs:
        channels, height, width = image_shape(seen[node].shape)
        work.handles[node, FLOAT] = work.builder.input(channels, height, width)
    for chain in lowered.chains:
        work.emit(chain)
    given: dict[fx.Node, int] = {node: -1 - i for i, node in enumerate(segment.inputs)}
    for value in map(lowered.value, segment.outputs):
        if value not in given:
            given[value] = len(given) - len(segment.inputs)
            work.builder.output(work.handles[value, FLOAT])
    return BuiltSegment(work.builder.build(), tuple(given[lowered.value(node)] for node in segment.outputs))


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of a value (N, C, H, W) or (N, C)."""
    return (shape[1], shape[2], shape[3]) if len(shape) == 4 else (shape[1], 1, 1)


class _Emitter:
    def __init__(self, lowered: Lowered, bounds: dict[fx.Node, float], needs: Needs) -> None:
        self.builder = ProgramBuilder()
        self.handles: dict[tuple[fx.Node, Form], int] = {}
        self._lowered = lowered
        self._bounds = bounds
        self._needs = needs.forms
        self._pooled = needs.pooled

    def emit(self, chain: Chain) -> None:
        """Add the nodes that make every needed form of a chain's values."""
        live = live_items(chain, self._needs)
        root = chain.root
        if not live:
            return
        if isinstance(root, Input):
            self._input(root.node)
        elif isinstance(root, Concat):
            for form in _sorted(self._needs[chain.values[0]]):
                parts = [self.handles[part, form] for part in root.parts]
                self.handles[chain.values[0], form] = self.builder.concat(parts)
        elif isinstance(root, Subsample):
            source = self.handles[root.source, FLOAT]
            small = self.builder.subsample(source, root.stride, root.front, root.back)
            self._forms_of(chain.values[0], small)
        elif isinstance(root, Conv):
            self._conv(root, live)
        elif isinstance(root, Pool):
            self._pool(chain, root, live)
        elif not self._packed_input(root, live):
            handle = self.handles[root.source, FLOAT]
            self._run(live, lambda steps: self.builder.map(handle, steps))

    def _input(self, node: fx.Node) -> None:
        handle = self.handles[node, FLOAT]
        for form in _sorted(self._needs[node] - {FLOAT}):
            packed = (
                self.builder.quantize(handle, form) if isinstance(form, ActivationSpec) else self.builder.pack(handle)
            )
            self.handles[node, form] = packed

    def _forms_of(self, node: fx.Node, handle: int) -> None:
        """The forms of a float value that a node without steps made."""
        self.handles[node, FLOAT] = handle
        forms = _sorted(self._needs[node] - {FLOAT})
        if forms:
            made = self.builder.map(handle, [_store(form) for form in forms])
            self.handles |= {(node, form): result for form, result in zip(forms, made, strict=True)}

    def _packed_input(self, root: Load, live: Sequence[Item]) -> bool:
        """Pack an input straight from the caller's floats, where all that is asked for is signs of x + shift, or codes
        of (x - mean) / std."""
        source = self._lowered.home[root.source]
        if not isinstance(source.root, Input) or any(isinstance(item, fx.Node) for item in live[:-1]):
            return False
        value, steps = live[-1], live[:-1]
        assert isinstance(value, fx.Node)
        forms, handle = _sorted(self._needs[value]), self.handles[root.source, FLOAT]
        if forms == [SIGNS] and [type(step) for step in steps] == [Add]:
            # A float sum has the sign of the exact sum, so x + a < 0 where x < -a.
            self.handles[value, SIGNS] = self.builder.pack(handle, -_constant(steps[0]))
            return True
        if [type(step) for step in steps] == [Sub, Div] and all(isinstance(form, ActivationSpec) for form in forms):
            for form in forms:
                assert isinstance(form, ActivationSpec)
                sub, div = _constant(steps[0]), _constant(steps[1])
                self.handles[value, form] = self.builder.quantize(handle, form, sub, div)
            return True
        return False

    def _conv(self, root: Conv, live: Sequence[Item]) -> None:
        layer = root.layer
        handle, weight = self.handles[root.source, form_read(layer)], layer.weight()
        geometry = layer.scheme.geometry or ConvGeometry()
        compared, left = self._compared(root, live)
        self._run(left, lambda steps: self.builder.conv(handle, weight, geometry, steps), compared)

    def _compared(self, root: Conv, live: Sequence[Item]) -> tuple[Made, Sequence[Item]]:
        """Signs that a comparison of the accumulator gives, and the items that are left to run on floats."""
        compared: Made = {}
        channels, bound = root.layer.shape[0], accumulator_bound(root.layer)
        steps: list[Step] = []
        last = 0
        for index, item in enumerate(live):
            if not isinstance(item, fx.Node):
                if isinstance(item, AddStored) or not is_monotone(item):
                    last = len(live)
                    break
                steps.append(item)
                continue
            left = set(self._needs[item])
            for form in _sorted(left):
                if isinstance(form, PooledSigns):
                    found = threshold([*steps, *form.steps], channels, bound)
                    compared[item, form] = StoreBelow(found.threshold, found.flip ^ form.falls)
                    left.remove(form)
                elif form == SIGNS and self._bounds[item] < inf:
                    compared[item, form] = threshold(steps, channels, bound)
                    left.remove(form)
            if left:
                last = index + 1
        return compared, live[:last]

    def _pool(self, chain: Chain, root: Pool, live: Sequence[Item]) -> None:
        place = (root.kind, root.kernel, root.stride, root.padding)
        signs = self._pooled.get(chain)
        if signs is not None:
            (value,) = (item for item in live[-1:] if isinstance(item, fx.Node))
            back: list[Step] = [Mul(1.0 - 2.0 * signs.falls)] if bool(signs.falls.any()) else []
            source = self.handles[root.source, signs]
            (self.handles[value, SIGNS],) = self.builder.pool(source, *place, [*back, StoreSigns()])
            return
        if not passes_forms_on(chain, self._needs, self._bounds):
            handle = self.handles[root.source, FLOAT]
            self._run(live, lambda steps: self.builder.pool(handle, *place, steps))
            return
        value = chain.values[0]
        for form in _sorted(self._needs[value]):
            source = self.handles[root.source, form]
            # A pool of codes hands on code - zero point, of which a scale of one makes the same code again.
            same = replace(form, scale=1.0) if isinstance(form, ActivationSpec) else form
            (self.handles[value, form],) = self.builder.pool(source, *place, [_store(same)])

    def _run(self, items: Sequence[Item], add: AddNode, compared: Made | None = None) -> None:
        """Add a node whose steps are `compared` and then `items`, and note what its stores make."""
        steps: list[Step] = list((compared or {}).values())
        made: list[tuple[fx.Node, Form]] = list(compared or {})
        for item in items:
            if isinstance(item, fx.Node):
                forms = [form for form in _sorted(self._needs[item]) if (item, form) not in made]
                steps.extend(_store(form) for form in forms)
                made.extend((item, form) for form in forms)
            else:
                steps.append(AddValue(self.handles[item.source, FLOAT]) if isinstance(item, AddStored) else item)
        self.handles |= dict(zip(made, add(steps), strict=True))


def _sorted(forms: set[Form]) -> list[Form]:
    """Forms in an order that does not depend on hashes."""
    return sorted(forms, key=str)


def _store(form: Form) -> Step:
    if isinstance(form, ActivationSpec):
        return StoreCodes(form)
    return StoreSigns() if form == SIGNS else Store()


def _constant(step: Item) -> Tensor:
    assert isinstance(step, (Add, Sub, Div))
    return step.a
