"""GPTQ: rounding column by column, each error made good by the columns that follow (Frantar et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.compress.layers import CompressedConv2d, CompressedLayer, CompressedLinear
from robustlab.compress.ptq.capture import watch
from robustlab.compress.ptq.grid import hold, layer_scale, nearest_codes
from robustlab.compress.ptq.method import Method, Work
from robustlab.compress.quantizers import ActivationQuantizer
from robustlab.core.errors import check_choice, check_number, invalid

ORDERS = ("natural", "diagonal")
_BLOCK = 128
_IMAGES = 64  # at once, as im2col multiplies them by the taps of the kernel


@dataclass(frozen=True)
class GPTQ(Method):
    """Second-order rounding of every layer for the inputs that the quantized layers before it produce.

    With H = X^T X of a layer's quantized inputs X (im2col rows), lambda = damping * mean(diag H) and U the upper
    Cholesky factor of (H + lambda I)^-1, column j is rounded, and e = (w_j - q_j) / U_jj times U_j,j: is taken from the
    columns that follow (Frantar et al. 2023, algorithm 1).

    damping: fractions of the mean diagonal to try (published: 0.01). The one whose codes have the smallest error on the
    other half of the calibration images is taken, then all images are used: the error on the images the codes were made
    for would always favour the smallest.
    order: ``natural``, or ``diagonal`` for the columns with the largest inputs first.
    Where plain rounding has the smaller calibration error, it is kept.
    """

    any_grid: ClassVar[bool] = False
    damping: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    order: str = "natural"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.damping, tuple) or not self.damping:
            raise invalid("damping", self.damping, "a tuple of numbers from 1e-06 to 1e6")
        for value in self.damping:
            check_number("damping", value, 1e-6, 1e6)
        check_choice("order", self.order, ORDERS)

    def apply(self, work: Work) -> None:
        """Round the layers one after another, in the order they run."""
        layers = list(work.layers())
        work.progress.start("gptq", len(layers))
        try:
            for name, layer, quantizer in layers:
                halves = _hessians(work, name, layer, quantizer)
                scale = layer_scale(layer, self.observer)
                hold(layer, self._codes(layer, scale, halves), scale)
                work.progress.advance(1, name)
        finally:
            work.progress.finish()

    def _codes(self, layer: CompressedLayer, scale: Tensor, halves: Tensor) -> Tensor:
        """Codes like the weight; `halves` is (2, groups, m, m)."""
        groups = halves.shape[1]
        weight = layer.weight.detach().flatten(1)
        rows = weight.chunk(groups), scale.chunk(groups)
        found = [
            self._group_codes(part, steps, layer.weight_bits, halves[:, group])
            for group, (part, steps) in enumerate(zip(*rows, strict=True))
        ]
        return torch.cat(found).reshape(layer.weight.shape)

    def _group_codes(self, weight: Tensor, scale: Tensor, bits: int, halves: Tensor) -> Tensor:
        def crossed(damping: float) -> float:
            """Error on the half that the codes were not made for, both ways."""
            codes = [solve(weight, scale, bits, half, damping, self.order) for half in halves]
            return sum(quadratic_error(weight, codes[a], scale, halves[1 - a]) for a in (0, 1))

        hessian = halves.sum(dim=0)
        both = bool((halves.diagonal(dim1=-2, dim2=-1).sum(dim=-1) > 0).all())
        best = min(self.damping, key=crossed) if both and len(self.damping) > 1 else self.damping[0]
        rounded = nearest_codes(weight, scale, bits)
        solved = solve(weight, scale, bits, hessian, best, self.order)
        better = quadratic_error(weight, solved, scale, hessian) < quadratic_error(weight, rounded, scale, hessian)
        return solved if better else rounded


def quadratic_error(weight: Tensor, codes: Tensor, scale: Tensor, hessian: Tensor) -> float:
    """trace(E H E^T) of E = weight - scale * codes: the squared error of the outputs, up to the number of inputs."""
    error = weight.double() - codes.double() * scale.double()[:, None]
    return float(((error @ hessian) * error).sum())


def solve(weight: Tensor, scale: Tensor, bits: int, hessian: Tensor, damping: float, order: str) -> Tensor:
    """Codes (O, m), float32, of weights (O, m) on the grid `scale` (O,), for one float64 Hessian (m, m).

    A column whose input is always zero is rounded to nearest.
    """
    largest = (1 << (bits - 1)) - 1
    diagonal = hessian.diagonal().clone()
    damped = hessian.clone()
    silent = diagonal <= 0
    damped.diagonal()[silent] = 1.0
    damped.diagonal().add_(damping * float(diagonal.mean()))
    columns = torch.arange(len(damped))
    if order == "diagonal":
        columns = torch.argsort(diagonal, descending=True, stable=True)
    damped = damped[columns][:, columns]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True)
    rest, steps = weight.double()[:, columns].clone(), scale.double()
    codes = torch.empty_like(rest)
    for start in range(0, rest.shape[1], _BLOCK):
        stop = min(start + _BLOCK, rest.shape[1])
        block, factor = rest[:, start:stop], upper[start:stop, start:stop]  # a view: what is subtracted stays
        errors = torch.empty_like(block)
        for j in range(stop - start):
            code = torch.round(block[:, j] / steps).clamp(-largest, largest)
            errors[:, j] = (block[:, j] - code * steps) / factor[j, j]
            block[:, j:].sub_(errors[:, j, None] * factor[j, None, j:])
            codes[:, start + j] = code
        rest[:, stop:].sub_(errors @ upper[start:stop, stop:])
    result = torch.empty_like(codes)
    result[:, columns] = codes
    return result.float()


def _hessians(work: Work, name: str, layer: CompressedLayer, quantizer: ActivationQuantizer) -> Tensor:
    """float64 (2, groups, m, m): X^T X of the quantized inputs, of every second image each."""
    groups = layer.groups if isinstance(layer, CompressedConv2d) else 1
    size = layer.weight[0].numel()
    halves = torch.zeros(2, groups, size, size, dtype=torch.float64)

    def see(x: Tensor) -> None:
        inputs = quantizer(x)
        for half in (0, 1):
            for part in inputs[half::2].split(_IMAGES):
                rows = columns_of(layer, part)
                halves[half] += (rows.transpose(1, 2) @ rows).double()

    watch(work.model, work.batches, name, on_input=see)
    return halves


def columns_of(layer: CompressedLayer, inputs: Tensor) -> Tensor:
    """im2col: (groups, rows, m) of inputs (N, C, H, W), or (1, rows, K) of inputs (..., K)."""
    if not isinstance(layer, CompressedConv2d):
        assert isinstance(layer, CompressedLinear)
        return inputs.reshape(1, -1, inputs.shape[-1])
    kernel = (layer.weight.shape[2], layer.weight.shape[3])
    columns: Tensor = F.unfold(inputs, kernel, layer.dilation, layer.padding, layer.stride)
    positions = columns.shape[-1]
    groups = columns.reshape(len(inputs), layer.groups, -1, positions)
    return groups.permute(1, 0, 3, 2).flatten(1, 2)
