"""What an optimized model runs for images of one size: programs, and the calls that stay in torch between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from robustlab.deploy.graph.emit import build_segment, image_shape
from robustlab.deploy.graph.observing import Observed, Unfit, function_of
from robustlab.deploy.graph.operations import Concat, Conv, Operation, Pointwise, Pool, Subsample, Sum
from robustlab.deploy.graph.partition import Segment, partition
from robustlab.deploy.graph.tracing import Traced


@dataclass(frozen=True)
class FusedSegment:
    """One program of a plan: where it begins and ends, its packed layers, and how often each operation is in it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    operations: dict[str, int]


@dataclass(frozen=True)
class FusionReport:
    """What became of a model: its fused segments, and (name, reason) of every call that stays in torch.

    `reason` says why nothing at all is fused; then the unoptimized model runs.
    """

    segments: tuple[FusedSegment, ...] = ()
    in_torch: tuple[tuple[str, str], ...] = ()
    reason: str | None = None

    def __str__(self) -> str:
        """One line for each segment and each call that stays in torch."""
        lines = [f"not optimized: {self.reason}"] if self.reason is not None else []
        for number, segment in enumerate(self.segments, 1):
            parts = ", ".join(f"{count} {name}" for name, count in segment.operations.items())
            ends = f"{', '.join(segment.inputs)} -> {', '.join(segment.outputs)}"
            lines.append(f"program {number}: {ends}: {parts}")
        lines += [f"torch: {name}: {reason}" for name, reason in self.in_torch]
        return "\n".join(lines)


class ProgramCall:
    """Runs a program on values of the model's own shapes; rows (N, C) are images of one pixel to the program."""

    def __init__(self, segment: Segment, observed: Observed) -> None:
        built = build_segment(segment, observed.seen)
        self._program = built.program
        shapes = [observed.seen[node].shape for node in segment.inputs]
        self._images = [image_shape(shape) if len(shape) == 2 else None for shape in shapes]
        self._picks: list[tuple[int, tuple[int, ...] | None, bool]] = []
        for index, (pick, node) in enumerate(zip(built.picks, segment.outputs, strict=True)):
            shape = observed.seen[node].shape[1:]
            copied = pick < 0 or pick in built.picks[:index]
            self._picks.append((pick, shape if pick < 0 or len(shape) == 1 else None, copied))

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The segment's outputs, each a tensor of its own."""
        images = [
            x if image is None else x.reshape(len(x), *image) for x, image in zip(inputs, self._images, strict=True)
        ]
        made = self._program.run(images)
        outputs = []
        for pick, shape, copied in self._picks:
            y = made[pick] if pick >= 0 else inputs[-1 - pick]
            y = y.clone() if copied else y
            outputs.append(y if shape is None else y.reshape(len(y), *shape))
        return tuple(outputs)


