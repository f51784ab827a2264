"""One deployed model, judged: equal to its simulation, how accurate, of which class, how many bytes, how fast."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.bench.compressors.cells import Latency, Quality
from robustlab.compress.composed import Composed
from robustlab.compress.parts import Parts
from robustlab.core import RobustlabError, Tiled, frozen
from robustlab.deploy import PackedLayer, optimize
from robustlab.evaluate.efficiency import time_runs
from robustlab.evaluate.environment import hardware

ROUNDS, RUNS, SECONDS = 5, (5, 40), 0.2


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K) of images (N, 3, H, W), tile by tile."""
    with frozen(model), torch.no_grad():
        logits: Tensor = Tiled(model)(images)
    return logits


def quality(logits: Tensor, reference: Tensor, labels: Tensor) -> Quality:
    """Of logits (N, K), beside those of the float model on the same images."""
    right, before = logits.argmax(1) == labels, reference.argmax(1) == labels
    difference = right.double() - before.double()
    predicted, wanted = logits.double().log_softmax(1), reference.double().log_softmax(1)
    divergence = F.kl_div(predicted, wanted, reduction="none", log_target=True).sum(1)
    return Quality(
        accuracy=100 * float(right.double().mean()),
        points=100 * float(difference.mean()),
        half_width=100 * half_width(difference),
        agreement=100 * float((logits.argmax(1) == reference.argmax(1)).double().mean()),
        kl=float(divergence.mean()),
        kl_half_width=half_width(divergence),
    )


def half_width(values: Tensor) -> float:
    """1.96 standard errors of the mean of values (N,); 0 for one alone."""
    return 1.96 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def equal_logits(deployed: nn.Module, simulated: nn.Module, images: Tensor) -> Tensor:
    """The logits of `images`, for which the deployed model, its optimized form and its simulation have to agree.

    Raises `RobustlabError` that says in how many logits which of them differ from the simulation.
    """
    wanted = predict(simulated, images)
    for name, model in (("deployed", deployed), ("optimized", optimize(deployed))):
        found = predict(model, images)
        if not torch.equal(found, wanted):
            different = int((found != wanted).sum())
            raise RobustlabError(
                f"{different} of {wanted.numel()} logits of the {name} model are not the simulated ones"
            )
    if not bool(torch.isfinite(wanted).all()):
        raise RobustlabError("the model's logits are not finite")
    return wanted


def classes(deployed: nn.Module) -> dict[str, int]:
    """Packed layers by the class they were deployed as, see `robustlab.compress.contract.DEPLOYABILITY`."""
    found: Counter[str] = Counter()
    inside: tuple[str, ...] = ()
    for name, module in deployed.named_modules():
        if isinstance(module, (Composed, Parts)):
            found[module.deployability] += 1
            inside += (f"{name}.",)
        elif isinstance(module, PackedLayer) and not name.startswith(inside):
            found["P"] += 1
    return dict(found)


def constant_signs(deployed: nn.Module, images: Tensor) -> tuple[int, int]:
    """(binary layers whose inputs all have one sign on `images`, binary layers)."""
    layers = {
        name: module
        for name, module in deployed.named_modules()
        if isinstance(module, PackedLayer) and module.scheme.activation is None
    }
    seen: dict[str, set[bool]] = {name: set() for name in layers}

    def watched(name: str) -> None:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            negative = inputs[0] < 0
            seen[name] |= {bool(negative.any()), bool(negative.all())}

        handles.append(layers[name].register_forward_pre_hook(note))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        for name in layers:
            watched(name)
        predict(deployed, images)
    finally:
        for handle in handles:
            handle.remove()
    return sum(len(signs) == 1 for signs in seen.values()), len(layers)


def latency(deployed: nn.Module, reference: nn.Module, images: Tensor) -> Latency:
    """Time the optimized model and the float one in turn on one image, so that both see the same moments."""
    fast, one = optimize(deployed), images[:1].clone()
    rounds = []
    with frozen(fast), frozen(reference), torch.no_grad():
        for _ in range(ROUNDS):
            pair = (time_runs(partial(model, one), RUNS, SECONDS, "cpu") for model in (reference, fast))
            rounds.append(tuple(pair))
    before, after = (np.concatenate(times) for times in zip(*rounds, strict=True))
    where = hardware("cpu")
    return Latency(
        milliseconds=round(1000 * float(np.median(after)), 4),
        float_milliseconds=round(1000 * float(np.median(before)), 4),
        runs=len(after),
        threads=torch.get_num_threads(),
        kernels=str(where["kernels"]),
        cpu=str(where["cpu"]),
    )
