"""Bit-packed kernels: weights in their real bit-width, exact integer accumulation, one definition for every backend."""

from robustlab.kernels.addresses import bit_addresses, flip_bit
from robustlab.kernels.dispatch import BACKENDS, available, backend, info, use_backend
from robustlab.kernels.functional import (
    binary_conv2d,
    binary_conv2d_acc,
    binary_linear,
    quant_conv2d,
    quant_conv2d_acc,
    quant_linear,
)
from robustlab.kernels.fused import (
    PADDING_MODES,
    mapped_conv2d,
    pad_image,
    per_sample_conv2d,
    residual_conv2d,
    two_plane_conv2d,
)
from robustlab.kernels.layout import from_planes, weight_planes
from robustlab.kernels.prepack import PackedWeight, WeightForm, pack_weight, unpack_weight
from robustlab.kernels.program import Program, ProgramBuilder
from robustlab.kernels.spec import PADDING_VALUES, ActivationSpec, ConvGeometry

__all__ = [
    "BACKENDS",
    "PADDING_MODES",
    "PADDING_VALUES",
    "ActivationSpec",
    "ConvGeometry",
    "PackedWeight",
    "Program",
    "ProgramBuilder",
    "WeightForm",
    "available",
    "backend",
    "binary_conv2d",
    "binary_conv2d_acc",
    "binary_linear",
    "bit_addresses",
    "flip_bit",
    "from_planes",
    "info",
    "mapped_conv2d",
    "pack_weight",
    "pad_image",
    "per_sample_conv2d",
    "quant_conv2d",
    "quant_conv2d_acc",
    "quant_linear",
    "residual_conv2d",
    "two_plane_conv2d",
    "unpack_weight",
    "use_backend",
    "weight_planes",
]
