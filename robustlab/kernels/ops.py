"""The kernels as torch operators `torch.ops.robustlab.*`: checked arguments, CPU implementation, fake implementation.

The operators are forward only and take flat arguments; `robustlab.kernels` wraps them with the dataclasses:
    form      (O, C/groups, kh, kw, bits, groups, activation bits (0: signs), lines, twice the weights' zero point)
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
from robustlab.kernels.prepack import WeightForm, cached_form
from robustlab.kernels.spec import (
    PADDING_VALUES,
    ActivationSpec,
    ConvGeometry,
    check_accumulator,
    largest_weight,
    shown,
)

_BINARY = "Tensor x, Tensor weight, int[] form"
_QUANT = "Tensor x, Tensor weight, int[] form, float scale_x, float zero_point"
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
Affine = tuple[Tensor, Tensor | None]
_POINTWISE = (1, 1, 0, 0, 1, 1, 1, 0)


def flat_geometry(geometry: ConvGeometry) -> tuple[int, ...]:
    """The flat form of a geometry that the operators take."""
    padding_value = PADDING_VALUES.index(geometry.padding_value)
    return (*geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups, padding_value)


def flat_form(form: WeightForm) -> tuple[int, ...]:
    """The flat form of a weight's form that the operators take."""
    doubled = round(2 * form.zero_point)
    return (*form.shape, form.bits, form.groups, form.activation_bits, int(form.lines), doubled)


@lru_cache(maxsize=1024)
def _geometry(flat: tuple[int, ...]) -> ConvGeometry:
    if len(flat) != 8:
        raise invalid("geometry", flat, "8 whole numbers: stride, padding, dilation, groups, padding value")
    padding_value = PADDING_VALUES[check_int("padding value", flat[7], 0, len(PADDING_VALUES) - 1)]
    return ConvGeometry((flat[0], flat[1]), (flat[2], flat[3]), (flat[4], flat[5]), flat[6], padding_value)


@lru_cache(maxsize=4096)
def _form(flat: tuple[int, ...]) -> tuple[WeightForm, int]:
    """The checked form, and the bytes of its prepacked weights."""
    if len(flat) != 9:
        raise invalid("form", flat, "9 whole numbers, see robustlab.kernels.ops")
    form = cached_form((flat[0], flat[1], flat[2], flat[3]), flat[4], flat[5], flat[6], bool(flat[7]), flat[8] / 2)
    return form, form.packed_bytes


@lru_cache(maxsize=4096)
def _activation(scale: float, zero_point: float, bits: int) -> ActivationSpec:
    return ActivationSpec(scale, zero_point, bits)


def _checked_form(weight: Tensor, flat: Ints, binary: bool) -> WeightForm:
    form, size = _form(tuple(flat))
    if weight.dtype != torch.uint8 or weight.shape != (size,) or not weight.is_contiguous():
        raise invalid("weight", shown(weight), f"a prepacked uint8 tensor ({size},)")
    if binary != (form.activation_bits == 0):
        allowed = "weights packed for signs" if binary else "weights packed for activations of 1 to 8 bits"
        raise invalid("form", tuple(flat), allowed)
    return form


def _check_affine(scale: Tensor, bias: Tensor | None, out: int) -> Affine:
    if scale is None:  # torch lets None through where a tensor is asked for
        raise invalid("scale", scale, f"a float32 tensor ({out},)")
    for name, tensor in (("scale", scale), ("bias", bias)):
        if tensor is not None and (tensor.dtype != torch.float32 or tensor.shape != (out,)):
            raise invalid(name, shown(tensor), f"a float32 tensor ({out},)")
    return scale, bias


def _output_shape(image: tuple[int, ...], form: WeightForm, geometry: ConvGeometry) -> tuple[int, int, int, int]:
    """Check the geometry and the shape of x against the weights and return the shape of the output."""
    out, channels, height, width = form.shape
    if geometry.groups != form.groups:
        raise invalid("geometry", geometry, f"the {form.groups} groups the weights were packed for")
    if form.groups == 1 and width > 1 and form.lines != (geometry.dilation[1] == 1):
        packed = "1" if form.lines else "above 1"
        raise invalid("geometry", geometry, f"a horizontal dilation {packed}, for which the weights were packed")
    if len(image) != 4 or image[1] != channels * geometry.groups or image[2] == 0 or image[3] == 0:
        raise invalid("x", image, f"a tensor (N, {channels * geometry.groups}, H, W) with H, W >= 1")
    return (image[0], out, *geometry.output_size((image[2], image[3]), (height, width)))


