"""Programs in plain torch: the definition that the native executor must equal bit for bit.

Values are NCHW tensors: float32, and for signs and codes their float form, -1/+1 and code - zero_point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.kernels import reference
from robustlab.kernels.program.nodes import Concat, Conv, Node, Pack, Pool, Quantize, Subsample, Value
from robustlab.kernels.program.steps import (
    Add,
    AddAll,
    AddValue,
    Clamp,
    Div,
    DivAll,
    Mul,
    MulAll,
    MulImage,
    MulPixel,
    OneNumber,
    PerChannel,
    Prelu,
    Relu,
    Scale,
    Step,
    Store,
    StoreBelow,
    StoreCodes,
    StoreInt,
    StoreSigns,
    Sub,
)


def interpret(
    values: tuple[Value, ...],
    nodes: tuple[Node, ...],
    inputs: dict[int, Tensor],
    scalars: Sequence[Tensor],
    outputs: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Run the nodes on inputs by handle and return the outputs; operands are not checked."""
    known = dict(inputs)
    for node in nodes:
        known.update(zip(node.results, _results(values, node, known, scalars), strict=True))
    return tuple(known[handle].contiguous() for handle in outputs)


def _results(
    values: tuple[Value, ...], node: Node, known: dict[int, Tensor], scalars: Sequence[Tensor]
) -> Sequence[Tensor]:
    if isinstance(node, Concat):
        return [torch.cat([known[value] for value in node.values], 1)]
    x = known[node.value]
    if isinstance(node, Pack):
        below = x < (0 if node.thresholds is None else _channels(node.thresholds))
        return [torch.where(below, -1.0, 1.0)]
    if isinstance(node, Quantize):
        x = x if node.sub is None else x - _channels(node.sub)
        x = x if node.div is None else x / _channels(node.div)
        return [reference.quantize(x, node.spec)]
    if isinstance(node, Subsample):
        taken = x[:, :, :: node.stride[0], :: node.stride[1]]
        return [F.pad(taken, (0, 0, 0, 0, node.front, node.back))]
    if isinstance(node, Conv):
        x = _accumulate(values[node.value], x, node)
    elif isinstance(node, Pool):
        x = _pooled(x, node)
    return _run_steps(x, node.steps, known, scalars)


def _channels(a: Tensor) -> Tensor:
    return a.view(1, -1, 1, 1)


def _accumulate(of: Value, x: Tensor, node: Conv) -> Tensor:
    """int32 accumulators (N, O, H', W')."""
    weight = node.weight
    if of.spec is None:
        return reference.binary_conv2d_acc(x, weight.data, weight.form, node.geometry)
    # x is code - zero_point already, which is what a scale of 1 makes of it
    whole = replace(of.spec, scale=1.0)
    return reference.quant_conv2d_acc(x, weight.data, weight.form, whole, node.geometry)


def _pooled(x: Tensor, node: Pool) -> Tensor:
    if node.kind == "max":
        return F.max_pool2d(x, node.kernel, node.stride, node.padding)
    windows = x.unfold(2, node.kernel[0], node.stride[0]).unfold(3, node.kernel[1], node.stride[1])
    total = windows[..., 0, 0]
    for tap in range(1, node.kernel[0] * node.kernel[1]):
        total = total + windows[..., tap // node.kernel[1], tap % node.kernel[1]]
    return total


def _run_steps(v: Tensor, steps: tuple[Step, ...], known: dict[int, Tensor], scalars: Sequence[Tensor]) -> list[Tensor]:
    """What the store steps make, in order."""
    made: list[Tensor] = []
    for step in steps:
        if isinstance(step, (Store, StoreInt)):
            made.append(v)
        elif isinstance(step, StoreBelow):
            made.append(torch.where((v < _channels(step.threshold)) ^ _channels(step.flip), -1.0, 1.0))
        elif isinstance(step, StoreSigns):
            made.append(reference.signs(v))
        elif isinstance(step, StoreCodes):
            made.append(reference.quantize(v, step.spec))
        elif isinstance(step, PerChannel):
            v = _per_channel(step, v, _channels(step.a))
        elif isinstance(step, OneNumber):
            v = _one_number(step, v, torch.tensor(step.number, dtype=torch.float32))
        elif isinstance(step, AddValue):
            v = v + known[step.value]
        elif isinstance(step, MulImage):
            v = v * scalars[step.scalar].view(-1, 1, 1, 1)
        elif isinstance(step, MulPixel):
            v = v * step.table.view(v.shape[2:])
        elif isinstance(step, Relu):
            v = torch.relu(v)
        elif isinstance(step, Clamp):
            v = v.clamp(step.low, step.high)
        else:
            raise TypeError(f"no such step: {step}")
    return made


def _per_channel(step: PerChannel, v: Tensor, a: Tensor) -> Tensor:
    if isinstance(step, Scale):
        return v.to(torch.float32) * a
    if isinstance(step, Mul):
        return v * a
    if isinstance(step, Add):
        return v + a
    if isinstance(step, Sub):
        return v - a
    if isinstance(step, Div):
        return v / a
    if isinstance(step, Prelu):
        return torch.where(v > 0, v, a * v)
    raise TypeError(f"no such step: {step}")


def _one_number(step: OneNumber, v: Tensor, number: Tensor) -> Tensor:
    if isinstance(step, MulAll):
        return v * number
    if isinstance(step, AddAll):
        return v + number
    if isinstance(step, DivAll):
        return v / number
    raise TypeError(f"no such step: {step}")
