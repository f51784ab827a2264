"""Holds the layers of a compressed model to the contract: exactness, levels, scales, determinism, honest bytes."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.compress.composed import Composed
from robustlab.compress.deployable import classify
from robustlab.compress.freeze import FrozenLayer, freeze_layer
from robustlab.compress.layers import CompressedConv2d, CompressedLayer
from robustlab.compress.parts import Parts, parts_grid
from robustlab.core.digest import tensors_digest
from robustlab.core.errors import RobustlabError, invalid
from robustlab.core.frozen import frozen
from robustlab.kernels import weight_planes

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class LayerReport:
    """What a layer was found to be.

    kind: its class, see `robustlab.compress.contract.DEPLOYABILITY`; levels: the most different values in a row of
    weights, or in a group of it. Bytes in the model file: payload (the weights' bits), scales (one per output channel,
    or group in it) and side data (bias, zero points, shifts, factors). error: largest difference of the frozen from the
    fake-quantized output, as a share of its range.
    """

    name: str
    algorithm: str
    kind: str
    levels: int
    weights: int
    payload_bytes: int
    scale_bytes: int
    side_bytes: int
    error: float

    @property
    def bits_per_weight(self) -> float:
        """All bytes of the layer, in bits, by its weights."""
        return 8 * (self.payload_bytes + self.scale_bytes + self.side_bytes) / self.weights


def check_model(model: nn.Module, images: Tensor, *, factorable: bool = False) -> tuple[LayerReport, ...]:
    """Check every compressed layer on what it sees of `images` (N, 3, H, W), and report. `model` is left alone.

    Exactness: fake-quantized weights are the frozen codes less their zero point, times the frozen scale, bit for bit,
    and so are fake-quantized inputs on a grid; outputs agree to 1e-5 of their range. Factorability: a row has one
    scale. Level count, class and bytes are those that are claimed. Determinism: freezing twice gives the same bytes.
    Raises `RobustlabError` that names layer and rule. Layers that cannot be deployed are refused, or with `factorable`
    checked in the form that can.
    """
    model = copy.deepcopy(model).eval()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, CompressedLayer)}
    if not layers:
        raise invalid("model", type(model).__name__, "a compressed model, from robustlab.compress(...)")
    for layer in layers.values():
        for coder in layer.coders() if factorable else ():
            coder.make_factorable()
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> None:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            seen[name] = inputs[0].detach().clone()

        layers[name].register_forward_hook(note)

    for name in layers:
        hook(name)
    with frozen(model), torch.no_grad():
        model(images)
        return tuple(check_layer(name, layer, seen[name]) for name, layer in layers.items() if name in seen)


@torch.no_grad()
def check_layer(name: str, layer: CompressedLayer, x: Tensor) -> LayerReport:
    """Check one layer in eval mode on one input; see `check_model`."""
    result, again = freeze_layer(name, layer), freeze_layer(name, layer)
    if tensors_digest(dict(result.state_dict())) != tensors_digest(dict(again.state_dict())):
        raise _broken(name, "freezing it twice gives two results")
    kind = "P" if isinstance(result, FrozenLayer) else result.deployability
    allowed = _claimed(layer)
    if kind not in allowed:
        raise _broken(name, f"it claims the class {' or '.join(allowed)} and is {kind}")
    inner = _integers(result)[0]
    levels = _check_weights(name, layer, result)
    _check_input(name, layer, inner, x)
    wanted, found = layer(x), result(x)
    error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)) if wanted.numel() else 0.0
    if not error <= _TOLERANCE:
        raise _broken(name, f"frozen and fake-quantized outputs differ by {error:.2g} of their range")
    scheme = inner.scheme
    codes = torch.cat([part.codes for part in _integers(result)], dim=1)
    four = codes.reshape(len(codes), -1, 1, 1)
    payload = weight_planes(four, scheme.weight_bits, scheme.weight_zero_point).nbytes
    least = scheme.weight_bits * len(four) * -(-four[0].numel() // 8)
    if payload != least:
        raise _broken(name, f"its weights take {payload} bytes where {scheme.weight_bits} bits each take {least}")
    if isinstance(result, Parts):
        scales, total = result.scales.nbytes, sum(tensor.nbytes for tensor in result.buffers(recurse=False))
    else:
        scales = inner.scale.nbytes
        total = sum(tensor.nbytes for tensor in result.state_dict().values()) - inner.codes.nbytes
    of = classify(name, layer).algorithm
    return LayerReport(name, of, kind, levels, codes.numel(), payload, scales, total - scales, error)


def _claimed(layer: CompressedLayer) -> tuple[str, ...]:
    """The classes that the algorithm leaves open: its own, for a linear layer P as well, P for X made factorable."""
    if layer.algorithm is None:
        return ("P",) if parts_grid(layer) is None else (Parts.deployability,)
    own = layer.algorithm.deployability
    if own == "X":
        return ("P",)
    return (own,) if isinstance(layer, CompressedConv2d) else (own, "P")


def _broken(name: str, what: str) -> RobustlabError:
    return RobustlabError(f"layer {name} breaks the contract: {what}")


def _integers(result: FrozenLayer | Composed | Parts) -> list[FrozenLayer]:
    """The integer layers that hold the weights."""
    if isinstance(result, Parts):
        return [part for part in result.layers if isinstance(part, FrozenLayer)]
    inner = result.layer if isinstance(result, Composed) else result
    assert isinstance(inner, FrozenLayer)
    return [inner]


def _check_parts(name: str, layer: CompressedLayer, result: Parts) -> int:
    """The same for a sum of parts, each with its own scales."""
    grid = parts_grid(layer)
    assert grid is not None
    parts = _integers(result)
    codes = torch.cat([part.codes for part in parts], dim=1).float()
    if not torch.equal(layer.quantize_weight(layer.weight), grid.values(codes)):
        raise _broken(name, "fake-quantized weights are not the frozen codes, less zero points, times scales of groups")
    if result.zero_points is not None and not torch.equal(result.zero_points.float().T, grid.zero_point):
        raise _broken(name, "its zero points are not those of its grid")
    return max(len(row.unique()) for part in parts for row in part.codes.flatten(1))


def _check_weights(name: str, layer: CompressedLayer, result: FrozenLayer | Composed | Parts) -> int:
    """Levels found in a row, or in a group of it, after comparing weights with codes and scales."""
    if isinstance(result, Parts):
        levels = _check_parts(name, layer, result)
    else:
        levels = _check_rows(name, layer, _integers(result)[0])
    if levels > layer.quantize_weight.levels:
        raise _broken(name, f"a row of weights has {levels} levels, of {layer.quantize_weight.levels} promised")
    return levels


def _check_rows(name: str, layer: CompressedLayer, inner: FrozenLayer) -> int:
    scale = inner.scale
    if inner.scheme.activation is not None:
        scale = layer.quantize_weight.codes(layer.weight)[1].float()
        scale = scale.flatten() if scale.ndim == 2 else scale
    if scale.shape != (len(layer.weight),):
        raise _broken(name, f"its scales have the shape {tuple(scale.shape)}, not one for every output channel")
    shape = (-1, *([1] * (layer.weight.ndim - 1)))
    if not torch.equal(layer.quantize_weight(layer.weight), inner.levels(torch.float32) * scale.reshape(shape)):
        raise _broken(name, "fake-quantized weights are not the frozen codes times one scale per output channel")
    return max(len(row.unique()) for row in inner.codes.flatten(1))


def _check_input(name: str, layer: CompressedLayer, inner: FrozenLayer, x: Tensor) -> None:
    activation = inner.scheme.activation
    if activation is None:
        return
    step = torch.tensor(activation.scale, dtype=torch.float32)
    edges = step * torch.arange(-1, 1 << activation.bits).add(0.5 - activation.zero_point)  # where codes change
    for values in (x, edges):
        if not torch.equal(layer.quantize_input(values), inner.input_codes(values) * step):
            raise _broken(name, "fake-quantized inputs are not the frozen codes times the step")
