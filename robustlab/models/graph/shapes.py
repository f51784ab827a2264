"""Operators that move, cut, join and count values, and reductions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.models.graph.inputs import Attributes, Inputs, Operator, needed, numbers, optional

MOST_ELEMENTS = 1 << 28
"""Of a tensor that an operator makes from numbers alone: more is a mistake, or an attack on memory."""

_TYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}


def check_elements(shape: list[int]) -> list[int]:
    """`shape`, if a tensor of it is not too large."""
    count = 1
    for side in shape:
        count *= max(side, 0)
    if count > MOST_ELEMENTS:
        raise ValueError(f"a tensor of shape {shape}; allowed: {MOST_ELEMENTS} elements")
    return shape


def _shape(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    return torch.tensor(list(x.shape)[a.get("start", 0) : a.get("end")], dtype=torch.int64)


def _reshape(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    target = numbers(inputs, 1, a, "shape") or []
    if not a.get("allowzero"):
        target = [x.shape[i] if side == 0 else side for i, side in enumerate(target)]
    return x.reshape(target)


def _flatten(inputs: Inputs, a: Attributes) -> Tensor:
    x, axis = needed(inputs, 0), int(a.get("axis", 1))
    axis = axis % x.ndim if axis < 0 else axis
    rows = 1
    for side in x.shape[:axis]:
        rows *= side
    return x.reshape(rows, -1)


def _transpose(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    return x.permute(a.get("perm") or list(range(x.ndim))[::-1])


def _squeeze(inputs: Inputs, a: Attributes) -> Tensor:
    x, axes = needed(inputs, 0), numbers(inputs, 1, a, "axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(inputs: Inputs, a: Attributes) -> Tensor:
    x, axes = needed(inputs, 0), numbers(inputs, 1, a, "axes") or []
    dims = x.ndim + len(axes)
    for axis in sorted(axis % dims for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(inputs: Inputs, a: Attributes) -> Tensor:
    return torch.cat([needed(inputs, i) for i in range(len(inputs))], dim=int(a["axis"]))


def _split(inputs: Inputs, a: Attributes) -> tuple[Tensor, ...]:
    x, axis = needed(inputs, 0), int(a.get("axis", 0))
    sizes = numbers(inputs, 1, a, "split")
    if sizes is None:
        parts = int(a["parts"])
        chunk = -(-x.shape[axis] // parts)
        sizes = [min(chunk, x.shape[axis] - chunk * i) for i in range(parts)]
    return tuple(x.split(sizes, dim=axis))


def _slice(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    starts, ends = numbers(inputs, 1, a, "starts") or [], numbers(inputs, 2, a, "ends") or []
    axes = numbers(inputs, 3, a, "axes") or list(range(len(starts)))
    steps = numbers(inputs, 4, a, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        indices = range(size)[slice(*_bounds(start, end, step, size))]
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(indices.start, indices.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64, device=x.device))
    return x


def _bounds(start: int, end: int, step: int, size: int) -> tuple[int | None, int | None, int]:
    """As Python takes them: with a negative step, an end below -size means through the first."""
    if step < 0 and end < -size:
        return start, None, step
    return start, end, step


def _gather(inputs: Inputs, a: Attributes) -> Tensor:
    x, indices, axis = needed(inputs, 0), needed(inputs, 1).long(), int(a.get("axis", 0)) % needed(inputs, 0).ndim
    indices = torch.where(indices < 0, indices + x.shape[axis], indices).to(x.device)
    picked = x.index_select(axis, indices.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _expand(inputs: Inputs, a: Attributes) -> Tensor:
    x, shape = needed(inputs, 0), numbers(inputs, 1, a, "shape") or []
    return x.expand(check_elements(list(torch.broadcast_shapes(x.shape, shape))))


def _tile(inputs: Inputs, a: Attributes) -> Tensor:
    x, repeats = needed(inputs, 0), numbers(inputs, 1, a, "repeats") or []
    check_elements([side * times for side, times in zip(x.shape, repeats, strict=True)])
    return x.repeat(repeats)


def _constant_of_shape(inputs: Inputs, a: Attributes) -> Tensor:
    shape = check_elements(numbers(inputs, 0, a, "shape") or [])
    return torch.full(shape, a.get("value", 0.0), dtype=_TYPES[a.get("to", "float32")])


def _range(inputs: Inputs, a: Attributes) -> Tensor:
    start, limit, delta = (needed(inputs, i).item() for i in range(3))
    check_elements([int(abs((limit - start) / delta)) + 1])
    return torch.arange(start, limit, delta, dtype=needed(inputs, 0).dtype)


def pad(x: Tensor, pads: list[int], mode: str, value: float, axes: list[int] | None = None) -> Tensor:
    """Pad as ONNX has it: starts of all axes, then ends. Negative numbers cut; only the two last axes can reflect."""
    axes = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    ends = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    flat: list[int] = []
    for axis in reversed(range(x.ndim)):
        flat.extend(ends.get(axis, (0, 0)))
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if not any(flat):
        return x
    if mode == "constant":
        return F.pad(x, flat, value=value)
    return F.pad(x, flat, mode={"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _pad(inputs: Inputs, a: Attributes) -> Tensor:
    given = optional(inputs, 2)
    value = float(a.get("value", 0.0)) if given is None else float(given.item())
    axes = numbers(inputs, 3, a, "axes")
    return pad(needed(inputs, 0), numbers(inputs, 1, a, "pads") or [], a.get("mode", "constant"), value, axes)


def _cast(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    to = _TYPES[a["to"]]
    return x if x.dtype == to else x.to(to)


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def run(inputs: Inputs, a: Attributes) -> Tensor:
        x, axes = needed(inputs, 0), numbers(inputs, 1, a, "axes")
        if not axes:
            if a.get("noop_with_empty_axes"):
                return x
            axes = list(range(x.ndim))
        return function(x, axes, bool(a.get("keepdims", 1)))

    return run


def _depth_to_space(inputs: Inputs, a: Attributes) -> Tensor:
    x, block = needed(inputs, 0), int(a["blocksize"])
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    count, channels, height, width = x.shape
    x = x.reshape(count, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(count, channels // block**2, height * block, width * block)


def _space_to_depth(inputs: Inputs, a: Attributes) -> Tensor:
    x, block = needed(inputs, 0), int(a["blocksize"])
    count, channels, height, width = x.shape
    x = x.reshape(count, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(count, channels * block**2, height // block, width // block)


SHAPES: dict[str, Operator] = {
    "Shape": _shape,
    "Size": lambda i, a: torch.tensor(needed(i, 0).numel(), dtype=torch.int64),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Pad": _pad,
    "Cast": _cast,
    "CastLike": lambda i, a: needed(i, 0).to(needed(i, 1).dtype),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: x.norm(2, axes, keep)),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
