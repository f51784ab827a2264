"""One layer of a model file: what is written of it, and what is checked before it is packed again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.compress.composed import COMPOSITIONS, Composed, Composition, compose
from robustlab.compress.freeze import build_parts
from robustlab.compress.layers import numeric_padding
from robustlab.compress.parts import Parts
from robustlab.core.errors import ModelFileError
from robustlab.deploy.packed import PackedLayer
from robustlab.deploy.schema import Layer, describe_layer
from robustlab.kernels import from_planes, weight_planes


def layer_contents(module: PackedLayer | Composed | Parts) -> tuple[Layer, dict[str, Tensor]]:
    """What the file says about a layer, and its tensors."""
    if isinstance(module, Parts):
        return _parts_contents(module)
    if isinstance(module, Composed):
        assert isinstance(module.layer, PackedLayer)
        packed, around, kind = module.layer, module.tensors(), module.kind
        bias = module.bias if module.outer_bias else packed.bias
    else:
        packed, around, kind, bias = module, {}, None, module.bias
    codes, scheme = packed.codes(), packed.scheme
    four = codes if codes.ndim == 4 else codes.reshape(*codes.shape, 1, 1)
    planes = weight_planes(four, scheme.weight_bits, scheme.weight_zero_point)
    tensors = {"planes": planes, "scale": packed.scale, **around}
    if bias is not None:
        tensors["bias"] = bias
    return describe_layer(scheme, packed.shape, kind), tensors


def packed_layer(
    where: str, model: nn.Module, name: str, layer: Layer, remaining: dict[str, Tensor]
) -> PackedLayer | Composed | Parts:
    """Check one layer of a file against the float layer it stands for, and pack it. Its tensors leave `remaining`.

    `where` names file and layer in the messages of `ModelFileError`.
    """
    try:
        original = model.get_submodule(name)
    except AttributeError as error:
        raise ModelFileError(f"{where} is not in the architecture") from error
    shape = (layer.shape[0], layer.shape[1], layer.shape[2], layer.shape[3])
    scheme = layer.scheme()
    if isinstance(original, nn.Conv2d):
        expected = tuple(original.weight.shape)
        g = scheme.geometry
        found = (g.stride, g.padding, g.dilation, g.groups, g.padding_value) if g else None
        wanted = (original.stride, numeric_padding(original), original.dilation, original.groups, "zero")
        if found != wanted:
            raise ModelFileError(f"{where} has geometry {found}; allowed: {wanted}")
    elif isinstance(original, nn.Linear) and scheme.geometry is None:
        expected = (*original.weight.shape, 1, 1)
    else:
        raise ModelFileError(f"{where} stands for a {type(original).__name__}; allowed: Conv2d or Linear")
    if shape != expected:
        raise ModelFileError(f"{where} has shape {shape}; allowed: {expected}")
    scheme.check_accumulator(shape[1] * shape[2] * shape[3])
    planes, scale = remaining.pop(f"{name}.planes", None), remaining.pop(f"{name}.scale", None)
    bias = remaining.pop(f"{name}.bias", None)
    if planes is None or scale is None:
        raise ModelFileError(f"{where} lacks its planes or its scale")
    for label, vector in (("scale", scale), ("bias", bias)):
        if vector is not None:
            parts = label == "scale" and layer.group_size is not None
            _check_vector(f"{where}: {label}", vector, (_parts(layer), shape[0]) if parts else (shape[0],))
    codes = from_planes(planes, scheme.weight_bits, shape, scheme.weight_zero_point)
    codes = codes if scheme.geometry else codes.flatten(1)
    if layer.group_size is not None:
        zero_points = remaining.pop(f"{name}.zero_points", None)
        _check_zero_points(f"{where}: zero_points", zero_points, layer)
        return build_parts(PackedLayer, codes, scale, zero_points, bias, layer.group_size, scheme)
    if layer.composition is None:
        return PackedLayer(codes, scale, bias, scheme).eval()
    kind = COMPOSITIONS[layer.composition]
    inputs = shape[1] * (1 if scheme.geometry is None else scheme.geometry.groups)
    around: dict[str, Tensor] = {}
    for label, length in kind.lengths.items():
        tensor = remaining.pop(f"{name}.{label}", None)
        if tensor is None:
            raise ModelFileError(f"{where} lacks its {label}")
        sizes = {"inputs": (inputs,), "any": (tensor.numel(),), "one": ()}
        _check_vector(f"{where}: {label}", tensor, sizes[length])
        around[label] = tensor
    packed = PackedLayer(codes, scale, None if kind.outer_bias else bias, scheme)
    return compose(Composition(layer.composition, around), packed, bias).eval()


def _parts_contents(module: Parts) -> tuple[Layer, dict[str, Tensor]]:
    """The codes of all parts side by side. What only adds up inputs is not written: it follows from the rest."""
    layers = [layer for layer in module.layers if isinstance(layer, PackedLayer)]
    assert len(layers) == len(module.layers)
    codes = torch.cat([layer.codes() for layer in layers], dim=1)
    four = codes if codes.ndim == 4 else codes.reshape(*codes.shape, 1, 1)
    scheme = layers[0].scheme
    planes = weight_planes(four, scheme.weight_bits, scheme.weight_zero_point)
    extra = {"zero_points": module.zero_points, "bias": module.bias}
    given = {label: tensor for label, tensor in extra.items() if tensor is not None}
    tensors = {"planes": planes, "scale": module.scales, **given}
    shape = (four.shape[0], four.shape[1], four.shape[2], four.shape[3])
    return describe_layer(scheme, shape, Parts.kind, module.size), tensors


def _parts(layer: Layer) -> int:
    assert layer.group_size is not None
    return -(-layer.shape[1] // layer.group_size)


def _check_zero_points(what: str, tensor: Tensor | None, layer: Layer) -> None:
    if tensor is None:
        return
    shape, half = (_parts(layer), layer.shape[0]), 1 << (layer.weight_bits - 1)
    if tensor.dtype != torch.int8 or tuple(tensor.shape) != shape:
        raise ModelFileError(f"{what} is {tensor.dtype} of shape {tuple(tensor.shape)}; allowed: int8 {shape}")
    if not bool(((tensor.int() >= -half) & (tensor.int() < half)).all()):
        raise ModelFileError(f"{what} leaves the codes; allowed: {-half} to {half - 1}")


def _check_vector(what: str, vector: Tensor, shape: tuple[int, ...]) -> None:
    if vector.dtype != torch.float32 or tuple(vector.shape) != shape:
        raise ModelFileError(f"{what} is {vector.dtype} of shape {tuple(vector.shape)}; allowed: float32 {shape}")
    if not bool(torch.isfinite(vector).all()):
        raise ModelFileError(f"{what} holds NaN or infinity; allowed: finite numbers")
