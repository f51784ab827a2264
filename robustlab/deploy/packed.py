"""The packed layer: weights at their real bit-width, forward by the integer kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.compress.freeze import FrozenLayer, LayerScheme
from robustlab.core.errors import RobustlabError
from robustlab.deploy.surrogate import PackedFunction, StraightThrough, Surrogate
from robustlab.kernels import (
    PackedWeight,
    binary_conv2d,
    binary_linear,
    pack_weight,
    quant_conv2d,
    quant_linear,
    unpack_weight,
)


class PackedLayer(nn.Module):
    """A convolution or linear layer on packed weights, equal to its `FrozenLayer` bit for bit.

    Buffers: packed (uint8, opaque, see `robustlab.kernels.prepack`), scale and bias float32 (O,).
    Shape: float32 (N, C, H, W) -> (N, O, H', W'), or (..., K) -> (..., O) for a linear layer. CPU only.
    """

    packed: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, scheme: LayerScheme) -> None:
        super().__init__()
        scheme.unit_scale(scale)  # refuses one that the kernels could not use exactly
        groups = 1 if scheme.geometry is None else scheme.geometry.groups
        four = codes if codes.ndim == 4 else codes.reshape(*codes.shape, 1, 1)
        weight = pack_weight(
            four.to(torch.int8),
            scheme.weight_bits,
            groups,
            activation_bits=0 if scheme.activation is None else scheme.activation.bits,
            lines=scheme.geometry is None or scheme.geometry.dilation[1] == 1,
            zero_point=scheme.weight_zero_point,
        )
        self.register_buffer("packed", weight.data)
        self.form = weight.form
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("bias", None if bias is None else bias.contiguous())
        self.shape = weight.shape
        self.scheme = scheme
        self.surrogate: Surrogate = StraightThrough()

    @classmethod
    def from_frozen(cls, layer: FrozenLayer) -> PackedLayer:
        """Pack a frozen layer."""
        bias = None if layer.bias is None else layer.bias.clone()
        return cls(layer.codes, layer.scale.clone(), bias, layer.scheme)

    def to_frozen(self) -> FrozenLayer:
        """The simulation of this very layer, unpacked from its bits."""
        bias = None if self.bias is None else self.bias.clone()
        return FrozenLayer(self.codes(), self.scale.clone(), bias, self.scheme).eval()

    def weight(self) -> PackedWeight:
        """The packed weights as the kernels take them."""
        return PackedWeight(self.packed, self.form)

    def codes(self) -> Tensor:
        """int8 codes (O, C / groups, kh, kw), or (O, K) for a linear layer."""
        codes = unpack_weight(self.weight())
        return codes if self.scheme.geometry is not None else codes.flatten(1)

    def float_weight(self) -> Tensor:
        """De-quantized weights, float32, made on demand for the surrogate gradient."""
        codes = self.codes().float() - self.scheme.weight_zero_point
        scale = self.scale
        if self.scheme.activation is not None:
            scale = scale / self.scheme.activation.scale
        return codes * scale.reshape(-1, *([1] * (codes.ndim - 1)))

    def run_kernel(self, x: Tensor) -> Tensor:
        """The integer kernel and its epilogue, without a gradient."""
        geometry, activation, weight = self.scheme.geometry, self.scheme.activation, self.weight()
        if geometry is None:
            if activation is None:
                return binary_linear(x, weight, self.scale, self.bias)
            return quant_linear(x, weight, activation, self.scale, self.bias)
        if activation is None:
            return binary_conv2d(x, weight, self.scale, self.bias, geometry)
        return quant_conv2d(x, weight, activation, self.scale, self.bias, geometry)

    def forward(self, x: Tensor) -> Tensor:
        """Kernel forward, surrogate backward. Raises `RobustlabError` for anything but float32 on the CPU."""
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise RobustlabError(f"input of a packed layer is {x.dtype} on {x.device}; allowed: float32 on cpu")
        if torch.is_grad_enabled() and x.requires_grad:
            return PackedFunction.apply(x, self)  # type: ignore[no-any-return]
        return self.run_kernel(x)

    def extra_repr(self) -> str:
        """Scheme, also part of a model's fingerprint."""
        return f"{self.shape}, {self.scheme}"
