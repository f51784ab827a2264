"""What every choice costs: bytes in the file, or time on this machine's kernels."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustlab.compress.allocation import Bits, Variants
from robustlab.core import Progress, SilentProgress, frozen
from robustlab.deploy import optimize, stored_bytes

ROUNDS = 21
BLOCK_SECONDS = 2e-3
AGREEING = 0.75
"""Share of rounds that must agree that a choice is faster or slower than the widest one of its layer."""


@dataclass(frozen=True)
class Costs:
    """Cost of every choice of every layer, and of everything else in the network, whole numbers of `unit`.

    unit: ``bytes`` or ``ns``.
    """

    layers: Mapping[str, Mapping[Bits, int]]
    fixed: int
    unit: str


def byte_costs(variants: Variants) -> Costs:
    """What the layers take in the file `robustlab.save` writes: packed planes with their padding, scales and biases.

    `fixed` is the rest of the file's tensors, so that the sum is `robustlab.deploy.stored_bytes` of the whole network.
    variants: deployed ones.
    """
    layers = {
        name: {bits: stored_bytes(nn.Sequential(layer)) for bits, layer in choices.items()}
        for name, choices in variants.layers.items()
    }
    bits, network = next(iter(variants.networks.items()))
    inside = sum(_of_network(choices, bits) for choices in layers.values())
    return Costs(layers, stored_bytes(network) - inside, "bytes")


def latency_costs(
    variants: Variants, images: Tensor, *, rounds: int = ROUNDS, progress: Progress | None = None
) -> Costs:
    """Nanoseconds of every layer on the input it really gets at batch 1, optimized, on the threads torch has.

    Each layer is a program of its own here, float to float. Its time is the median over `rounds`, in which all layers
    and choices take turns, rounded up, so that a budget holds for what was measured. A choice that was neither faster
    nor slower than the widest one in three rounds out of four has the time of the widest: else a search for the least
    would mostly find noise. Inside a network there are no floats between layers, and there are operations that are no
    layer: `fixed` makes up for both. It is what the uniform network of the widest choice takes, optimized, less the
    times of its layers, and may be negative.
    variants: deployed ones. images: float32 (N, 3, H, W), of which the first is used.
    """
    progress = progress or SilentProgress()
    one = images[:1].clone()
    bits, network = max(variants.networks.items())
    runs: dict[tuple[str, Bits], Callable[[], object]] = {}
    inputs = _inputs(network, tuple(variants.layers), one)
    for name, choices in variants.layers.items():
        for choice, layer in choices.items():
            alone = optimize(nn.Sequential(layer).eval())
            runs[name, choice] = lambda alone=alone, x=inputs[name]: alone(x)  # type: ignore[misc]
    whole = optimize(network, one)
    runs["", bits] = lambda: whole(one)
    times = interleaved(list(runs.values()), rounds=rounds, progress=progress)
    taken = dict(zip(runs, times, strict=True))
    layers = {name: settled({c: taken[name, c] for c in choices}) for name, choices in variants.layers.items()}
    inside = sum(_of_network(choices, bits) for choices in layers.values())
    return Costs(layers, _nanoseconds(taken["", bits]) - inside, "ns")


def settled(times: Mapping[Bits, list[float]]) -> dict[Bits, int]:
    """Nanoseconds of the choices of one layer, from their seconds in rounds that all of them took part in."""
    widest = max(times)
    found = {}
    for bits, taken in times.items():
        faster = sum(a < b for a, b in zip(taken, times[widest], strict=True)) / len(taken)
        apart = faster >= AGREEING or faster <= 1 - AGREEING
        found[bits] = _nanoseconds(taken if apart else times[widest])
    return found


def network_nanoseconds(
    models: Mapping[str, nn.Module], images: Tensor, *, rounds: int = ROUNDS, progress: Progress | None = None
) -> dict[str, int]:
    """Median nanoseconds of deployed models at batch 1, optimized, all taking turns; the first image is used."""
    one = images[:1].clone()
    programs = {name: optimize(model, one) for name, model in models.items()}
    runs: list[Callable[[], object]] = [lambda program=program: program(one) for program in programs.values()]  # type: ignore[misc]
    times = interleaved(runs, rounds=rounds, progress=progress or SilentProgress())
    return {name: _nanoseconds(taken) for name, taken in zip(models, times, strict=True)}


def interleaved(runs: list[Callable[[], object]], *, rounds: int, progress: Progress) -> list[list[float]]:
    """Seconds of one call of each of `runs`, one value a round: the median of as many calls as two milliseconds hold.

    All take their turn in every round, so that what disturbs the machine for a while disturbs all alike; half as many
    calls before the clock starts bring back into the caches what the others drove out.
    """
    with torch.no_grad():
        repeats = []
        for run in runs:
            run()  # makes the program
            repeats.append(max(1, math.ceil(BLOCK_SECONDS / max(_seconds(run, 2), 1e-7))))
        progress.start("latency", rounds)
        times: list[list[float]] = [[] for _ in runs]
        try:
            for _ in range(rounds):
                for taken, run, count in zip(times, runs, repeats, strict=True):
                    _seconds(run, count // 2 + 1)
                    taken.append(_seconds(run, count))
                progress.advance()
        finally:
            progress.finish()
    return times


def _nanoseconds(taken: list[float]) -> int:
    """The median, rounded up."""
    return math.ceil(1e9 * statistics.median(taken))


def _seconds(run: Callable[[], object], count: int) -> float:
    """The median of `count` calls: one that was interrupted does not count."""
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _of_network(choices: Mapping[Bits, int], bits: Bits) -> int:
    """The cost that a layer has in the uniform network of `bits`."""
    return choices[bits] if len(choices) > 1 else next(iter(choices.values()))


def _inputs(network: nn.Module, names: tuple[str, ...], image: Tensor) -> dict[str, Tensor]:
    """What every layer is given when `network` sees the image."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> RemovableHandle:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, inputs[0].detach().clone())

        return network.get_submodule(name).register_forward_pre_hook(hook)

    handles = [watch(name) for name in names]
    try:
        with frozen(network), torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return seen
