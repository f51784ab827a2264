"""Other libraries on the same layers. Every one is optional, and its output is checked before it is timed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

from robustlab.bench.shapes import Case
from robustlab.bench.tasks import Failure, Task

Peer = Callable[[Case, int], Iterator[Task | Failure]]
"""Tasks of a case, with that many threads."""

NAMES = ("torch", "onnxruntime", "openvino")


def installed() -> list[str]:
    """The peers that can be imported."""
    found = [name for name in NAMES if importlib.util.find_spec(name) is not None]
    return [name for name in found if name != "onnxruntime" or importlib.util.find_spec("onnx") is not None]


def peer(name: str) -> Peer:
    """The tasks of one of `NAMES`."""
    if name == "torch":
        from robustlab.bench.peers.torch_peer import tasks as torch_tasks

        return torch_tasks
    if name == "onnxruntime":
        from robustlab.bench.peers.onnxruntime_peer import tasks as onnxruntime_tasks

        return onnxruntime_tasks
    from robustlab.bench.peers.openvino_peer import tasks as openvino_tasks

    return openvino_tasks
