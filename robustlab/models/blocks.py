"""Small modules that several architectures share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustlab.core.errors import check_number, invalid
from robustlab.core.subgradients import prelu

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """(images - mean) / std per channel: normalisation is part of the model, so attacks and noise see [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3:
            raise invalid("mean, std", (tuple(mean), tuple(std)), "three numbers each")
        for value in mean:
            check_number("mean", value)
        for value in std:
            check_number("std", value, 0.0, open_low=True)
        self.register_buffer("mean", torch.tensor(list(mean)).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> the same shape, normalised."""
        return (images - self.mean) / self.std


class Normalized(nn.Module):
    """A network with its normalisation in front of it."""

    def __init__(
        self, network: nn.Module, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, 3, H, W) in [0, 1]."""
        logits: Tensor = self.network(self.normalize(images))
        return logits


class ChannelBias(nn.Module):
    """A learned shift per channel (the RSign and RPReLU shifts of ReActNet, Liu et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, and type: under autocast the sum does not go back to float32."""
        return x + self.bias.to(x.dtype)


class ChannelPReLU(nn.PReLU):
    """`nn.PReLU` with a slope per channel, whose training does not take torch's slow way back."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return prelu(x, self.weight.to(x.dtype)) if torch.is_grad_enabled() else super().forward(x)


class ShiftedPReLU(nn.Sequential):
    """Shift, PReLU with a slope per channel, shift (RPReLU, ReActNet, Liu et al. 2020, eq. 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__(ChannelBias(channels), ChannelPReLU(channels), ChannelBias(channels))
