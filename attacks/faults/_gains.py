"""How much each bit would change an objective, to first order: what a bit search ranks its candidates by.

The objective's gradient reaches the outputs of packed layers through their surrogate (`robustlab.deploy.surrogate`);
from there to weights, scales and biases a packed layer is linear, so the rest is exact: with R[o, k] the sum over
images and places of dJ/dy[o] times the activation that weight k meets (code - zero point, or sign),

    dJ/dcode[o, k] = scale[o] * R[o, k]    dJ/dscale[o] = sum over k of level[o, k] * R[o, k]    dJ/dbias[o] = sum dJ/dy
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.attacks.faults._memory import FLOAT_BITS, ActivationNumber, Codes, Numbers, Region
from robustlab.core.errors import invalid
from robustlab.core.tiles import DEFAULT_TILE, tiles
from robustlab.deploy import PackedLayer
from robustlab.kernels import reference

Objective = Callable[[Tensor, slice], Tensor]
"""(logits (n, K), which of all images they belong to) -> what is ascended, per image (n,)."""


def gains(model: nn.Module, regions: Sequence[Region], images: Tensor, objective: Objective) -> dict[Region, Tensor]:
    """First-order change of the objective, summed over images, for each bit: float64 (elements * bits,) by region.

    Bits that give NaN or infinity, and gradients that are not finite, count as -inf. Regions of whole numbers other
    than codes (zero points) and scales of activations are left out: they have few bits, which are better tried.
    Raises `ArgumentError` for a model without a gradient.
    """
    wanted = [r for r in regions if not isinstance(r, ActivationNumber) and not _whole(r)]
    packed = {name: m for name, m in model.named_modules() if isinstance(m, PackedLayer)}
    inside = {id(t) for layer in packed.values() for t in layer.buffers()}
    names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    loose = [r for r in wanted if isinstance(r, Numbers) and id(r.tensor) not in inside]
    sums = {r: torch.zeros(r.elements, dtype=torch.float64) for r in wanted}
    for start, stop in tiles(len(images), DEFAULT_TILE):
        leaves = {names[id(r.tensor)]: r.tensor.detach().clone().requires_grad_() for r in loose}
        calls, logits = _run(model, packed, leaves, images[start:stop])
        total = objective(logits, slice(start, stop)).sum()
        outputs = [y for _, _, y in calls]
        if not total.requires_grad or not all(y.requires_grad for y in outputs):
            raise invalid("model", f"{type(model).__name__} without a gradient", "a model that differentiates")
        found = torch.autograd.grad(total, [*outputs, *leaves.values()], allow_unused=True)
        for region, gradient in zip(loose, found[len(outputs) :], strict=True):
            if gradient is not None:
                sums[region] += gradient.flatten()
        for (layer, x, _), gradient in zip(calls, found, strict=False):
            if gradient is not None:
                _add(layer, x, gradient, sums)
    return {region: _worth(region, gradient) for region, gradient in sums.items()}


def _whole(region: Region) -> bool:
    return isinstance(region, Numbers) and not region.tensor.is_floating_point()


def _run(
    model: nn.Module, packed: dict[str, PackedLayer], leaves: dict[str, Tensor], images: Tensor
) -> tuple[list[tuple[PackedLayer, Tensor, Tensor]], Tensor]:
    """(layer, input, output) of each call of a packed layer, and the logits."""
    calls: list[tuple[PackedLayer, Tensor, Tensor]] = []

    def hook(layer: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
        assert isinstance(layer, PackedLayer)
        calls.append((layer, inputs[0].detach().clone(), y))
        return y.clone()  # what follows may write into it

    with ExitStack() as stack, torch.enable_grad():
        for layer in packed.values():
            stack.callback(layer.register_forward_hook(hook).remove)
        x = images.detach().clone().requires_grad_()
        return calls, torch.func.functional_call(model, leaves, (x,))


def _add(layer: PackedLayer, x: Tensor, gradient: Tensor, sums: dict[Region, Tensor]) -> None:
    """Add what one call of a layer says about its weights, scales and biases."""
    mine = [r for r in sums if (isinstance(r, Codes) and r.target is layer) or _holds(r, layer)]
    if not mine:
        return
    raw = _products(layer, x, gradient)
    rows = gradient.flatten(0, -2) if layer.scheme.geometry is None else gradient.transpose(0, 1).flatten(1).T
    levels = layer.codes().flatten(1).double() - layer.scheme.weight_zero_point
    for region in mine:
        if isinstance(region, Codes):
            sums[region] += (raw * layer.scale.double()[:, None]).flatten()
        elif isinstance(region, Numbers) and region.tensor is layer.scale:
            sums[region] += (raw * levels).sum(1)
        else:
            sums[region] += rows.double().sum(0)


def _holds(region: Region, layer: PackedLayer) -> bool:
    return isinstance(region, Numbers) and (region.tensor is layer.scale or region.tensor is layer.bias)


def _products(layer: PackedLayer, x: Tensor, gradient: Tensor) -> Tensor:
    """R (O, K), float64."""
    scheme = layer.scheme
    inputs = reference.signs(x) if scheme.activation is None else reference.quantize(x, scheme.activation)
    if scheme.geometry is None:
        return (gradient.flatten(0, -2).T @ inputs.flatten(0, -2)).double()
    g = scheme.geometry
    fill = {"zero": 0.0, "one": 1.0, "neg_one": -1.0}[g.padding_value]
    padded = F.pad(inputs, (g.padding[1], g.padding[1], g.padding[0], g.padding[0]), value=fill)
    weight = padded.new_empty(layer.shape)
    products: Tensor = torch.ops.aten.convolution_backward(
        gradient, padded, weight, None, g.stride, (0, 0), g.dilation, False, (0, 0), g.groups, (False, True, False)
    )[1]
    return products.flatten(1).double()


def _worth(region: Region, gradient: Tensor) -> Tensor:
    """Gradient times what each bit changes, (elements * bits,)."""
    change = _code_changes(region) if isinstance(region, Codes) else _float_changes(region)
    result = (gradient[:, None] * change).flatten()
    return torch.where(torch.isfinite(result), result, -torch.inf)


def _code_changes(region: Codes) -> Tensor:
    """What flipping each bit adds to a code: float64 (elements, bits)."""
    codes = region.target.codes().flatten().to(torch.int64)
    if region.bits == 1:
        return -2.0 * codes[:, None].double()
    places = torch.arange(region.bits)
    worth = (1 << places).double()
    worth[-1] *= -1  # two's complement
    return worth * (1 - 2 * ((codes[:, None] >> places) & 1))


def _float_changes(region: Region) -> Tensor:
    """What flipping each bit adds to a float32 number: float64 (elements, 32), NaN where the result is not finite."""
    assert isinstance(region, Numbers)
    old = region.tensor.detach().flatten()
    masks = (torch.ones((), dtype=torch.int64) << torch.arange(FLOAT_BITS)).to(torch.int32)
    new = (old.view(torch.int32)[:, None] ^ masks).view(torch.float32).double()
    return torch.where(torch.isfinite(new), new - old.double()[:, None], torch.nan)
