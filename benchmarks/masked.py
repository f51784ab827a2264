"""Models with deliberately masked gradients, around small trained networks: what an audit has to see through.

Every entry is a function that takes the network and returns the masked model and, where the mask keeps its answers, the
twin whose gradient is honest: attacks on the twin say what the masked model's robustness really is.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from robustlab.core.subgradients import floor_ste, round_ste, sign_ste
from robustlab.deploy import PackedLayer, StraightThrough, load
from robustlab.kernels import ActivationSpec

LEVELS = 16


class Before(nn.Module):
    """A function of the images, then the network."""

    def __init__(self, network: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.function(images))


class After(Before):
    """The network, then a function of its logits."""

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.network(images))


class Inside(nn.Module):
    """The network with a function of the input of every convolution and linear layer but the first."""

    def __init__(self, network: nn.Module, function: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        layers = [(n, m) for n, m in self.network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))][1:]
        hooks = [
            layer.register_forward_pre_hook(lambda _, args, name=name: (self.function(name, args[0]),))
            for name, layer in layers
        ]
        try:
            return self.network(images)
        finally:
            for hook in hooks:
                hook.remove()


class Quantized(Inside):
    """Activations on `bits`-bit grids fitted to the largest of `images`, through any rounding."""

    def __init__(
        self, network: nn.Module, images: Tensor, rounding: Callable[[Tensor], Tensor] = torch.round, bits: int = 4
    ) -> None:
        self.scales: dict[str, float] = {}
        top = 2**bits - 1

        def fit(name: str, x: Tensor) -> Tensor:
            self.scales[name] = float(torch.quantile(x.flatten()[:: max(1, x.numel() // 200_000)], 0.999)) / top
            return x

        def quantize(name: str, x: Tensor) -> Tensor:
            scale = self.scales[name]
            return rounding((x / scale).clamp(0, top)) * scale

        super().__init__(network, fit)
        with torch.no_grad():
            self(images)
        self.function = quantize


def _binary(sign: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: (sign(x - 0.5) + 1) / 2


def _levels(floor: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: (floor(x * LEVELS).clamp(max=LEVELS - 1) + 0.5) / LEVELS


def _thermometer(x: Tensor) -> Tensor:
    """The same levels, as bits that are compared with thresholds and decoded."""
    thresholds = torch.arange(1, LEVELS).reshape(1, 1, -1, 1, 1) / LEVELS
    bits = (x[:, :, None] >= thresholds).float()
    return (bits.sum(2) + 0.5) / LEVELS


def _resize(x: Tensor) -> Tensor:
    side = int(torch.randint(26, 33, ()))
    top, left = (int(torch.randint(0, 33 - side, ())) for _ in range(2))
    small = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    return F.pad(small, (left, 32 - side - left, top, 32 - side - top), value=0.5)


def _jpeg(x: Tensor) -> Tensor:
    """Saved and read by Pillow, quality 75."""
    images = []
    for image in (x.detach() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=75)
        images.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _winners(name: str, x: Tensor, share: float = 0.2) -> Tensor:
    """The largest activations of an image, the others 0 (k-winners-take-all, Xiao et al. 2020)."""
    flat = x.flatten(1)
    least = flat.topk(max(1, int(share * flat.shape[1])), dim=1).values[:, -1].reshape(-1, *([1] * (x.ndim - 1)))
    return x * (x >= least).float()


def _pruned(name: str, x: Tensor) -> Tensor:
    """Stochastic activation pruning (Dhillon et al. 2018): kept with a probability that grows with the activation."""
    size = x.flatten(1).abs()
    kept = 1 - (1 - size / size.sum(1, keepdim=True).clamp(min=1e-12)) ** size.shape[1]
    mask = (torch.rand_like(size) < kept).float() / kept.clamp(min=1e-6)
    return x * mask.reshape(x.shape)


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


class DeadSurrogate(StraightThrough):
    """The true derivative of steps: zero."""

    def quantizer_derivative(self, x: Tensor, activation: ActivationSpec) -> Tensor:
        return torch.zeros_like(x)

    def sign_derivative(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _dead(network: nn.Module, images: Tensor) -> tuple[nn.Module, nn.Module]:
    twin = load("robustlab:signs_w1a1")
    for layer in network.modules():
        if isinstance(layer, PackedLayer):
            layer.surrogate = DeadSurrogate()
    return network, twin


Maker = Callable[[nn.Module, Tensor], tuple[nn.Module, nn.Module | None]]


@dataclass(frozen=True)
class Masked:
    """A masked model: `make` takes the network `base` and some training images."""

    base: str
    data: str
    eps: float
    make: Maker
    text: str


def _robust(make: Maker, text: str) -> Masked:
    return Masked("cifar_cnn_a_mix", "cifar10", 2 / 255, make, text)


def _after(function: Callable[[Tensor], Tensor]) -> Maker:
    return lambda net, x: (After(net, function), net)


def _before(function: Callable[[Tensor], Tensor], honest: Callable[[Tensor], Tensor] | None = None) -> Maker:
    return lambda net, x: (Before(net, function), None if honest is None else Before(net, honest))


MASKED: dict[str, Masked] = {
    "round": Masked(
        "cifar_resnet20",
        "cifar10",
        2 / 255,
        lambda net, x: (Quantized(net, x), Quantized(net, x, round_ste)),
        "4-bit activations through torch.round",
    ),
    "round-robust": _robust(
        lambda net, x: (Quantized(net, x), Quantized(net, x, round_ste)), "4-bit activations through torch.round"
    ),
    "sign": Masked(
        "mnist_cnn_a_adv",
        "mnist",
        0.3,
        _before(_binary(torch.sign), _binary(lambda x: sign_ste(x, "identity"))),
        "torch.sign of the input",
    ),
    "binary": Masked("signs_w1a1", "signs", 2 / 255, _dead, "packed binary network whose signs have no surrogate"),
    "floor": _robust(_before(_levels(torch.floor), _levels(floor_ste)), "input floored to 16 levels"),
    "thermometer": _robust(_before(_thermometer, _levels(floor_ste)), "16 levels as compared bits"),
    "detached": _robust(
        _before(lambda x: torch.round(x.detach() * 255) / 255, lambda x: round_ste(x * 255) / 255),
        "input rounded to 8 bits, cut from the graph",
    ),
    "logits-x100": _robust(_after(lambda z: 100 * z), "logits times 100, as defensive distillation leaves them"),
    "dead-clamp": _robust(
        _after(lambda z: (20 * (z - z.detach().amax(1, keepdim=True))).clamp(-1, 0)), "logits clamped near the largest"
    ),
    "softmax": _robust(_after(lambda z: torch.softmax(100 * z, 1)), "probabilities that underflow in place of logits"),
    "zero-backward": _robust(
        lambda net, x: (Before(net, _NoBackward.apply), net), "an autograd function whose backward is zero"
    ),
    "shattered": _robust(
        lambda net, x: (Before(net, lambda v: v + 0.2 / 255 * torch.sin(30000 * v)), net),
        "a ripple of 0.2/255 that breaks the gradient up",
    ),
    "k-wta": _robust(lambda net, x: (Inside(net, _winners), None), "the largest 20 % of activations only"),
    "jpeg": Masked("cifar_resnet20", "cifar10", 8 / 255, _before(_jpeg), "JPEG by Pillow, quality 75"),
    "resize": _robust(_before(_resize), "random resize and padding"),
    "noise": _robust(_before(lambda x: x + 0.06 * torch.randn_like(x)), "Gaussian noise on the input"),
    "pruning": _robust(lambda net, x: (Inside(net, _pruned), None), "stochastic activation pruning"),
}


def make(name: str, images: Tensor) -> tuple[nn.Module, nn.Module | None]:
    """The masked model `name` and its twin, in eval mode; `images` of the training split set the quantizers."""
    entry = MASKED[name]
    masked, twin = entry.make(load(f"robustlab:{entry.base}"), images)
    return masked.eval().requires_grad_(False), None if twin is None else twin.eval().requires_grad_(False)


class _Winners(nn.Module):
    """The masked network with a gradient for losers too, a tenth of the winners'."""

    def __init__(self, model: Inside) -> None:
        super().__init__()
        self.model = Inside(model.network, lambda name, x: _winners(name, x) + 0.1 * (x - x.detach()))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def adaptive(name: str, model: nn.Module) -> nn.Module | None:
    """A gradient written for this very mask; None where the model's own is the best there is."""
    if name == "jpeg":
        assert isinstance(model, Before)
        return Before(model.network, lambda x: x + (_jpeg(x) - x).detach())
    if name == "k-wta":
        assert isinstance(model, Inside)
        return _Winners(model)
    return None
