"""`freeze`: from a compressed model to the exact integer simulation of what is deployed.

A frozen layer is *defined* on integer codes. With qx in 0..2^a - 1 and zero point zx, or qx in {-1, +1}:

    acc[o] = sum of (qx - zx) * (qw[o] - zw)   exact: a whole number, or a multiple of 1/4 with half-integer zero points
    y[o]   = fl(fl(fl(acc[o]) * s[o]) + b[o])  s = fl(s_x * s_w), found once, here

A packed kernel that follows this gives the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.compress.composed import COMPOSITIONS, Composed, compose
from robustlab.compress.layers import Affine, CompressedConv2d, CompressedLayer, CompressedLinear
from robustlab.compress.parts import Parts, base_of, parts_grid
from robustlab.compress.quantizers import affine_codes
from robustlab.compress.structure import BatchNorm, replace
from robustlab.compress.weight_grid import GridQuantizer
from robustlab.core.errors import ArgumentError, RobustlabError, check_int, invalid
from robustlab.core.subgradients import sign_ste
from robustlab.kernels import ActivationSpec, ConvGeometry
from robustlab.kernels.spec import check_accumulator, check_weight_zero_point, largest_weight, zero_point_unit
from robustlab.models import info_of, set_info

_FLOAT32_EXACT = 1 << 24


@dataclass(frozen=True, repr=False)
class LayerScheme:
    """Everything about a frozen layer that is not a tensor.

    `activation` is None for a binary layer; `geometry` is None for a linear layer. `weight_zero_point` is a multiple of
    0.5: a weight is worth (code - weight_zero_point) steps. Raises `ArgumentError` for bits outside 1..8, a binary
    layer with more than one, or a weight zero point that is not among the codes.
    """

    weight_bits: int
    activation: ActivationSpec | None
    geometry: ConvGeometry | None
    weight_zero_point: float = 0

    def __post_init__(self) -> None:
        check_int("weight_bits", self.weight_bits, 1, 8)
        if self.activation is None and self.weight_bits != 1:
            raise invalid("weight_bits", self.weight_bits, "1 for a layer whose activations are signs")
        zero_point = check_weight_zero_point(self.weight_bits, self.weight_zero_point)
        object.__setattr__(self, "weight_zero_point", zero_point)

    def __repr__(self) -> str:
        """Part of a model's fingerprint: a zero point of 0 is not shown."""
        zero_point = f", weight_zero_point={self.weight_zero_point}" if self.weight_zero_point else ""
        parts = f"weight_bits={self.weight_bits}, activation={self.activation}, geometry={self.geometry}{zero_point}"
        return f"LayerScheme({parts})"

    @property
    def activation_bits(self) -> int:
        """1 for a binary layer."""
        return 1 if self.activation is None else self.activation.bits

    @property
    def unit(self) -> int:
        """1, 2 or 4: `unit` times the exact sum is what the kernels accumulate, a whole number."""
        return (1 if self.activation is None else self.activation.unit) * zero_point_unit(self.weight_zero_point)

    def check_accumulator(self, taps: int) -> None:
        """Raise `ArgumentError` if the sum of `taps` products may leave the kernels' 32-bit accumulator."""
        largest = 1 if self.activation is None else self.activation.largest
        check_accumulator(taps, largest, largest_weight(self.weight_bits, self.weight_zero_point))

    def unit_scale(self, scale: Tensor) -> Tensor:
        """What the kernels multiply their accumulators with, scale / unit, float32 (O,).

        The quotient is exact, so fl(fl(unit * acc) * (scale / unit)) = fl(fl(acc) * scale). Raises `ArgumentError` for
        scales so small that it would not be.
        """
        if self.unit == 1:
            return scale
        result = scale / self.unit
        if not torch.equal(result * self.unit, scale):
            raise invalid("scale", f"{float(scale.abs().min()):g}", f"0, or float32 numbers that {self.unit} divides")
        return result


