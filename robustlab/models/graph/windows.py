"""Operators that slide a window: convolutions whose weights are no constants, and pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.models.graph.inputs import Attributes, Inputs, Operator, needed, optional
from robustlab.models.graph.shapes import pad

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_pads(sizes: list[int], kernel: list[int], stride: list[int], dilation: list[int], lower: bool) -> list[int]:
    """Starts, then ends, such that the output has ceil(size / stride) places; an odd one goes to the end, or start."""
    starts, ends = [], []
    for size, taps, step, gap in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // step) - 1) * step + gap * (taps - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        starts.append(large if lower else small)
        ends.append(small if lower else large)
    return [*starts, *ends]


def window_pads(x: Tensor, kernel: list[int], a: Attributes) -> list[int]:
    """The pads that attributes pads or auto_pad mean for `x`, for its spatial axes: starts, then ends."""
    dims = x.ndim - 2
    auto = a.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        stride, dilation = a.get("strides") or [1] * dims, a.get("dilations") or [1] * dims
        return same_pads(list(x.shape[2:]), kernel, stride, dilation, auto == "SAME_LOWER")
    if auto == "VALID":
        return [0] * (2 * dims)
    return list(a.get("pads") or [0] * (2 * dims))


def pad_window(x: Tensor, pads: list[int], value: float) -> Tensor:
    """Pad the spatial axes."""
    return pad(x, pads, "constant", value, list(range(2, x.ndim)))


def _same_pad(inputs: Inputs, a: Attributes) -> Tensor:
    """Ours: the zero padding of auto_pad, in front of a layer."""
    x = needed(inputs, 0)
    return pad_window(x, window_pads(x, list(a["kernel_shape"]), a), 0.0)


def _conv(inputs: Inputs, a: Attributes) -> Tensor:
    x, weight = needed(inputs, 0), needed(inputs, 1)
    dims = x.ndim - 2
    x = pad_window(x, window_pads(x, list(weight.shape[2:]), a), 0.0)
    stride, dilation = a.get("strides") or [1] * dims, a.get("dilations") or [1] * dims
    return _CONVOLUTIONS[dims](x, weight, optional(inputs, 2), stride, 0, dilation, int(a.get("group", 1)))


def _conv_integer(inputs: Inputs, a: Attributes) -> Tensor:
    x, weight = needed(inputs, 0).float(), needed(inputs, 1).float()
    offset, weight_offset = optional(inputs, 2), optional(inputs, 3)
    if offset is not None:
        x = x - offset.float()
    if weight_offset is not None:
        weight = weight - weight_offset.float().reshape(-1, *[1] * (weight.ndim - 1))
    return _conv([x, weight], a)


def _conv_transpose(inputs: Inputs, a: Attributes) -> Tensor:
    x, weight = needed(inputs, 0), needed(inputs, 1)
    dims = x.ndim - 2
    if a.get("auto_pad", "NOTSET") != "NOTSET" or a.get("output_shape"):
        raise ValueError("auto_pad and output_shape of a transposed convolution are not supported")
    stride, dilation = a.get("strides") or [1] * dims, a.get("dilations") or [1] * dims
    pads = list(a.get("pads") or [0] * (2 * dims))
    extra = a.get("output_padding") or [0] * dims
    result = _TRANSPOSED[dims](x, weight, optional(inputs, 2), stride, 0, extra, int(a.get("group", 1)), dilation)
    return pad_window(result, [-p for p in pads], 0.0)


def _ceil_pads(x: Tensor, kernel: list[int], pads: list[int], a: Attributes) -> list[int]:
    """More padding at the ends where ceil_mode asks for a last window that starts inside the image or its padding."""
    dims = x.ndim - 2
    stride, dilation = a.get("strides") or [1] * dims, a.get("dilations") or [1] * dims
    more = list(pads)
    for i in range(dims):
        size = x.shape[2 + i] + pads[i] + pads[dims + i]
        extent = dilation[i] * (kernel[i] - 1) + 1
        last = -(-(size - extent) // stride[i])
        if last * stride[i] >= x.shape[2 + i] + pads[i]:
            last -= 1
        more[dims + i] += max(0, last * stride[i] + extent - size)
    return more


def _max_pool(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    dims, kernel = x.ndim - 2, list(a["kernel_shape"])
    pads = window_pads(x, kernel, a)
    pads = _ceil_pads(x, kernel, pads, a) if a.get("ceil_mode") else pads
    x = pad_window(x, pads, float("-inf"))
    return _MAX_POOLS[dims](x, kernel, a.get("strides") or [1] * dims, 0, a.get("dilations") or 1)


def _average_pool(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    dims, kernel = x.ndim - 2, list(a["kernel_shape"])
    if any(gap != 1 for gap in a.get("dilations") or [1]):
        raise ValueError("dilated average pooling is not supported")
    stride, pads = a.get("strides") or [1] * dims, window_pads(x, kernel, a)
    full = _ceil_pads(x, kernel, pads, a) if a.get("ceil_mode") else pads
    result = _AVERAGE_POOLS[dims](pad_window(x, full, 0.0), kernel, stride)
    if not any(full):
        return result
    counted = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    if a.get("count_include_pad"):
        counted, full = pad_window(counted, pads, 1.0), [f - p for f, p in zip(full, pads, strict=True)]
    return result / _AVERAGE_POOLS[dims](pad_window(counted, full, 0.0), kernel, stride)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _lp_pool(inputs: Inputs, a: Attributes) -> Tensor:
    x = needed(inputs, 0)
    result: Tensor = x.norm(float(a.get("p", 2)), _spatial(x), True)
    return result


WINDOWS: dict[str, Operator] = {
    "SamePad": _same_pad,
    "Conv": _conv,
    "ConvInteger": _conv_integer,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda i, a: needed(i, 0).mean(_spatial(needed(i, 0)), True),
    "GlobalMaxPool": lambda i, a: needed(i, 0).amax(_spatial(needed(i, 0)), True),
    "GlobalLpPool": _lp_pool,
}
