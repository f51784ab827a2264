"""The same values with less work: grids of activations where there is least to round.

A grid is non-decreasing, so that the largest of rounded values is the largest value, rounded. It costs as much memory
traffic as a convolution of few channels, and a network has as many grids as convolutions.
"""

from __future__ import annotations

from collections import Counter

from robustlab.models.graph import GraphSpec, Step


def with_fewer_roundings(spec: GraphSpec) -> GraphSpec:
    """Grids behind the max pool that follows, and in front of a concatenation only where a part is on another grid.

    Outputs are equal bit for bit. What is differentiated of a max pool is its largest value before rounding, where
    the file, which sees codes, has several that are equal.
    """
    steps = _in_front_of_concat(_behind_pools(list(spec.steps), spec.output), spec.output)
    return spec.model_copy(update={"steps": steps})


def _behind_pools(steps: list[Step], output: str) -> list[Step]:
    uses, made = _uses(steps, output), _makers(steps)
    result: list[Step] = []
    for step in steps:
        grid = made.get(step.inputs[0]) if step.op == "MaxPool" else None
        if grid is None or not _is_grid(grid) or uses[grid.outputs[0]] != 1:
            result.append(step)
            continue
        result.remove(grid)
        pool = step.model_copy(update={"inputs": grid.inputs, "outputs": grid.outputs})
        moved = grid.model_copy(update={"inputs": pool.outputs, "outputs": step.outputs})
        result += [pool, moved]
        made.update({pool.outputs[0]: pool, moved.outputs[0]: moved})
    return result


def _in_front_of_concat(steps: list[Step], output: str) -> list[Step]:
    uses, made = _uses(steps, output), _makers(steps)
    result: list[Step] = []
    for step in steps:
        parts = made.get(step.inputs[0]) if _is_grid(step) else None
        if parts is None or parts.op != "Concat" or uses[parts.outputs[0]] != 1:
            result.append(step)
            continue
        there = [_is_same_grid(made.get(name), step) for name in parts.inputs]
        if not any(there):
            result.append(step)
            continue
        result.remove(parts)
        names = []
        for index, (name, done) in enumerate(zip(parts.inputs, there, strict=True)):
            names.append(name if done else f"{step.outputs[0]}_{index}")
            if not done:
                result.append(step.model_copy(update={"inputs": [name], "outputs": [names[-1]]}))
        result.append(parts.model_copy(update={"inputs": names, "outputs": step.outputs}))
    return result


def _uses(steps: list[Step], output: str) -> Counter[str]:
    return Counter([output, *(name for step in steps for name in step.inputs)])


def _makers(steps: list[Step]) -> dict[str, Step]:
    return {name: step for step in steps for name in step.outputs}


def _is_grid(step: Step) -> bool:
    """One scale for all: a scale for each channel would have to move with the channels."""
    return step.op == "Grid" and len(step.inputs) == 1


def _is_same_grid(step: Step | None, grid: Step) -> bool:
    return step is not None and _is_grid(step) and step.attributes == grid.attributes