class FrozenLayer(nn.Module):
    """The simulation of one layer. Shape: (N, C, H, W) -> (N, O, H', W'), or (..., K) -> (..., O) without geometry.

    codes: int8 (O, C / groups, kh, kw) or (O, K); scale: float32 (O,); bias: float32 (O,) or None.
    The gradient is what autograd makes of the codes with the straight-through rules of `robustlab.compress.quantizers`.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, scheme: LayerScheme) -> None:
        super().__init__()
        self.register_buffer("codes", codes.to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.scheme = scheme
        largest = 1 if scheme.activation is None else scheme.activation.largest
        weight = zero_point_unit(scheme.weight_zero_point) * self.levels(torch.float64).abs()
        products = codes[0].numel() * largest * int(weight.max() if weight.numel() else 0)
        self._dtype = torch.float32 if products < _FLOAT32_EXACT else torch.float64

    def levels(self, dtype: torch.dtype) -> Tensor:
        """(qw - zw) in the shape of the codes: exact."""
        return self.codes.to(dtype) - self.scheme.weight_zero_point

    def input_codes(self, x: Tensor) -> Tensor:
        """(qx - zx) as float32, or the sign for a binary layer."""
        spec = self.scheme.activation
        if spec is None:
            return sign_ste(x, "approx")
        scale = torch.tensor(spec.scale, dtype=torch.float32, device=x.device)
        return affine_codes(x, scale, spec.zero_point, spec.bits) - spec.zero_point

    def forward(self, x: Tensor) -> Tensor:
        """The exact simulation; refuses reduced precision, which would not be exact."""
        if self._dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
            precision = torch.get_float32_matmul_precision()
            raise invalid("torch.get_float32_matmul_precision()", precision, "highest, for an exact simulation")
        if x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type):
            raise RobustlabError(f"input of a simulated layer is {x.dtype}; allowed: float32 without autocast")
        inputs = self.input_codes(x).to(self._dtype)
        weight = self.levels(self._dtype)
        if self.scheme.geometry is None:
            y = F.linear(inputs, weight).to(torch.float32) * self.scale
            return y if self.bias is None else y + self.bias
        g = self.scheme.geometry
        # Contiguous as the kernels answer: on channels-last memory a mean that follows would add in another order.
        y = F.conv2d(inputs, weight, None, g.stride, g.padding, g.dilation, g.groups).contiguous()
        y = y.to(torch.float32) * self.scale.reshape(1, -1, 1, 1)
        return y if self.bias is None else y + self.bias.reshape(1, -1, 1, 1)

    def extra_repr(self) -> str:
        """Scheme, also part of a model's fingerprint."""
        return f"{tuple(self.codes.shape)}, {self.scheme}"


def freeze(model: nn.Module, *, factorable: bool = False) -> nn.Module:
    """A copy of a compressed model in eval mode in which every compressed layer is a `FrozenLayer`, or a `Composed`
    around one where its algorithm has float operations there.

    Batch norms that were not folded become stored affines. What cannot be deployed exactly is refused, or with
    `factorable` replaced by the documented form that can: see `robustlab.compress.deployability`.
    Raises `ArgumentError` for a model without compressed layers and `RobustlabError` for such a layer, or one whose
    scales or biases are not finite.
    """
    if not any(isinstance(module, CompressedLayer) for module in model.modules()):
        raise invalid("model", type(model).__name__, "a compressed model, from robustlab.compress(...)")
    result = copy.deepcopy(model).eval()
    for name, module in list(result.named_modules()):
        if isinstance(module, CompressedLayer):
            replace(result, name, freeze_layer(name, module, factorable=factorable))
        elif type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            assert isinstance(module, BatchNorm)
            if module.running_mean is None:
                raise RobustlabError(f"batch norm {name} keeps no running statistics; allowed: one that does")
            replace(result, name, Affine.from_batch_norm(module))
    for parameter in result.parameters():
        parameter.requires_grad_(False)
    info = info_of(model)
    return set_info(result, info) if info else result