@dataclass(frozen=True)
class _Step:
    """A call: its arguments, of which those in `refs` (position, place) are values; where results go; what dies.

    `results` holds one place for a call in torch, and is a tuple of them for a program.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    refs: tuple[tuple[int, int], ...]
    keywords: dict[str, Any]
    results: int | tuple[int, ...]
    dead: tuple[int, ...]


class Plan:
    """Calls in order, the last of which returns the result. Several threads may run one plan at once."""

    def __init__(self, steps: list[_Step], places: int, report: FusionReport) -> None:
        self._steps = steps
        self._places = places
        self.report = report

    def run(self, images: Tensor) -> Any:
        """What the model returns for images (N, C, H, W) of the size the plan was made for."""
        values: list[Any] = [None] * self._places
        values[0] = images
        made = None
        for step in self._steps:
            arguments = list(step.arguments)
            for position, place in step.refs:
                arguments[position] = values[place]
            made = step.function(*arguments, **step.keywords)
            if isinstance(step.results, int):
                values[step.results] = made
            else:
                for place, value in zip(step.results, made, strict=True):
                    values[place] = value
            for place in step.dead:
                values[place] = None
        return made


def make_plan(traced: Traced, observed: Observed) -> Plan:
    """The plan for images of the observed size. Raises `Unfit` if nothing can be fused."""
    parts = partition(traced, observed)
    segments = [unit for unit in parts.order if isinstance(unit, Segment)]
    report = FusionReport(
        tuple(_fused(segment) for segment in segments),
        tuple((_name(node), reason) for node, reason in parts.reasons.items()),
    )
    if not segments:
        why = "; ".join(sorted({f"{_name(node)}: {reason}" for node, reason in parts.reasons.items()}))
        raise Unfit(f"no packed layer can be fused ({why[:400]})")
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    places = {node: index for index, node in enumerate(_made(parts.order))}
    steps = []
    for unit, dead in zip(parts.order, _dying(parts.order, output), strict=True):
        ends = tuple(places[node] for node in dead)
        if isinstance(unit, Segment):
            refs = tuple((i, places[node]) for i, node in enumerate(unit.inputs))
            results = tuple(places[node] for node in unit.outputs)
            call = ProgramCall(unit, observed)
            steps.append(_Step(call, (None,) * len(refs), refs, {}, results, ends))
        elif unit.op != "placeholder":
            function = function_of(traced.root, unit)
            steps.append(_torch_step(function, unit.args, unit.kwargs, places, places[unit], ends))
    steps.append(_torch_step(_returned, output.args, {}, places, 0, ()))
    return Plan(steps, len(places), report)


def _returned(value: Any) -> Any:
    return value


def _reads(unit: Segment | fx.Node) -> tuple[fx.Node, ...]:
    return unit.inputs if isinstance(unit, Segment) else tuple(unit.all_input_nodes)


def _makes(unit: Segment | fx.Node) -> tuple[fx.Node, ...]:
    return unit.outputs if isinstance(unit, Segment) else (unit,)


def _made(order: tuple[Segment | fx.Node, ...]) -> list[fx.Node]:
    """The values of a plan, the images first."""
    return sorted((node for unit in order for node in _makes(unit)), key=lambda node: node.op != "placeholder")


def _dying(order: tuple[Segment | fx.Node, ...], output: fx.Node) -> list[list[fx.Node]]:
    """For each unit the values that are not needed after it."""
    needed = set(output.all_input_nodes)
    dying: list[list[fx.Node]] = []
    for unit in reversed(order):
        dying.append([node for node in dict.fromkeys((*_reads(unit), *_makes(unit))) if node not in needed])
        needed |= set(_reads(unit))
    return dying[::-1]


def _torch_step(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    places: dict[fx.Node, int],
    result: int,
    dead: tuple[int, ...],
) -> _Step:
    """A call in torch; where values lie within lists, tuples or keywords they are put there at every call."""
    plain = all(isinstance(arg, fx.Node) or not _values_in(arg) for arg in args) and not _values_in(kwargs)
    if plain:
        refs = tuple((i, places[arg]) for i, arg in enumerate(args) if isinstance(arg, fx.Node))
        return _Step(function, tuple(args), refs, dict(kwargs), result, dead)
    nodes = _values_in((args, kwargs))

    def nested(*values: Any) -> Any:
        given = dict(zip(nodes, values, strict=True))
        filled, named = fx.map_arg((args, kwargs), given.__getitem__)
        return function(*filled, **named)

    refs = tuple((i, places[node]) for i, node in enumerate(nodes))
    return _Step(nested, (None,) * len(nodes), refs, {}, result, dead)


def _values_in(argument: Any) -> list[fx.Node]:
    nodes: dict[fx.Node, None] = {}
    fx.map_arg(argument, lambda node: nodes.setdefault(node))
    return list(nodes)


def _name(node: fx.Node) -> str:
    """How the report names a call: the path of a module, else the name of the function."""
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return target.removeprefix("model.")


_KINDS: dict[type[Operation], str] = {
    Conv: "packed layers",
    Pointwise: "pointwise",
    Sum: "sums",
    Pool: "pools",
    Concat: "concatenations",
    Subsample: "subsampled shortcuts",
}


def _fused(segment: Segment) -> FusedSegment:
    names = [_KINDS[type(operation)] for operation in segment.operations.values()]
    return FusedSegment(
        tuple(_name(node) for node in segment.inputs),
        tuple(_name(node) for node in segment.outputs),
        tuple(_name(node) for node, operation in segment.operations.items() if isinstance(operation, Conv)),
        {name: names.count(name) for name in _KINDS.values() if name in names},
    )
