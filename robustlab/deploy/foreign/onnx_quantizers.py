"""Quantizers and de-quantizers of an ONNX graph: of constants folded, of activations as straight-through grids."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from robustlab.deploy.foreign.onnx_constants import Codes, Constant, code_range, dequantize, working
from robustlab.deploy.foreign.onnx_nodes import Node
from robustlab.deploy.foreign.onnx_state import Grid, State, Unsupported


def quantize_linear(state: State, node: Node) -> None:
    """A constant becomes codes; an activation goes through a grid and keeps real values, its codes are noted."""
    scale, zero_point, low, high = _grid_of(state, node)
    axis = int(node.attributes.get("axis", 1))
    source, target = node.input(0), node.outputs[0]
    if node.attributes.get("block_size"):
        raise Unsupported("of an activation in blocks")
    if source in state.constants:
        x = working(state.constants[source])
        shape = [1] * x.ndim
        if scale.numel() > 1:
            shape[axis] = -1
        codes = (x / scale.reshape(shape)).round() + zero_point.reshape(shape if zero_point.numel() > 1 else [])
        kind = _code_type(state, node)
        state.constants[target] = Constant(codes.clamp(low, high).long(), kind)
        return
    if source in state.codes:
        raise Unsupported("of integers")
    x_name = state.value(source)
    if scale.numel() == 1:
        grid = Grid(float(scale), int(zero_point.reshape(-1)[0]), low, high)
        if state.levels.get(x_name) == grid:  # such as behind a pool: the values are levels already
            state.codes[target], state.values[target] = grid, x_name
            return
        attributes = {"scale": grid.scale, "zero_point": grid.zero_point, "low": low, "high": high}
        output = state.step(node, "Grid", [x_name], attributes)
        state.codes[target] = state.levels[output] = grid
    else:
        names = [state.keep(Constant(t.float(), onnx.TensorProto.FLOAT)) for t in (scale, zero_point)]
        attributes = {"low": low, "high": high, "axis": axis}
        output = state.step(node, "Grid", [x_name, *names], attributes)
        state.codes[target] = (scale, zero_point, axis, low, high)
    state.values[target] = output


def _code_type(state: State, node: Node) -> int:
    if node.input(2):
        return state.constants[node.input(2)].elem_type
    return int(node.attributes.get("output_dtype") or onnx.TensorProto.UINT8)


def _grid_of(state: State, node: Node) -> tuple[Tensor, Tensor, int, int]:
    """Scale, zero point, and the range of the codes."""
    scale = state.constant(node.input(1))
    zero_point = state.constant(node.input(2)) if node.input(2) else torch.zeros(1, dtype=torch.int64)
    limits = code_range(_code_type(state, node))
    if limits is None:
        raise Unsupported("to codes that are no integers")
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(f"its scale is {scale.reshape(-1)[0].item():g}; allowed: a positive finite number")
    return scale, zero_point, *limits


def dequantize_linear(state: State, node: Node) -> None:
    """A constant becomes real and its codes are noted; an activation is real already."""
    source, target = node.input(0), node.outputs[0]
    scale = state.constant(node.input(1))
    zero_point = state.constant(node.input(2)) if node.input(2) else torch.zeros((), dtype=torch.int64)
    axis, block = int(node.attributes.get("axis", 1)), int(node.attributes.get("block_size", 0))
    if source in state.constants:
        known = state.constants[source]
        axis = axis % max(known.tensor.ndim, 1)
        real = dequantize(known.tensor, scale, zero_point, axis, block)
        limits = code_range(known.elem_type)
        codes = None
        bits = 32 if limits is None else (limits[1] - limits[0]).bit_length()
        if limits is not None and not block and not zero_point.is_floating_point():
            codes = Codes(working(known), scale.reshape(-1), zero_point.reshape(-1), axis, bits)
        state.constants[target] = Constant(real, onnx.TensorProto.FLOAT, codes, bits)
        return
    grid = state.codes.get(source)
    if grid is None:
        raise Unsupported("of integers that no quantizer made")
    if not isinstance(grid, Grid):
        if torch.equal(grid[0], scale) and torch.equal(grid[1].reshape(-1), zero_point.reshape(-1)):
            state.values[target] = state.values[source]
            return
        raise Unsupported("by other scales than those of the quantizer")
    if scale.numel() > 1:
        raise Unsupported("by other scales than those of the quantizer")
    new_scale, new_zero = float(scale), int(zero_point.reshape(-1)[0])
    if (new_scale, new_zero) == (grid.scale, grid.zero_point):
        state.values[target] = state.values[source]
        return
    attributes = {
        "scale": grid.scale, "zero_point": grid.zero_point, "new_scale": new_scale, "new_zero_point": new_zero,
    }  # fmt: skip
    output = state.step(node, "Regrid", [state.values[source]], attributes)
    state.levels[output] = Grid(new_scale, new_zero, grid.low, grid.high)
    state.values[target] = output
