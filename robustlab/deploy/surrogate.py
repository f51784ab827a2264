"""The gradient of a packed layer: its forward is integers, so its backward is a stated stand-in.

A surrogate is an object with a name and two rules; `set_surrogate` swaps it in every layer of a model, which is how
an attack tries another one (BPDA, Athalye et al. 2018) while the forward stays the deployed kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from robustlab.compress.quantizers import rounded_codes
from robustlab.core.errors import check_choice, invalid
from robustlab.core.subgradients import SIGN_SURROGATES, sign_derivative
from robustlab.kernels import ActivationSpec

if TYPE_CHECKING:
    from robustlab.deploy.packed import PackedLayer


class Surrogate(Protocol):
    """How the input quantizer of a packed layer is differentiated; the rest of the layer is linear and exact."""

    @property
    def name(self) -> str:
        """Stated in every result, as ``surrogate:NAME``."""

    def quantizer_derivative(self, x: Tensor, activation: ActivationSpec) -> Tensor:
        """d(scale * (code - zero_point)) / dx at the layer's float input, same shape."""

    def sign_derivative(self, x: Tensor) -> Tensor:
        """d sign(x) / dx at the layer's float input, same shape."""


@dataclass(frozen=True)
class StraightThrough:
    """The straight-through estimator (Bengio et al. 2013).

    Quantizer: 1 where the rounded code lies in its range, bounds included, else 0. Sign: one of
    `robustlab.core.subgradients.SIGN_SURROGATES`, by default Bi-Real Net's 2 - 2|x| on |x| < 1.
    """

    sign: str = "approx"

    def __post_init__(self) -> None:
        check_choice("sign", self.sign, SIGN_SURROGATES)

    @property
    def name(self) -> str:
        """``ste``, with the rule of the sign where it is not the default."""
        return "ste" if self.sign == "approx" else f"ste-{self.sign}"

    def quantizer_derivative(self, x: Tensor, activation: ActivationSpec) -> Tensor:
        """See `Surrogate.quantizer_derivative`."""
        codes = rounded_codes(x, torch.tensor(activation.scale, dtype=torch.float32), activation.zero_point)
        return ((codes >= 0) & (codes <= (1 << activation.bits) - 1)).to(x.dtype)

    def sign_derivative(self, x: Tensor) -> Tensor:
        """See `Surrogate.sign_derivative`."""
        return sign_derivative(x, self.sign)


class PackedFunction(torch.autograd.Function):
    """Forward: the packed kernel. Backward: the layer's surrogate, for the input only; weights are integers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLayer) -> Tensor:
        """Run the kernel; the float input is kept for the surrogate."""
        ctx.save_for_backward(x)
        ctx.layer = layer
        return layer.run_kernel(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of the input: the transposed layer with de-quantized weights, times the quantizer's derivative."""
        (x,) = ctx.saved_tensors
        layer: PackedLayer = ctx.layer
        weight = layer.float_weight()
        scheme = layer.scheme
        if scheme.geometry is None:
            gradient = grads[0] @ weight
        else:
            g = scheme.geometry
            gradient = torch.ops.aten.convolution_backward(
                grads[0], x, weight, None, g.stride, g.padding, g.dilation, False, (0, 0), g.groups,
                (True, False, False),
            )[0]  # fmt: skip
        if scheme.activation is None:
            return gradient * layer.surrogate.sign_derivative(x), None
        return gradient * layer.surrogate.quantizer_derivative(x, scheme.activation), None


def set_surrogate(model: nn.Module, surrogate: Surrogate) -> None:
    """Use `surrogate` in every packed layer of `model`, in place. Raises `ArgumentError` if there is none."""
    from robustlab.deploy.packed import PackedLayer

    layers = [module for module in model.modules() if isinstance(module, PackedLayer)]
    if not layers:
        raise invalid("model", type(model).__name__, "a deployed model with packed layers")
    for layer in layers:
        layer.surrogate = surrogate