def freeze_layer(name: str, layer: CompressedLayer, *, factorable: bool = False) -> FrozenLayer | Composed | Parts:
    """The integer simulation of the layer `name`; with `factorable` the layer itself is made so first."""
    for coder in layer.coders():
        if factorable:
            coder.make_factorable()
        obstacle = coder.obstacle()
        if obstacle is not None:
            raise RobustlabError(f"layer {name} cannot be deployed exactly: {obstacle}, or factorable=True")
    quantizer, parts = layer.quantize_weight, parts_grid(layer)
    zero_point = quantizer.zero_point
    with torch.no_grad():
        codes, weight_scale = quantizer.codes(layer.weight)
        if isinstance(quantizer, GridQuantizer) and parts is None:
            weight_scale, zero_point = weight_scale[:, 0], float(quantizer.grid(layer.weight).zero_point[0, 0])
    try:
        activation = layer.quantize_input.spec()
    except ArgumentError as error:
        raise ArgumentError(f"layer {name}: {error}") from error
    scale = weight_scale.detach().float()
    if activation is not None:
        scale = torch.tensor(activation.scale, dtype=torch.float32, device=scale.device) * scale
    bias = None if layer.bias is None else layer.bias.detach().float().clone()
    around = [coder.composition() for coder in (layer.quantize_input, layer.scale_output) if coder is not None]
    compositions = [composition for composition in around if composition is not None]
    assert len(compositions) <= 1, "an algorithm has float operations in one place"
    floats = [tensor for composition in compositions for tensor in composition.tensors.values()]
    floats += [scale] if bias is None else [scale, bias]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (codes, *floats)):
        raise RobustlabError(f"layer {name} has a scale, bias or weight that is NaN or infinite; allowed: finite")
    geometry = None
    if isinstance(layer, CompressedConv2d):
        geometry = ConvGeometry(layer.stride, layer.padding, layer.dilation, layer.groups)
    else:
        assert isinstance(layer, CompressedLinear)
    if parts is not None:
        symmetric = isinstance(quantizer, GridQuantizer) and quantizer.scheme.symmetric
        scheme = LayerScheme(layer.weight_bits, activation, geometry, base_of(layer.weight_bits, symmetric))
        zero_points = None if symmetric else parts.zero_point.T.to(torch.int8)
        return build_parts(FrozenLayer, codes, scale.T, zero_points, bias, parts.size, scheme)
    scheme = LayerScheme(layer.weight_bits, activation, geometry, zero_point)
    if not compositions:
        return FrozenLayer(codes, scale.clone(), bias, scheme).eval()
    inner = None if COMPOSITIONS[compositions[0].kind].outer_bias else bias
    return compose(compositions[0], FrozenLayer(codes, scale.clone(), inner, scheme), bias).eval()


def build_parts(
    make: Callable[[Tensor, Tensor, None, LayerScheme], nn.Module],
    codes: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    bias: Tensor | None,
    size: int,
    scheme: LayerScheme,
) -> Parts:
    """The sum of parts that codes (O, C / groups, kh, kw) or (O, K) stand for, each a layer that `make` makes.

    scales: float32 (K, O), and zero_points int8 (K, O) or None, for groups of `size` input channels.
    """
    layers, sums = [], []
    groups = 1 if scheme.geometry is None else scheme.geometry.groups
    for part in codes.split(size, dim=1):
        layers.append(make(part.contiguous(), torch.ones(len(part)), None, scheme))
        if zero_points is not None:
            ones = torch.ones(groups, *part.shape[1:])
            sums.append(make(ones, torch.ones(groups), None, LayerScheme(1, scheme.activation, scheme.geometry)))
    zero_points = None if zero_points is None else zero_points.contiguous()
    return Parts(layers, sums, scales.contiguous(), zero_points, bias, size).eval()
