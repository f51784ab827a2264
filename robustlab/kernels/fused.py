"""Convolutions with more behind them than scale and bias, each a program that is built once for an image size.

They take the float input of the layer and return its float output, with every rounding stated; `activation` is None
where the input's signs are taken. A linear layer is a convolution of images of one pixel: x[:, :, None, None]. All are
forward only, and raise `ArgumentError` for operands that do not fit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.core.errors import check_choice, invalid
from robustlab.kernels.prepack import PackedWeight
from robustlab.kernels.program import (
    Add,
    AddValue,
    Mul,
    MulImage,
    MulPixel,
    Prelu,
    Program,
    ProgramBuilder,
    Scale,
    Step,
    Store,
)
from robustlab.kernels.spec import ActivationSpec, ConvGeometry, shown, zero_point_unit

PADDING_MODES = ("reflect", "replicate", "circular")
"""Ways to pad an image that are done before it is packed, as in `torch.nn.functional.pad`."""

_PROGRAMS = 64
_cache: OrderedDict[Hashable, tuple[tuple[Tensor, ...], tuple[Tensor, ...], Program]] = OrderedDict()
_lock = Lock()


def pad_image(x: Tensor, geometry: ConvGeometry, mode: str) -> tuple[Tensor, ConvGeometry]:
    """The image (N, C, H, W) padded as `geometry` says by one of `PADDING_MODES`, and the geometry without padding.

    ``reflect`` needs less padding than pixels, ``circular`` at most as much.
    """
    check_choice("mode", mode, PADDING_MODES)
    _check_image(x)
    (rows, columns), sizes = geometry.padding, x.shape[2:]
    for pad, size in zip((rows, columns), sizes, strict=True):
        if pad > size - (mode == "reflect") and mode != "replicate":
            raise invalid("padding", geometry.padding, f"less for {mode} padding of an image {tuple(sizes)}")
    padded = F.pad(x, (columns, columns, rows, rows), mode=mode) if rows or columns else x
    return padded, ConvGeometry(geometry.stride, (0, 0), geometry.dilation, geometry.groups)


def two_plane_conv2d(
    x: Tensor,
    planes: tuple[PackedWeight, PackedWeight],
    scales: tuple[Tensor, Tensor],
    bias: Tensor | None,
    geometry: ConvGeometry,
    activation: ActivationSpec | None = None,
) -> Tensor:
    """Weights that are the sum of two scaled planes: y = fl(fl(fl(acc0 * scale0[o]) + fl(acc1 * scale1[o])) + bias[o]).

    Scales and bias are float32 (O,). ABC-Net (Lin et al. 2017), LPB (BiFSMNv2, Qin et al. 2022).
    """

    def build(builder: ProgramBuilder, image: int) -> int:
        of = _packed_input(builder, image, activation)
        (first,) = builder.conv(of, planes[0], geometry, (_scale(scales[0], planes[0], activation), Store()))
        steps = (_scale(scales[1], planes[1], activation), AddValue(first), *_bias(bias), Store())
        return builder.conv(of, planes[1], geometry, steps)[0]

    return _run("two planes", x, planes, (*scales, bias), (geometry, activation), build)


def per_sample_conv2d(
    x: Tensor,
    weight: PackedWeight,
    scale: Tensor,
    factor: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    activation: ActivationSpec | None = None,
) -> Tensor:
    """One factor for every image: y = fl(fl(fl(acc * scale[o]) * factor[n]) + bias[o]).

    scale and bias are float32 (O,), factor is float32 (N,), such as XNOR-Net's mean |x[n]| (Rastegari et al. 2016).
    """

    def build(builder: ProgramBuilder, image: int) -> int:
        of = _packed_input(builder, image, activation)
        steps = (_scale(scale, weight, activation), MulImage(builder.scalar_input()), *_bias(bias), Store())
        return builder.conv(of, weight, geometry, steps)[0]

    return _run("per sample", x, (weight,), (scale, bias), (geometry, activation), build, scalars=(factor,))


def mapped_conv2d(
    x: Tensor,
    weight: PackedWeight,
    maps: tuple[Tensor, Tensor, Tensor],
    bias: Tensor | None,
    geometry: ConvGeometry,
    activation: ActivationSpec | None = None,
) -> Tensor:
    """One factor for every output: y = fl(fl(fl(acc * a[o]) * fl(b[h] * c[w])) + bias[o]).

    maps are a, b and c: float32 (O,), (H',) and (W',). XNOR-Net++ (Bulat & Tzimiropoulos 2019), case 3.
    """
    a, b, c = maps
    for name, value in (("maps[1]", b), ("maps[2]", c)):
        if not isinstance(value, Tensor) or value.ndim != 1 or value.dtype != torch.float32 or not value.is_cpu:
            raise invalid(name, shown(value), "a float32 tensor of one axis on the cpu")

    def build(builder: ProgramBuilder, image: int) -> int:
        of = _packed_input(builder, image, activation)
        size = builder.value(image)
        height, width = geometry.output_size((size.height, size.width), (weight.shape[2], weight.shape[3]))
        if (len(b), len(c)) != (height, width):
            raise invalid("maps", f"{len(b)} and {len(c)} numbers", f"{height} and {width} numbers")
        table = MulPixel(b[:, None] * c[None, :])
        steps = (_scale(a, weight, activation), table, *_bias(bias), Store())
        return builder.conv(of, weight, geometry, steps)[0]

    return _run("mapped", x, (weight,), (a, b, c, bias), (geometry, activation), build)


def residual_conv2d(
    x: Tensor,
    weight: PackedWeight,
    scale: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    activation: ActivationSpec | None = None,
    *,
    affine: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
    prelu: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """What follows a layer of a residual network, in this order, every operation rounded once.

    v = fl(fl(acc * scale) + bias); v = fl(fl(v * affine[0]) + affine[1]), a batch norm that was stored;
    v = fl(v + residual), a tensor like the output; then prelu = (shift, slope, shift), RPReLU of ReActNet (Liu et al.
    2020): v = fl(v + shift0), v = v > 0 ? v : fl(slope * v), v = fl(v + shift1). All vectors are float32 (O,).
    """

    def build(builder: ProgramBuilder, image: int) -> int:
        of = _packed_input(builder, image, activation)
        steps: list[Step] = [_scale(scale, weight, activation), *_bias(bias)]
        if affine is not None:
            steps += [Mul(affine[0]), Add(affine[1])]
        if residual is not None:
            if residual.ndim != 4:
                raise invalid("residual", shown(residual), "a float32 tensor (N, O, H', W')")
            steps.append(AddValue(builder.input(*residual.shape[1:])))
        if prelu is not None:
            steps += [Add(prelu[0]), Prelu(prelu[1]), Add(prelu[2])]
        return builder.conv(of, weight, geometry, (*steps, Store()))[0]

    given = (affine is not None, residual is not None, prelu is not None)
    vectors = (scale, bias, *(affine or ()), *(prelu or ()))
    shape = None if residual is None else tuple(residual.shape[1:])
    others = () if residual is None else (residual,)
    return _run("residual", x, (weight,), vectors, (geometry, activation, given, shape), build, others)


def _check_image(x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim != 4 or x.dtype != torch.float32 or 0 in x.shape[1:]:
        raise invalid("x", shown(x), "a float32 tensor (N, C, H, W) with C, H, W >= 1")


def _packed_input(builder: ProgramBuilder, image: int, activation: ActivationSpec | None) -> int:
    return builder.pack(image) if activation is None else builder.quantize(image, activation)


def _scale(scale: Tensor, weight: PackedWeight, activation: ActivationSpec | None) -> Scale:
    """The step from accumulators, which count in halves where a zero point is a half-integer."""
    step = Scale(scale)
    unit = (1 if activation is None else activation.unit) * zero_point_unit(weight.form.zero_point)
    return step if unit == 1 else Scale(step.a / unit)


def _bias(bias: Tensor | None) -> tuple[Step, ...]:
    return () if bias is None else (Add(bias),)


def _run(
    name: str,
    x: Tensor,
    weights: Sequence[PackedWeight],
    vectors: Sequence[Tensor | None],
    key: Hashable,
    build: Callable[[ProgramBuilder, int], int],
    others: Sequence[Tensor] = (),
    scalars: Sequence[Tensor] = (),
) -> Tensor:
    """Run the program of these operands. One that was built before is taken if its vectors still have their values."""
    _check_image(x)
    data = tuple(weight.data for weight in weights)  # kept with the program, so that its address means this tensor
    forms = tuple((id(weight.data), weight.form) for weight in weights)
    full = (name, x.shape[1:], forms, tuple(None if vector is None else shown(vector) for vector in vectors), key)
    with _lock:
        found = _cache.get(full)
        if found is not None:
            _cache.move_to_end(full)
    if found is not None and all(map(torch.equal, found[0], _bits(vectors))):
        program = found[2]
    else:
        builder = ProgramBuilder()
        builder.output(build(builder, builder.input(*x.shape[1:])))
        program = builder.build()
        with _lock:
            _cache[full] = (tuple(bits.clone() for bits in _bits(vectors)), data, program)
            while len(_cache) > _PROGRAMS:
                _cache.popitem(last=False)
    return program.run((x, *others), scalars)[0]


def _bits(vectors: Sequence[Tensor | None]) -> list[Tensor]:
    """Float32 vectors as integers, so that equal means the same number: zeros have signs."""
    return [vector.detach().contiguous().view(torch.int32) for vector in vectors if vector is not None]
