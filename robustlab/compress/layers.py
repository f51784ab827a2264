"""Compressed layers: a convolution or linear layer with a quantizer on its input and one on its weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.compress.coders import InputCoder, OutputMap, WeightCoder
from robustlab.compress.contract import Algorithm, Site
from robustlab.compress.quantizers import ActivationBinarizer, ActivationQuantizer, WeightBinarizer, WeightQuantizer
from robustlab.compress.weight_grid import PLAIN, GridQuantizer, WeightScheme
from robustlab.kernels import ConvGeometry


def numeric_padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    """Padding of a convolution as (vertical, horizontal), also where it says ``valid`` or ``same``.

    None where ``same`` would pad one side more than the other.
    """
    if not isinstance(layer.padding, str):
        return layer.padding[0], layer.padding[1]
    if layer.padding == "valid":
        return 0, 0
    total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(t % 2 for t in total) else (total[0] // 2, total[1] // 2)


class CompressedLayer(nn.Module):
    """What both kinds share: the float weight that is trained, the bias, and what an `Algorithm` makes of the operands.

    Without an algorithm `binary` layers have the plain binarizers, the others an affine activation grid and codes of
    `weight_scheme`. `scale_output` is None but for algorithms with a factor for every output.
    """

    bias: nn.Parameter | None
    quantize_input: InputCoder
    quantize_weight: WeightCoder
    scale_output: OutputMap | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        weight_bits: int,
        activation_bits: int,
        rule: str,
        algorithm: Algorithm | None = None,
        geometry: ConvGeometry | None = None,
        weight_scheme: WeightScheme = PLAIN,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.weight_bits = weight_bits
        self.activation_bits = activation_bits
        self._algorithm = algorithm
        output: OutputMap | None = None
        if algorithm is not None:
            inputs = weight.shape[1] * (1 if geometry is None else geometry.groups)
            site = Site(weight.detach(), weight_bits, activation_bits, inputs, geometry, rule)
            self.quantize_input, self.quantize_weight = algorithm.input(site), algorithm.weight(site)
            output = algorithm.output(site)
        elif self.binary:
            self.quantize_input, self.quantize_weight = ActivationBinarizer(), WeightBinarizer()
        else:
            self.quantize_input = ActivationQuantizer(activation_bits)
            plain = weight_scheme.plain
            self.quantize_weight = (
                WeightQuantizer(weight_bits, rule) if plain else GridQuantizer(weight_bits, rule, weight_scheme)
            )
        self.register_module("scale_output", output)

    @property
    def algorithm(self) -> Algorithm | None:
        """What the layer is trained by; None for the plain uniform and binary ones."""
        return self._algorithm

    @property
    def binary(self) -> bool:
        """True for one-bit weights with one-bit activations."""
        return self.weight_bits == 1

    def coders(self) -> tuple[InputCoder | WeightCoder | OutputMap, ...]:
        """The two or three coders."""
        both = (self.quantize_input, self.quantize_weight)
        return both if self.scale_output is None else (*both, self.scale_output)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(input, weight) as the arithmetic sees them; plain floats while the layer observes its input."""
        observing = isinstance(self.quantize_input, ActivationQuantizer) and self.quantize_input.observer is not None
        weight: Tensor = self.weight if observing else self.quantize_weight(self.weight)
        return self.quantize_input(x), weight

    def extra_repr(self) -> str:
        """Scheme, also part of a model's fingerprint."""
        return f"{tuple(self.weight.shape)}, w{self.weight_bits}a{self.activation_bits}"


class CompressedConv2d(CompressedLayer):
    """`nn.Conv2d` with zero padding, compressed. Shape: (N, C, H, W) -> (N, O, H', W')."""

    def __init__(
        self,
        layer: nn.Conv2d,
        weight_bits: int,
        activation_bits: int,
        rule: str,
        algorithm: Algorithm | None = None,
        weight_scheme: WeightScheme = PLAIN,
    ) -> None:
        padding = numeric_padding(layer)
        assert padding is not None, "checked before the layer is swapped"
        stride, dilation = (layer.stride[0], layer.stride[1]), (layer.dilation[0], layer.dilation[1])
        geometry = ConvGeometry(stride, padding, dilation, layer.groups)
        super().__init__(
            layer.weight, layer.bias, weight_bits, activation_bits, rule, algorithm, geometry, weight_scheme
        )
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = layer.groups

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of the fake-quantized operands."""
        inputs, weight = self.operands(x)
        place = (self.stride, self.padding, self.dilation, self.groups)
        if self.scale_output is None:
            return F.conv2d(inputs, weight, self.bias, *place)
        y: Tensor = self.scale_output(F.conv2d(inputs, weight, None, *place))
        return y if self.bias is None else y + self.bias.reshape(1, -1, 1, 1)


class CompressedLinear(CompressedLayer):
    """`nn.Linear`, compressed. Shape: (..., K) -> (..., O)."""

    def __init__(
        self,
        layer: nn.Linear,
        weight_bits: int,
        activation_bits: int,
        rule: str,
        algorithm: Algorithm | None = None,
        weight_scheme: WeightScheme = PLAIN,
    ) -> None:
        super().__init__(layer.weight, layer.bias, weight_bits, activation_bits, rule, algorithm, None, weight_scheme)

    def forward(self, x: Tensor) -> Tensor:
        """The product of the fake-quantized operands."""
        inputs, weight = self.operands(x)
        return F.linear(inputs, weight, self.bias)


class Affine(nn.Module):
    """y = fl(fl(x * scale[c]) + shift[c]): what `freeze` makes of a batch norm that stays."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shift", shift.detach().clone())

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Affine:
        """Constants of the evaluation-mode batch norm, found in float64 and rounded once to float32."""
        assert norm.running_mean is not None and norm.running_var is not None
        gain = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            gain = gain * norm.weight.double()
        shift = -norm.running_mean.double() * gain
        if norm.bias is not None:
            shift = shift + norm.bias.double()
        return cls(gain.detach().to(torch.float32), shift.detach().to(torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape."""
        shape = (1, -1, *([1] * (x.ndim - 2)))
        return x * self.scale.reshape(shape) + self.shift.reshape(shape)

    def extra_repr(self) -> str:
        """Channels."""
        return f"{len(self.scale)}"