_cached_output_shape = lru_cache(maxsize=4096)(_output_shape)


def _check_float(x: Tensor) -> None:
    if x.dtype != torch.float32:
        raise invalid("x", shown(x), "a float32 tensor")


def _check_rows(x: Tensor, form: WeightForm) -> None:
    if form.shape[2:] != (1, 1):
        raise invalid("form", form.shape, "(O, K, 1, 1)")
    _check_float(x)
    if x.ndim < 1 or x.shape[-1] != form.shape[1]:
        raise invalid("x", shown(x), f"a tensor (..., {form.shape[1]})")


def native_kernels() -> ModuleType | None:
    """The extension, or None where the reference kernels run."""
    return None if dispatch.backend() == "reference" else dispatch.extension()


def _run_native(
    native: ModuleType,
    x: Tensor,
    weight: Tensor,
    form: Ints,
    affine: Affine | None,
    geometry: Ints,
    output: Ints,
    activation: ActivationSpec | None,
) -> Tensor:
    """Hand checked operands to the extension, by address; the tensors are kept alive here."""
    scale, bias = affine or (None, None)
    for name, tensor in (("x", x), ("weight", weight), ("scale", scale), ("bias", bias)):
        if tensor is not None and not tensor.is_cpu:
            raise invalid(name, shown(tensor), "a tensor on the cpu")
    x = x.contiguous()
    scale = scale.contiguous() if scale is not None else None
    bias = bias.contiguous() if bias is not None else None
    y = torch.empty(output, dtype=torch.int32 if affine is None else torch.float32)
    native.conv2d(
        dispatch.backend(),
        torch.get_num_threads(),
        (x.data_ptr(), x.numel()),
        (weight.data_ptr(), weight.numel()),
        scale.data_ptr() if scale is not None else 0,
        bias.data_ptr() if bias is not None else 0,
        (y.data_ptr(), y.numel()),
        tuple(x.shape),
        tuple(form),
        tuple(geometry),
        1.0 if activation is None else activation.scale,
        0 if activation is None else activation.doubled_zero,
    )
    return y


def _binary(x: Tensor, weight: Tensor, flat: Ints, affine: Affine | None, geometry: Ints, form: WeightForm) -> Tensor:
    place = _geometry(tuple(geometry))
    _check_float(x)
    output = _cached_output_shape(x.shape, form, place)
    native = native_kernels()
    if native is not None:
        return _run_native(native, x, weight, flat, affine, geometry, output, None)
    acc = reference.binary_conv2d_acc(x, weight, form, place)
    return acc if affine is None else reference.affine(acc, *affine)


def _quant(
    x: Tensor,
    weight: Tensor,
    flat: Ints,
    activation: ActivationSpec,
    affine: Affine | None,
    geometry: Ints,
    form: WeightForm,
) -> Tensor:
    place = _geometry(tuple(geometry))
    if place.padding_value != "zero":
        raise invalid("padding_value", place.padding_value, "zero for a quantized layer")
    check_accumulator(prod(form.shape[1:]), activation.largest, largest_weight(form.bits, form.zero_point))
    _check_float(x)
    output = _cached_output_shape(x.shape, form, place)
    native = native_kernels()
    if native is not None:
        return _run_native(native, x, weight, flat, affine, geometry, output, activation)
    acc = reference.quant_conv2d_acc(x, weight, form, activation, place)
    return (
        acc if affine is None else reference.affine(acc, reference.unit_scale(affine[0], form, activation), affine[1])
    )


def _binary_conv2d(x: Tensor, weight: Tensor, form: Ints, scale: Tensor, bias: Tensor | None, geometry: Ints) -> Tensor:
    checked = _checked_form(weight, form, True)
    return _binary(x, weight, form, _check_affine(scale, bias, checked.shape[0]), geometry, checked)


