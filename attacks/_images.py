"""Gradients that reach images: the first convolution's own, which libraries built for training are slow at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from robustlab.kernels.image_gradient import MOST_CHANNELS, image_gradient
from robustlab.kernels.ops import native_kernels


class _ImageConv(torch.autograd.Function):
    """A convolution of images as torch computes it, and a faster gradient with respect to them."""

    @staticmethod
    def forward(
        images: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        return torch.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        images, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(weight)
        ctx.size = tuple(images.shape[2:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return image_gradient(above, weight, ctx.size, ctx.stride, ctx.padding), None, None, None, None


class FastImageGradients(TorchFunctionMode):
    """Inside, convolutions of images whose weights are frozen have the gradient of `image_gradient`.

    The outputs are torch's, to the last bit; gradients differ from torch's by rounding. Whatever is not a plain float32
    convolution on the CPU of at most `MOST_CHANNELS` channels goes its usual way.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d:
            place = _place(*args, **(kwargs or {}))
            if place is not None:
                return _ImageConv.apply(*place)
        return func(*args, **(kwargs or {}))


def _place(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int], tuple[int, int]] | None:
    """The arguments of `_ImageConv`, or None where it does not apply; the names are those of torch.conv2d."""
    if input.ndim != 4 or groups != 1 or weight.shape[1] > MOST_CHANNELS or isinstance(padding, str):
        return None
    plain = all(
        type(t) in (Tensor, torch.nn.Parameter) and t.is_cpu and t.dtype == torch.float32 for t in (input, weight)
    )
    if not plain or not input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    if _pair(dilation) != (1, 1) or torch.is_autocast_enabled("cpu") or native_kernels() is None:
        return None
    padding = _pair(padding)
    if padding[0] >= weight.shape[2] or padding[1] >= weight.shape[3]:
        return None
    return input, weight, bias, _pair(stride), padding


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
