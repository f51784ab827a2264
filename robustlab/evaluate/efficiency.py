"""Speed, memory and size of a model, measured in the run that measures its robustness.

Latency and throughput are wall-clock times of the model as the run uses it, deployed ones optimized, on the threads
torch has; peak memory is counted on the unoptimized forward pass, operator by operator. A result belongs to one
(model, machine, threads, kernels): the store keeps it under that key, so a resumed run on the same machine shows what
was measured first instead of measuring again in a second, differently loaded moment.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustlab.core import frozen
from robustlab.deploy import layer_costs, stored_bytes, unoptimized

WARM_UP = 5
LATENCY_RUNS = (50, 400)
LATENCY_SECONDS = 1.0
THROUGHPUT_RUNS = (3, 50)
THROUGHPUT_SECONDS = 0.5


class EfficiencyRow(TypedDict):
    """One row of `results.json`'s ``efficiency``: per image where it counts operations, else as the name says."""

    model: str
    bytes: int
    latency_p50_ms: float
    latency_p95_ms: float
    images_per_s: float
    peak_memory_bytes: int
    macs: int
    bit_operations: int


def time_runs(run: Callable[[], object], runs: tuple[int, int], seconds: float, device: str) -> np.ndarray:
    """Seconds of each run, after a warm-up: from runs[0] to runs[1] of them, fewer only if they take 2 x `seconds`."""

    def once() -> float:
        begin = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    least, most = runs
    begin = time.perf_counter()
    for _ in range(min(WARM_UP, least)):
        if once() > seconds:
            break
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < most:
        times.append(once())
        spent = time.perf_counter() - begin
        if (spent >= seconds and len(times) >= least) or spent >= 2 * seconds:
            break
    return np.asarray(times)


def _tensors(value: object) -> Iterator[Tensor]:
    """Tensors a module holds: parameters, buffers, and what it keeps in attributes and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def _reference(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)


def _expired(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())


def resident_tensors(model: nn.Module) -> dict[StorageWeakRef, int]:
    """Bytes of every storage the model holds, each once."""
    held = (tensor for module in model.modules() for tensor in _tensors(vars(module)))
    return {_reference(t.untyped_storage()): t.untyped_storage().nbytes() for t in held}


class _LiveTensors(TorchDispatchMode):
    """Adds up the storages that are alive after each operator; what an operator frees before it returns is unseen."""

    def __init__(self, resident: dict[StorageWeakRef, int], images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._resident = resident
        self._live: dict[StorageWeakRef, int] = {}
        self.peak: int = 0
        self._see(images)

    def _see(self, value: object) -> None:
        self._live = {ref: size for ref, size in self._live.items() if not _expired(ref)}
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                reference = _reference(storage)
                if reference not in self._resident:
                    self._live[reference] = storage.nbytes()
        self.peak = max(self.peak, sum(self._live.values()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._see(result)
        return result


def peak_memory(model: nn.Module, images: Tensor) -> int:
    """Bytes a forward pass needs at its peak: all tensors the model holds, plus the largest sum of live activations.

    Counted per operator from the storages of its results, so it does not depend on the allocator or on what else the
    process holds. Scratch memory inside an operator is not seen. Call it without gradients.
    """
    resident = resident_tensors(model)
    with _LiveTensors(resident, images) as live:
        model(images)
    return sum(resident.values()) + int(live.peak)


def measure(name: str, model: nn.Module, images: Tensor, device: str) -> EfficiencyRow:
    """Measure one model; `images` (tile, 3, H, W) is a tile of the data on the device."""
    images, one = images.clone(), images[:1].clone()  # A model that writes into them leaves the caller's alone.
    with frozen(model), torch.no_grad():
        latency = 1000 * time_runs(lambda: model(one), LATENCY_RUNS, LATENCY_SECONDS, device)
        batch = time_runs(lambda: model(images), THROUGHPUT_RUNS, THROUGHPUT_SECONDS, device)
        peak = peak_memory(unoptimized(model), one)
        costs = layer_costs(model, one)
    return EfficiencyRow(
        model=name,
        bytes=stored_bytes(model),
        latency_p50_ms=round(float(np.percentile(latency, 50)), 4),
        latency_p95_ms=round(float(np.percentile(latency, 95)), 4),
        images_per_s=round(len(images) / float(np.median(batch)), 2),
        peak_memory_bytes=peak,
        macs=sum(cost.macs for cost in costs),
        bit_operations=sum(cost.macs * cost.weight_bits * cost.activation_bits for cost in costs),
    )
