"""Questions about any model: its name, its identity, what its gradient is, what it stores and what it computes."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.compress.composed import Composed
from robustlab.compress.freeze import FrozenLayer
from robustlab.compress.layers import CompressedLayer
from robustlab.compress.parts import Parts
from robustlab.core.digest import describe_code, describe_module, update_digest
from robustlab.core.frozen import frozen
from robustlab.deploy.foreign.base import ForeignModel
from robustlab.deploy.foreign.torch_bits import tensor_bits, tensor_bytes
from robustlab.deploy.graph import unoptimized
from robustlab.deploy.packed import PackedLayer
from robustlab.kernels import weight_planes
from robustlab.models import info_of

FLOAT_BITS = 32


@dataclass(frozen=True)
class LayerCost:
    """What one convolution or linear layer does for one image.

    kind: ``float``, ``simulated`` or ``packed``; macs: multiply-accumulates; bits of 32 mean float32;
    weight_bytes: what the weights take in the model file.
    """

    name: str
    kind: str
    macs: int
    weight_bits: int
    activation_bits: int
    weight_bytes: int

    @property
    def bit_operations(self) -> int:
        """macs x weight bits x activation bits."""
        return self.macs * self.weight_bits * self.activation_bits


@dataclass(frozen=True)
class StoredBytes:
    """Bytes of a model's tensors in its file, and how many weights its packed layers have.

    payload: the bits of packed weights. scales: of packed layers, one per output channel. side: biases of packed
    layers, and what is composed around them (shifts, factors, output maps, second planes). rest: everything else, such
    as float layers and stored norms.
    """

    payload: int
    scales: int
    side: int
    rest: int
    weights: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.payload + self.scales + self.side + self.rest

    @property
    def bits_per_weight(self) -> float:
        """Payload, scales and side data in bits, by the weights of the packed layers; NaN without such layers."""
        return 8 * (self.payload + self.scales + self.side) / self.weights if self.weights else math.nan


def model_name(model: nn.Module) -> str:
    """The name used in results: the zoo's or file's name, else the class name."""
    info = info_of(model)
    return info.name if info else type(unoptimized(model)).__name__


def class_names(model: nn.Module) -> tuple[str, ...] | None:
    """Names of the classes, None if unknown."""
    info = info_of(model)
    return info.class_names if info else None


def input_size(model: nn.Module) -> tuple[int, int] | None:
    """(H, W) the model was made for, None if unknown."""
    info = info_of(model)
    return info.input_size if info else None


def is_compressed(model: nn.Module) -> bool:
    """True if any layer is compressed, simulated or packed, and for a foreign model, which no twin can be made of."""
    return isinstance(model, ForeignModel) or any(
        isinstance(m, (CompressedLayer, FrozenLayer, PackedLayer)) for m in model.modules()
    )


def gradient_kind(model: nn.Module) -> str:
    """``exact`` for a float model; ``surrogate:NAME`` where quantized layers stand in with a surrogate;
    ``none`` for a foreign model without one.
    """
    if isinstance(model, ForeignModel):
        return model.gradient
    names = {m.surrogate.name for m in model.modules() if isinstance(m, PackedLayer)}
    if any(isinstance(m, (CompressedLayer, FrozenLayer)) for m in model.modules()):
        names.add("ste")
    return "surrogate:" + "+".join(sorted(names)) if names else "exact"


def scheme(model: nn.Module) -> str:
    """``float32``, or the bits most weights have, such as ``w4a4``; ``unknown`` for what cannot be looked into."""
    if isinstance(model, ForeignModel):
        return model.scheme
    counts: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, CompressedLayer):
            counts[f"w{module.weight_bits}a{module.activation_bits}"] += module.weight.numel()
        elif isinstance(module, FrozenLayer):
            counts[f"w{module.scheme.weight_bits}a{module.scheme.activation_bits}"] += module.codes.numel()
        elif isinstance(module, PackedLayer):
            size = module.shape[0] * module.weight().taps
            counts[f"w{module.scheme.weight_bits}a{module.scheme.activation_bits}"] += size
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            weight, activation = tensor_bits(module.weight)
            name = "float32" if weight == activation == FLOAT_BITS else f"w{weight}a{activation}"
            counts[name] += module.weight.numel()
    return counts.most_common(1)[0][0] if counts else "float32"


def fingerprint(model: nn.Module) -> str:
    """sha256 (hex) over every named tensor, class name, extra_repr and plain attribute of a model, and its gradient.

    The code of ``forward`` counts where the class is the user's own, and of functions that a module holds. So does the
    order of tensors in memory where it is not the usual one: in channels-last layout torch takes other kernels, and the
    last bits of a float model are others. Two models with the same fingerprint give the same results, unless a module
    hides state elsewhere.
    """
    model = unoptimized(model)
    digest = hashlib.sha256(gradient_kind(model).encode())
    for name, module in model.named_modules():
        head, attributes = describe_module(name, module)
        digest.update(head.encode())
        if isinstance(module, PackedLayer):
            digest.update(repr(module.surrogate).encode())
        digest.update((attributes + describe_code(module)).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        update_digest(digest, name, tensor)
        if tensor.layout == torch.strided and not tensor.is_contiguous():
            digest.update(str(tensor.stride()).encode())
    return digest.hexdigest()


def stored_parts(model: nn.Module) -> StoredBytes:
    """Bytes of the tensors in the file `robustlab.save` writes, by what they are."""
    model = unoptimized(model)
    payload = scales = side = rest = weights = 0
    counted: list[str] = []
    composed: list[str] = []
    for name, module in model.named_modules():
        if name.startswith(tuple(counted)):
            continue
        inside = f"{name}." if name else ""
        if isinstance(module, Parts):
            payload += _parts_weight_bytes(module)
            scales += module.scales.nbytes
            side += sum(t.nbytes for t in module.buffers(recurse=False)) - module.scales.nbytes
            weights += module.scales.shape[1] * _taps(module)
            counted.append(inside)
        elif isinstance(module, PackedLayer):
            payload += _packed_weight_bytes(module)
            scales += module.scale.nbytes
            side += 0 if module.bias is None else module.bias.nbytes
            weights += module.shape[0] * module.weight().taps
            counted.append(inside)
        elif isinstance(module, Composed):
            composed.append(inside)
    for name, tensor in model.state_dict().items():
        if name.startswith(tuple(counted)):
            continue
        if name.startswith(tuple(composed)):
            side += tensor.nbytes
        else:
            rest += tensor_bytes(tensor)
    return StoredBytes(payload, scales, side, rest, weights)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the tensors in the file `robustlab.save` writes: packed planes, scales, biases, float remainder.

    For a foreign model the size of its file.
    """
    if isinstance(model, ForeignModel):
        return model.file_bytes
    return stored_parts(model).total


