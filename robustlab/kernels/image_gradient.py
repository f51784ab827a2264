"""The gradient of a network's first convolution with respect to its images, which training never needs.

Libraries are built for training, where no gradient reaches the images: for three channels theirs takes up to ten times
as long as the convolution itself, and every attack pays that in every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.core.errors import check_int, invalid
from robustlab.kernels import dispatch
from robustlab.kernels.ops import native_kernels
from robustlab.kernels.spec import shown

MOST_CHANNELS = 4
"""Images with more channels are not images: there, what libraries have is as fast."""


def image_gradient(
    above: Tensor, weight: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The gradient (N, C, H, W) of ``conv2d(images, weight, stride=stride, padding=padding)`` with respect to `images`.

    above: float32 (N, O, h, w), the gradient with respect to the output. weight: float32 (O, C, kh, kw), C at most
    `MOST_CHANNELS`. size: (H, W) of the images. stride at least 1, padding in [0, kernel). Everything is on the CPU.
    Sums are taken in one order on every processor and for any number of threads and images.

    Raises `ArgumentError` for other types and sizes, and where there are no compiled kernels.
    """
    native = native_kernels()
    if native is None:
        raise invalid("kernels", dispatch.backend(), "a compiled backend")
    for name, tensor in (("above", above), ("weight", weight)):
        if tensor.ndim != 4 or tensor.dtype != torch.float32 or not tensor.is_cpu:
            raise invalid(name, shown(tensor), "a float32 tensor with four dimensions on the cpu")
    outputs, channels, *taps = weight.shape
    check_int("weight's channels", channels, 1, MOST_CHANNELS)
    expected = []
    for axis, name in enumerate(("height", "width")):
        check_int(f"stride ({name})", stride[axis], 1)
        check_int(f"padding ({name})", padding[axis], 0, taps[axis] - 1)
        check_int(f"size ({name})", size[axis], max(1, taps[axis] - 2 * padding[axis]))
        expected.append((size[axis] + 2 * padding[axis] - taps[axis]) // stride[axis] + 1)
    if above.shape[1:] != (outputs, *expected):
        raise invalid("above", shown(above), f"a tensor (N, {outputs}, {expected[0]}, {expected[1]})")
    above, weight = above.contiguous(), weight.contiguous()
    gradient = torch.empty(len(above), channels, *size)
    spans = [(tensor.data_ptr(), tensor.numel()) for tensor in (above, weight, gradient)]
    threads = torch.get_num_threads()
    form = (outputs, taps[0], taps[1])
    native.image_gradient(dispatch.backend(), threads, *spans, tuple(gradient.shape), form, (*stride, *padding))
    return gradient
