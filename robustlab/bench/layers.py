"""Packed layers of the cases, with operands whose products are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustlab.bench.shapes import Case, ConvCase, Operands, operands, product
from robustlab.kernels import ActivationSpec, ConvGeometry, PackedWeight, pack_weight

SAME = ConvGeometry(padding=(1, 1))


def binary_layer(case: Case) -> tuple[Operands, PackedWeight]:
    """Signs, and packed weights of -1 and +1."""
    values = operands(case, (-1, 0), (-1, 0), odd=True)
    codes = values.weight.to(torch.int8)
    return values, pack_weight(codes if codes.ndim == 4 else codes[..., None, None], 1)


@dataclass(frozen=True)
class QuantizedLayer:
    """Activation codes as floats (steps of 1, zero point 0), and packed weight codes."""

    values: Operands
    weight: PackedWeight
    spec: ActivationSpec


def quantized_layer(case: ConvCase, weight_bits: int, activation_bits: int) -> QuantizedLayer:
    """All codes there are: 0 to 2^a - 1, and symmetric ones or -1 and +1."""
    top, half = 2**activation_bits - 1, 1 << (weight_bits - 1)
    values = operands(case, (0, top), (0, 1) if weight_bits == 1 else (1 - half, half - 1))
    if weight_bits == 1:
        signs = 2 * values.weight - 1
        values = Operands(values.x, signs, product(case, values.x.double(), signs.double()))
    weight = pack_weight(values.weight.to(torch.int8), weight_bits, activation_bits=activation_bits)
    return QuantizedLayer(values, weight, ActivationSpec(1.0, 0, activation_bits))