def _packed_weight_bytes(layer: PackedLayer) -> int:
    return layer.scheme.weight_bits * layer.shape[0] * -(-layer.weight().taps // 8)


def _parts_weight_bytes(layer: Parts) -> int:
    """Of the codes of all parts side by side, as they are in the file."""
    first = layer.layers[0]
    assert isinstance(first, (FrozenLayer, PackedLayer))
    return first.scheme.weight_bits * layer.scales.shape[1] * -(-_taps(layer) // 8)


def _taps(layer: Parts) -> int:
    parts = [part for part in layer.layers if isinstance(part, (FrozenLayer, PackedLayer))]
    return sum(part.codes[0].numel() if isinstance(part, FrozenLayer) else part.weight().taps for part in parts)


def layer_costs(model: nn.Module, images: Tensor) -> list[LayerCost]:
    """Costs of every convolution and linear layer, in the order they run, per image of `images` (N, 3, H, W).

    A layer that runs twice counts twice. Other operations (pooling, additions, norms, attention products) and weights
    that no convolution or linear layer owns are not counted.
    """
    if isinstance(model, ForeignModel):
        return model.layer_costs(images)
    model = unoptimized(model)
    costs: list[LayerCost] = []
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            costs.append(_cost(name, module, output.numel() // max(1, len(images))))

        handles.append(module.register_forward_hook(hook))

    inside: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, Parts):
            inside.append(name + ".")
        layer = isinstance(module, (CompressedLayer, FrozenLayer, PackedLayer, Parts, nn.Conv2d, nn.Linear))
        if layer and not name.startswith(tuple(inside)):
            watch(name, module)
    try:
        with frozen(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return costs


def _cost(name: str, module: nn.Module, outputs: int) -> LayerCost:
    if isinstance(module, Parts):
        first = module.layers[0]
        assert isinstance(first, (FrozenLayer, PackedLayer))
        bits, kind = (first.scheme.weight_bits, first.scheme.activation_bits), "simulated"
        kind = "packed" if isinstance(first, PackedLayer) else kind
        return LayerCost(name, kind, outputs * _taps(module), *bits, _parts_weight_bytes(module))
    if isinstance(module, PackedLayer):
        bits, taps = (module.scheme.weight_bits, module.scheme.activation_bits), module.weight().taps
        return LayerCost(name, "packed", outputs * taps, *bits, _packed_weight_bytes(module))
    if isinstance(module, FrozenLayer):
        bits, taps = (module.scheme.weight_bits, module.scheme.activation_bits), module.codes[0].numel()
        four = module.codes.reshape(len(module.codes), -1, 1, 1)
        planes = weight_planes(four, bits[0], module.scheme.weight_zero_point)
        return LayerCost(name, "simulated", outputs * taps, *bits, planes.nbytes)
    weight = module.get_parameter("weight")
    if isinstance(module, CompressedLayer):
        stored = module.weight_bits * len(weight) * -(-weight[0].numel() // 8)
        bits, kind = (module.weight_bits, module.activation_bits), "simulated"
        return LayerCost(name, kind, outputs * weight[0].numel(), *bits, stored)
    return LayerCost(name, "float", outputs * weight[0].numel(), FLOAT_BITS, FLOAT_BITS, weight.nbytes)
