"""The kernels as torch operators `torch.ops.robustlab.*`: checked arguments, CPU implementation, fake implementation.

The operators are forward only and take flat arguments; `robustlab.kernels` wraps them with the dataclasses:
    shape     (O, C/groups, kh, kw)
    geometry  (stride, stride, padding, padding, dilation, dilation, groups, index of the padding value)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from types import ModuleType

import torch
from torch import Tensor

from robustlab.core.errors import check_int, invalid
from robustlab.kernels import dispatch, reference
from robustlab.kernels.layout import largest_code, packed_bytes
from robustlab.kernels.spec import PADDING_VALUES, ActivationSpec, ConvGeometry, check_accumulator, shown

_BINARY = "Tensor x, Tensor weight, int[] shape"
_QUANT = "Tensor x, Tensor weight, int[] shape, int bits, float scale_x, int zero_point, int bits_x"
_AFFINE = "Tensor scale, Tensor? bias"

SCHEMAS = {
    "binary_conv2d": f"({_BINARY}, {_AFFINE}, int[] geometry) -> Tensor",
    "binary_conv2d_acc": f"({_BINARY}, int[] geometry) -> Tensor",
    "quant_conv2d": f"({_QUANT}, {_AFFINE}, int[] geometry) -> Tensor",
    "quant_conv2d_acc": f"({_QUANT}, int[] geometry) -> Tensor",
    "binary_linear": f"({_BINARY}, {_AFFINE}) -> Tensor",
    "quant_linear": f"({_QUANT}, {_AFFINE}) -> Tensor",
}

_library = torch.library.Library("robustlab", "FRAGMENT")
Ints = Sequence[int]
Shape = tuple[int, int, int, int]
Affine = tuple[Tensor, Tensor | None]
_POINTWISE = (1, 1, 0, 0, 1, 1, 1, 0)


def flat_geometry(geometry: ConvGeometry) -> tuple[int, ...]:
    """The flat form of a geometry that the operators take."""
    padding_value = PADDING_VALUES.index(geometry.padding_value)
    return (*geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups, padding_value)


@lru_cache(maxsize=1024)
def _geometry(flat: tuple[int, ...]) -> ConvGeometry:
    if len(flat) != 8:
        raise invalid("geometry", flat, "8 whole numbers: stride, padding, dilation, groups, padding value")
    padding_value = PADDING_VALUES[check_int("padding value", flat[7], 0, len(PADDING_VALUES) - 1)]
    return ConvGeometry((flat[0], flat[1]), (flat[2], flat[3]), (flat[4], flat[5]), flat[6], padding_value)


def _shape(flat: Ints) -> Shape:
    if len(flat) != 4 or min(flat) < 1:
        raise invalid("shape", tuple(flat), "(O, C/groups, kh, kw)")
    out, channels, height, width = flat
    return out, channels, height, width


@lru_cache(maxsize=1024)
def _packed(flat: tuple[int, ...], bits: int) -> tuple[Shape, int]:
    """The checked shape, and the bytes its prepacked weights take."""
    shape = _shape(flat)
    return shape, packed_bytes(shape, check_int("bits", bits, 1, 8))


@lru_cache(maxsize=1024)
def _activation(scale: float, zero_point: int, bits: int) -> ActivationSpec:
    return ActivationSpec(scale, zero_point, bits)


def _check_weight(weight: Tensor, flat: Ints, bits: int) -> Shape:
    shape, size = _packed(tuple(flat), bits)
    if weight.dtype != torch.uint8 or weight.shape != (size,) or not weight.is_contiguous():
        raise invalid("weight", shown(weight), f"a prepacked uint8 tensor ({size},)")
    return shape


def _check_affine(scale: Tensor, bias: Tensor | None, out: int) -> Affine:
    for name, tensor in (("scale", scale), ("bias", bias)):
        if tensor is not None and (tensor.dtype != torch.float32 or tensor.shape != (out,)):
            raise invalid(name, shown(tensor), f"a float32 tensor ({out},)")
    return scale, bias


def _output_shape(image: tuple[int, ...], shape: Shape, geometry: ConvGeometry) -> tuple[int, int, int, int]:
    """Check the shape of x against the weights and return that of the output."""
    out, channels, height, width = shape
    if len(image) != 4 or image[1] != channels * geometry.groups or image[2] == 0 or image[3] == 0:
        raise invalid("x", image, f"a tensor (N, {channels * geometry.groups}, H, W) with H, W >= 1")
    if out % geometry.groups:
        raise invalid("groups", geometry.groups, f"a divisor of the {out} output channels")
    return (image[0], out, *geometry.output_size((image[2], image[3]), (height, width)))


_cached_output_shape = lru_cache(maxsize=4096)(_output_shape)


def _check_float(x: Tensor) -> None:
    if x.dtype != torch.float32:
        raise invalid("x", shown(x), "a float32 tensor")


def _check_rows(x: Tensor, shape: Shape) -> None:
    if shape[2:] != (1, 1):
        raise invalid("shape", shape, "(O, K, 1, 1)")
    _check_float(x)
    if x.ndim < 1 or x.shape[-1] != shape[1]:
        raise invalid("x", shown(x), f"a tensor (..., {shape[1]})")


def _native() -> ModuleType | None:
    return None if dispatch.backend() == "reference" else dispatch.extension()


class _Call:
    """Checked operands on their way to the extension: tensors kept alive here, their addresses handed over."""

    def __init__(self, x: Tensor, weight: Tensor, shape: Shape, affine: Affine | None, geometry: Ints, output: Ints):
        scale, bias = affine or (None, None)
        for name, tensor in (("x", x), ("weight", weight), ("scale", scale), ("bias", bias)):
            if tensor is not None and not tensor.is_cpu:
                raise invalid(name, shown(tensor), "a tensor on the cpu")
        self.x = x.contiguous()
        self.scale = scale.contiguous() if scale is not None else None
        self.bias = bias.contiguous() if bias is not None else None
        self.y = torch.empty(output, dtype=torch.int32 if affine is None else torch.float32)
        self.arguments = (
            dispatch.backend(),
            torch.get_num_threads(),
            (self.x.data_ptr(), self.x.numel()),
            (weight.data_ptr(), weight.numel()),
            self.scale.data_ptr() if self.scale is not None else 0,
            self.bias.data_ptr() if self.bias is not None else 0,
            (self.y.data_ptr(), self.y.numel()),
            (*x.shape, *shape),
            tuple(geometry[:7]),
        )


def _binary(x: Tensor, weight: Tensor, shape: Shape, affine: Affine | None, flat: Ints) -> Tensor:
    geometry = _geometry(tuple(flat))
    _check_float(x)
    output = _cached_output_shape(x.shape, shape, geometry)
    native = _native()
    if native is not None:
        call = _Call(x, weight, shape, affine, flat, output)
        native.binary_conv2d(*call.arguments, flat[7])
        return call.y
    acc = reference.binary_conv2d_acc(x, weight, shape, geometry)
    return acc if affine is None else reference.affine(acc, *affine)


def _quant(
    x: Tensor,
    weight: Tensor,
    shape: Shape,
    bits: int,
    activation: ActivationSpec,
    affine: Affine | None,
    flat: Ints,
) -> Tensor:
    geometry = _geometry(tuple(flat))
    if geometry.padding_value != "zero":
        raise invalid("padding_value", geometry.padding_value, "zero for a quantized layer")
    check_accumulator(prod(shape[1:]), activation.largest, largest_code(bits))
    _check_float(x)
    output = _cached_output_shape(x.shape, shape, geometry)
    native = _native()
    if native is not None:
        call = _Call(x, weight, shape, affine, flat, output)
        native.quant_conv2d(*call.arguments, bits, activation.scale, activation.zero_point, activation.bits)
        return call.y
    acc = reference.quant_conv2d_acc(x, weight, shape, bits, activation, geometry)
    return acc if affine is None else reference.affine(acc, *affine)


def _binary_conv2d(
    x: Tensor, weight: Tensor, shape: Ints, scale: Tensor, bias: Tensor | None, geometry: Ints
) -> Tensor:
    checked = _check_weight(weight, shape, 1)
    return _binary(x, weight, checked, _check_affine(scale, bias, checked[0]), geometry)


def _binary_conv2d_acc(x: Tensor, weight: Tensor, shape: Ints, geometry: Ints) -> Tensor:
    return _binary(x, weight, _check_weight(weight, shape, 1), None, geometry)


def _quant_conv2d(
    x: Tensor,
    weight: Tensor,
    shape: Ints,
    bits: int,
    scale_x: float,
    zero_point: int,
    bits_x: int,
    scale: Tensor,
    bias: Tensor | None,
    geometry: Ints,
) -> Tensor:
    checked = _check_weight(weight, shape, bits)
    affine = _check_affine(scale, bias, checked[0])
    return _quant(x, weight, checked, bits, _activation(scale_x, zero_point, bits_x), affine, geometry)


def _quant_conv2d_acc(
    x: Tensor, weight: Tensor, shape: Ints, bits: int, scale_x: float, zero_point: int, bits_x: int, geometry: Ints
) -> Tensor:
    checked = _check_weight(weight, shape, bits)
    return _quant(x, weight, checked, bits, _activation(scale_x, zero_point, bits_x), None, geometry)


def _as_image(x: Tensor, shape: Shape) -> Tensor:
    _check_rows(x, shape)
    return x.reshape(prod(x.shape[:-1]), shape[1], 1, 1)


def _binary_linear(x: Tensor, weight: Tensor, shape: Ints, scale: Tensor, bias: Tensor | None) -> Tensor:
    checked = _check_weight(weight, shape, 1)
    affine = _check_affine(scale, bias, checked[0])
    return _binary(_as_image(x, checked), weight, checked, affine, _POINTWISE).view(*x.shape[:-1], checked[0])


def _quant_linear(
    x: Tensor,
    weight: Tensor,
    shape: Ints,
    bits: int,
    scale_x: float,
    zero_point: int,
    bits_x: int,
    scale: Tensor,
    bias: Tensor | None,
) -> Tensor:
    checked = _check_weight(weight, shape, bits)
    affine = _check_affine(scale, bias, checked[0])
    activation = _activation(scale_x, zero_point, bits_x)
    y = _quant(_as_image(x, checked), weight, checked, bits, activation, affine, _POINTWISE)
    return y.view(*x.shape[:-1], checked[0])


def _fake_conv2d(x: Tensor, shape: Ints, geometry: Ints, dtype: torch.dtype) -> Tensor:
    _check_float(x)
    return x.new_empty(_output_shape(x.shape, _shape(shape), _geometry(tuple(geometry))), dtype=dtype)


def _fake_linear(x: Tensor, shape: Ints) -> Tensor:
    _check_rows(x, _shape(shape))
    return x.new_empty((*x.shape[:-1], shape[0]))


_CPU: dict[str, Callable[..., Tensor]] = {
    "binary_conv2d": _binary_conv2d,
    "binary_conv2d_acc": _binary_conv2d_acc,
    "quant_conv2d": _quant_conv2d,
    "quant_conv2d_acc": _quant_conv2d_acc,
    "binary_linear": _binary_linear,
    "quant_linear": _quant_linear,
}

_FAKE: dict[str, Callable[..., Tensor]] = {
    "binary_conv2d": lambda x, weight, shape, *rest: _fake_conv2d(x, shape, rest[-1], torch.float32),
    "binary_conv2d_acc": lambda x, weight, shape, *rest: _fake_conv2d(x, shape, rest[-1], torch.int32),
    "quant_conv2d": lambda x, weight, shape, *rest: _fake_conv2d(x, shape, rest[-1], torch.float32),
    "quant_conv2d_acc": lambda x, weight, shape, *rest: _fake_conv2d(x, shape, rest[-1], torch.int32),
    "binary_linear": lambda x, weight, shape, *rest: _fake_linear(x, shape),
    "quant_linear": lambda x, weight, shape, *rest: _fake_linear(x, shape),
}

for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _CPU[_name], "CPU")
    torch.library.register_fake(f"robustlab::{_name}", _FAKE[_name], lib=_library)