def _binary_conv2d_acc(x: Tensor, weight: Tensor, form: Ints, geometry: Ints) -> Tensor:
    return _binary(x, weight, form, None, geometry, _checked_form(weight, form, True))


def _quant_conv2d(
    x: Tensor,
    weight: Tensor,
    form: Ints,
    scale_x: float,
    zero_point: float,
    scale: Tensor,
    bias: Tensor | None,
    geometry: Ints,
) -> Tensor:
    checked = _checked_form(weight, form, False)
    affine = _check_affine(scale, bias, checked.shape[0])
    activation = _activation(scale_x, zero_point, checked.activation_bits)
    return _quant(x, weight, form, activation, affine, geometry, checked)


def _quant_conv2d_acc(
    x: Tensor, weight: Tensor, form: Ints, scale_x: float, zero_point: float, geometry: Ints
) -> Tensor:
    checked = _checked_form(weight, form, False)
    activation = _activation(scale_x, zero_point, checked.activation_bits)
    return _quant(x, weight, form, activation, None, geometry, checked)


def _as_image(x: Tensor, form: WeightForm) -> Tensor:
    _check_rows(x, form)
    return x.reshape(prod(x.shape[:-1]), form.shape[1], 1, 1)


def _binary_linear(x: Tensor, weight: Tensor, form: Ints, scale: Tensor, bias: Tensor | None) -> Tensor:
    checked = _checked_form(weight, form, True)
    out = checked.shape[0]
    image = _as_image(x, checked)
    y = _binary(image, weight, form, _check_affine(scale, bias, out), _POINTWISE, checked)
    return y.view(*x.shape[:-1], out)


def _quant_linear(
    x: Tensor, weight: Tensor, form: Ints, scale_x: float, zero_point: float, scale: Tensor, bias: Tensor | None
) -> Tensor:
    checked = _checked_form(weight, form, False)
    out = checked.shape[0]
    activation = _activation(scale_x, zero_point, checked.activation_bits)
    image = _as_image(x, checked)
    y = _quant(image, weight, form, activation, _check_affine(scale, bias, out), _POINTWISE, checked)
    return y.view(*x.shape[:-1], out)


def _check_fake(x: Tensor) -> None:
    """torch comes here as soon as any operand has no data; what has data must not get a result without."""
    if type(x) is Tensor and not x.is_meta:
        raise invalid("operands", "tensors with and without data", "tensors on the cpu")
    _check_float(x)


def _fake_conv2d(x: Tensor, form: Ints, geometry: Ints, dtype: torch.dtype) -> Tensor:
    _check_fake(x)
    return x.new_empty(_output_shape(x.shape, _form(tuple(form))[0], _geometry(tuple(geometry))), dtype=dtype)


def _fake_linear(x: Tensor, form: Ints) -> Tensor:
    checked = _form(tuple(form))[0]
    _check_fake(x)
    _check_rows(x, checked)
    return x.new_empty((*x.shape[:-1], checked.shape[0]))


_CPU: dict[str, Callable[..., Tensor]] = {
    "binary_conv2d": _binary_conv2d,
    "binary_conv2d_acc": _binary_conv2d_acc,
    "quant_conv2d": _quant_conv2d,
    "quant_conv2d_acc": _quant_conv2d_acc,
    "binary_linear": _binary_linear,
    "quant_linear": _quant_linear,
}

_FAKE: dict[str, Callable[..., Tensor]] = {
    "binary_conv2d": lambda x, weight, form, *rest: _fake_conv2d(x, form, rest[-1], torch.float32),
    "binary_conv2d_acc": lambda x, weight, form, *rest: _fake_conv2d(x, form, rest[-1], torch.int32),
    "quant_conv2d": lambda x, weight, form, *rest: _fake_conv2d(x, form, rest[-1], torch.float32),
    "quant_conv2d_acc": lambda x, weight, form, *rest: _fake_conv2d(x, form, rest[-1], torch.int32),
    "binary_linear": lambda x, weight, form, *rest: _fake_linear(x, form),
    "quant_linear": lambda x, weight, form, *rest: _fake_linear(x, form),
}

for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _CPU[_name], "CPU")
    torch.library.register_fake(f"robustlab::{_name}", _FAKE[_name], lib=_library)
