"""The machine: its peaks per core, what handing work to threads costs, and the versions of what computes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass

import torch

from robustlab.evaluate.environment import hardware, versions
from robustlab.kernels.dispatch import extension

PEERS = ("onnxruntime", "openvino")


def peaks() -> dict[str, float]:
    """Operations per second of one core by name (see ``native/peaks/peaks.h``); empty where they cannot be measured."""
    native = extension()
    return {} if native is None else dict(native.peaks())


def fork_join(threads: int) -> float | None:
    """Seconds to hand work to `threads` threads and to collect it; None without compiled kernels."""
    native = extension()
    return None if native is None else float(native.fork_join(threads))


@dataclass(frozen=True)
class Machine:
    """Where figures come from."""

    hardware: dict[str, str | int]
    versions: dict[str, str]
    threads_from: str
    """``openmp`` where the kernels run on torch's threads, ``own`` where on theirs, ``none`` without them."""


def machine() -> Machine:
    """This machine, with the versions of the peers that are there."""
    found = versions()
    for name in PEERS:
        if importlib.util.find_spec(name) is not None:
            found[name] = importlib.metadata.version(name)
    native = extension()
    described = {**hardware("cpu"), "torch_capability": torch.backends.cpu.get_cpu_capability()}
    return Machine(described, found, "none" if native is None else native.parallel_runtime())
