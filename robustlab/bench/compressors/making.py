"""From a float model to the deployed models of a job, each checked against the contract."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.bench.compressors.cells import Job, method_of
from robustlab.compress import check_model, compress, deployability, freeze
from robustlab.compress.fold import fold_batch_norms
from robustlab.compress.layers import CompressedLayer
from robustlab.compress.ptq import METHODS, Method, Work, correct_statistics
from robustlab.compress.structure import trace
from robustlab.core.progress import Progress
from robustlab.deploy import deploy

CHECKED_IMAGES = 4


@dataclass(frozen=True)
class Made:
    """A deployed model and its simulation; see `Cell` for the rest."""

    state: str
    deployed: nn.Module
    simulated: nn.Module
    replaced: str
    seconds: float


def corrected(
    model: nn.Module, original: nn.Module, method: str | Method, batches: Sequence[Tensor], progress: Progress
) -> nn.Module:
    """What ``statistics_correction=True`` would have made of `model`, without compressing again."""
    result, reference = copy.deepcopy(model), copy.deepcopy(original).eval()
    probe = batches[0][:4]
    fold_batch_norms(reference, probe)
    prepared = METHODS.get(method, Method()) if isinstance(method, str) else method
    prepared.prepare(reference, probe)  # such as equalization, which the statistics are those of
    order = trace(result, probe).order
    names = tuple(name for name in order if isinstance(result.get_submodule(name), CompressedLayer))
    correct_statistics(Work(result, reference, names, list(batches), progress=progress))
    return result


def make(
    job: Job,
    original: nn.Module,
    batches: Sequence[Tensor],
    *,
    iterations: int | None,
    seed: int,
    progress: Progress,
) -> Iterator[Made]:
    """The models of a job, in the order of its states. Raises `RobustlabError` for what cannot be made or deployed."""
    method = method_of(job.algorithm, iterations)
    start = time.process_time()
    model = compress(
        original,
        weights=job.scheme.weights,
        activations=job.scheme.activations,
        algorithm=method,
        calibration=batches,
        seed=seed,
        progress=progress,
    )
    yield _deployed(job.states[0], model, batches, time.process_time() - start)
    if "corrected" in job.states:
        start = time.process_time()
        better = corrected(model, original, method, batches, progress)
        yield _deployed("corrected", better, batches, time.process_time() - start)


def _deployed(state: str, model: nn.Module, batches: Sequence[Tensor], seconds: float) -> Made:
    reasons = [f"{layer.name}: {layer.reason}" for layer in deployability(model) if layer.kind == "X"]
    factorable = bool(reasons)
    with torch.no_grad():
        check_model(model, batches[0][:CHECKED_IMAGES], factorable=factorable)
    return Made(
        state,
        deploy(model, factorable=factorable),
        freeze(model, factorable=factorable),
        reasons[0] if reasons else "",
        round(seconds, 2),
    )
