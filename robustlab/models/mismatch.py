"""A model as it is by mistake deployed: with another normalisation, padding, rounding of pooled sizes or layout.

Each function copies the model, changes one thing, and names the copy after it; evaluated beside the original it shows
what the mistake costs (SysNoise, Wang et al. 2023). `ArgumentError` says where there is nothing to change.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustlab.core.errors import invalid
from robustlab.models.blocks import Normalize
from robustlab.models.info import info_of, set_info


def _copied(model: nn.Module, change: str) -> nn.Module:
    """A copy in eval mode that no longer claims to be the architecture it was built as."""
    altered = copy.deepcopy(model).eval()
    info = info_of(model)
    if info is not None:
        name = f"{info.name}+{change}"
        set_info(altered, replace(info, name=name, architecture=f"custom:{name}"))
    return altered


def with_normalization(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The model with another mean and standard deviation (three numbers each, of images in [0, 1])."""
    altered, wanted = _copied(model, "normalization"), Normalize(mean, std)
    found = [module for module in altered.modules() if isinstance(module, Normalize)]
    if not found:
        raise invalid("model", type(model).__name__, "a model with its normalisation inside")
    for module in found:
        module.mean.copy_(wanted.mean)
        module.std.copy_(wanted.std)
    return altered


def with_ceil_mode(model: nn.Module, ceil_mode: bool) -> nn.Module:
    """The model whose pooling rounds the sizes of its outputs up, or down; some exporters know only one of the two.

    Models that flatten a map of fixed size behind the pooling do not run in the other mode on every size of image.
    """
    altered = _copied(model, "ceil" if ceil_mode else "floor")
    found = [m for m in altered.modules() if isinstance(m, (nn.MaxPool2d, nn.AvgPool2d)) and m.ceil_mode != ceil_mode]
    if not found:
        raise invalid("model", type(model).__name__, f"a model with pooling of ceil_mode {not ceil_mode}")
    for module in found:
        module.ceil_mode = ceil_mode
    return altered


def with_symmetric_padding(model: nn.Module) -> nn.Module:
    """The model whose padding on the bottom and the right (TensorFlow's) is on all sides (torch's)."""
    altered = _copied(model, "symmetric")
    found = [m for m in altered.modules() if isinstance(m, nn.ZeroPad2d) and tuple(m.padding) == (0, 1, 0, 1)]
    if not found:
        raise invalid("model", type(model).__name__, "a model with ZeroPad2d((0, 1, 0, 1))")
    for module in found:
        module.padding = (1, 1, 1, 1)
    return altered


class _ChannelsLast(nn.Module):
    """Hands its images over with channels last in memory."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.contiguous(memory_format=torch.channels_last))
        return logits


def with_channels_last(model: nn.Module) -> nn.Module:
    """The model computing in the other layout, which picks other float kernels: the same sums in another order."""
    altered = _copied(model, "channels-last")
    wrapped, info = _ChannelsLast(altered).eval(), info_of(altered)
    return wrapped if info is None else set_info(wrapped, info)
