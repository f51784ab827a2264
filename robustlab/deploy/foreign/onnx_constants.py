"""Constants of an ONNX graph as tensors, and what is known of quantized ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

_FLOATS = {
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
}
_RANGES: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.INT32: (-(1 << 31), (1 << 31) - 1),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    **({TensorProto.UINT2: (0, 3), TensorProto.INT2: (-2, 1)} if hasattr(TensorProto, "INT2") else {}),
}


def code_range(elem_type: int) -> tuple[int, int] | None:
    """Smallest and largest code of an integer type, None for a type that holds no codes."""
    return _RANGES.get(elem_type)


def torch_type(elem_type: int) -> str:
    """The type a graph works in: ``float32``, ``int64`` or ``bool``."""
    if elem_type in _FLOATS:
        return "float32"
    return "bool" if elem_type == TensorProto.BOOL else "int64"


@dataclass(frozen=True, eq=False)
class Codes:
    """What a de-quantized constant was made of.

    codes: integers in its shape; scale float32 and zero_point int64: scalars, or one for each index of `axis`;
    bits: of a code.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    axis: int
    bits: int


@dataclass(frozen=True, eq=False)
class Constant:
    """A value known before the graph runs. `elem_type` is its type in the file; bits: of the codes it was stored as."""

    tensor: Tensor
    elem_type: int
    codes: Codes | None = None
    bits: int = 32


def constant_of(proto: Any) -> Constant:
    """A stored tensor."""
    array = numpy_helper.to_array(proto)
    elem_type = int(proto.data_type)
    kind = torch_type(elem_type)
    if array.dtype.kind in "SUO":
        raise ValueError("text is no number")
    if kind == "float32":
        array = array.astype(np.float32)
    elif array.dtype.kind == "V" or array.dtype.name not in ("int8", "uint8", "int16", "int32", "int64", "bool"):
        array = array.astype(np.int64)  # 4 and 2 bits, and unsigned types that torch has no arithmetic for
    return Constant(torch.from_numpy(np.array(array)), elem_type)


def working(constant: Constant) -> Tensor:
    """The tensor in the type a graph works in."""
    tensor = constant.tensor
    if tensor.dtype in (torch.float32, torch.bool):
        return tensor
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int, block: int) -> Tensor:
    """(codes - zero point) * scale, float32; scale and zero point are scalars, vectors along `axis`, or in blocks."""

    def fitted(x: Tensor) -> Tensor:
        if x.numel() == 1:
            return x.reshape(())
        if x.ndim == 1 and codes.ndim > 1:
            shape = [1] * codes.ndim
            shape[axis] = -1
            return x.reshape(shape)
        if block:
            return x.repeat_interleave(block, dim=axis).narrow(axis, 0, codes.shape[axis])
        return x

    return (codes.float() - fitted(zero_point).float()) * fitted(scale)
