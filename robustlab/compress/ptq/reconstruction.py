"""Learned rounding: weights, and steps of activations, that reproduce the float output of a part of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustlab.compress.layers import CompressedLayer
from robustlab.compress.ptq.capture import collect
from robustlab.compress.ptq.grid import hold, layer_scale, nearest_codes
from robustlab.compress.ptq.method import Method, Work
from robustlab.compress.ptq.rounding import LearnedStep, SoftRounding, annealed
from robustlab.compress.quantizers import ActivationQuantizer
from robustlab.core.errors import check_int, check_number, invalid
from robustlab.core.frozen import frozen
from robustlab.core.progress import Progress

_NOTE_EVERY = 20


@dataclass(frozen=True)
class Reconstruction(Method):
    """Hyper-parameters that AdaRound, BRECQ and QDrop share.

    The defaults are the published ones but for `iterations` (10,000 for AdaRound, 20,000 for the others) and
    `learning_rate` (1e-3): fewer steps, ten times as long.

    iterations: steps of Adam per layer or block, on `batch_size` images each, drawn anew every time.
    learning_rate: of the rounding variables. step_rate: of the steps of activations, which falls along a cosine.
    regularization: weight of the term that makes every rounding variable decide. warm_up: share of the iterations
    without it. beta: its exponent, (first, last), annealed along a line.
    """

    any_grid: ClassVar[bool] = False
    iterations: int = 500
    batch_size: int = 32
    learning_rate: float = 1e-2
    step_rate: float = 4e-5
    regularization: float = 0.01
    warm_up: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("iterations", self.iterations, 1, 10_000_000)
        check_int("batch_size", self.batch_size, 1, 65_536)
        check_number("learning_rate", self.learning_rate, 0.0, open_low=True)
        check_number("step_rate", self.step_rate, 0.0)
        check_number("regularization", self.regularization, 0.0)
        check_number("warm_up", self.warm_up, 0.0, 1.0)
        if not isinstance(self.beta, tuple) or len(self.beta) != 2:
            raise invalid("beta", self.beta, "two numbers >= 1, the first and the last")
        for value in self.beta:
            check_number("beta", value, 1.0)


@dataclass(frozen=True)
class Part:
    """A layer or block in reconstruction: the compressed module, its layers, and what it should map to what.

    inputs: (N, ...) as the quantized layers before it produce them; clean: the same of the float model, or empty where
    they are not mixed in; targets: the output (N, ...) of the float module on the clean inputs.
    """

    module: nn.Module
    layers: Sequence[CompressedLayer]
    inputs: Tensor
    targets: Tensor
    clean: Tensor = field(default_factory=lambda: torch.empty(0))

    def error(self) -> float:
        """Squared error per output element, with the quantizers as they are."""
        total, batch = 0.0, 64
        with torch.no_grad():
            for x, y in zip(self.inputs.split(batch), self.targets.split(batch), strict=True):
                total += float((self.module(x.clone()) - y).square().sum())
        return total / max(1, self.targets.numel())


def reconstruct(
    work: Work, settings: Reconstruction, task: str, parts: Sequence[tuple[str, tuple[str, ...]]], drop: float = 0.0
) -> None:
    """Learn the rounding of all parts, [(module, layers in it)], in the order they run.

    drop: probability that an activation stays float during the optimisation; with it above 0 the inputs of a part are
    mixed with the float ones in the same proportion (QDrop).
    """
    layers = {name: layer for name, layer, _ in work.layers()}
    wanted = [(name, [layers[n] for n in inside if n in layers]) for name, inside in parts]
    wanted = [(name, inside) for name, inside in wanted if inside]
    work.progress.start(task, len(wanted) * settings.iterations)
    try:
        for index, (name, inside) in enumerate(wanted):
            inputs, _ = collect(work.model, work.batches, name, inputs=True, outputs=False)
            clean, targets = collect(work.reference, work.batches, name, inputs=drop > 0, outputs=True)
            part = Part(work.model.get_submodule(name), inside, inputs, targets, clean)
            generator = torch.Generator().manual_seed(work.seed * 1_000_003 + index)
            _reconstruct_part(part, settings, drop, generator, work.progress, name)
    finally:
        work.progress.finish()


def _reconstruct_part(
    part: Part, settings: Reconstruction, drop: float, generator: torch.Generator, progress: Progress, name: str
) -> None:
    """Never worse on the calibration images than plain rounding with the steps as they were: else that is kept."""
    scales = [layer_scale(layer, settings.observer) for layer in part.layers]
    soft = [SoftRounding(layer.weight_bits, s, layer.weight) for layer, s in zip(part.layers, scales, strict=True)]
    plain = [nearest_codes(layer.weight, s, layer.weight_bits) for layer, s in zip(part.layers, scales, strict=True)]
    grids = [_grid_of(layer) for layer in part.layers]
    before = [float(grid.scale) for grid in grids]

    def settle(codes: Sequence[Tensor], steps: Sequence[float]) -> float:
        """Put codes and steps into the layers; the error they make."""
        for layer, chosen, scale, grid, step in zip(part.layers, codes, scales, grids, steps, strict=True):
            hold(layer, chosen, scale)
            grid.scale.fill_(step)
        return part.error()

    plain_error = settle(plain, before)
    steps = [LearnedStep(grid, drop, generator) for grid in grids]
    with frozen(part.module):
        for layer, rounding, step in zip(part.layers, soft, steps, strict=True):
            layer.quantize_weight, layer.quantize_input = rounding, step
        _optimize(part, settings, soft, steps, drop, generator, progress, name)
    for layer, grid in zip(part.layers, grids, strict=True):
        layer.quantize_input = grid
    if settle([rounding.hard() for rounding in soft], [step.learned for step in steps]) >= plain_error:
        settle(plain, before)


def _grid_of(layer: CompressedLayer) -> ActivationQuantizer:
    assert isinstance(layer.quantize_input, ActivationQuantizer), "binary layers are left out"
    return layer.quantize_input


def _optimize(
    part: Part,
    settings: Reconstruction,
    soft: Sequence[SoftRounding],
    steps: Sequence[LearnedStep],
    drop: float,
    generator: torch.Generator,
    progress: Progress,
    name: str,
) -> None:
    rounding = torch.optim.Adam([s.v for s in soft], lr=settings.learning_rate)
    stepping = torch.optim.Adam([s.step for s in steps], lr=settings.step_rate) if settings.step_rate else None
    channels = part.targets.shape[1 if part.targets.ndim == 4 else -1]
    for step in range(settings.iterations):
        chosen = torch.randint(len(part.inputs), (settings.batch_size,), generator=generator)
        x, y = part.inputs[chosen], part.targets[chosen]
        if drop:
            x = torch.where(torch.rand(x.shape, generator=generator) < drop, part.clean[chosen], x)
        # Summed over channels, averaged over images and positions, as the published weight of the other term expects.
        loss = (part.module(x) - y).square().sum() * (channels / y.numel())
        beta = annealed(step, settings.iterations, settings.warm_up, *settings.beta)
        if beta is not None:
            for s in soft:
                loss = loss + settings.regularization * s.undecided(beta)
        rounding.zero_grad(set_to_none=True)
        if stepping is not None:
            stepping.zero_grad(set_to_none=True)
            for group in stepping.param_groups:
                group["lr"] = settings.step_rate * 0.5 * (1 + math.cos(math.pi * step / settings.iterations))
        loss.backward()
        rounding.step()
        if stepping is not None:
            stepping.step()
        if (step + 1) % _NOTE_EVERY == 0 or step + 1 == settings.iterations:
            progress.advance(step % _NOTE_EVERY + 1, f"{name} loss {float(loss.detach()):.4g}")
