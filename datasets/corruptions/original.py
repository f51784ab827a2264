"""The corruptions of imagecorruptions 1.1.2 (Michaelis et al. 2019), run in a pinned environment of their own.

``imagecorruptions:snow`` stands beside this package's ``snow``, as `corrupt` and conditions name it. Its constants are
those of ImageNet-C at any size. It needs the environment that scripts/reference_corruptions.sh builds; a process in it
is started at the first image and ends with this one. Every image has a seed of its own, made from its key.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustlab.core.errors import DataError
from robustlab.datasets.corruptions._batch import Draws, Size
from robustlab.datasets.corruptions.tables import Table

PREFIX = "imagecorruptions:"
SMALLEST = 32  # the package refuses smaller sides
Pixels = NDArray[np.uint8]


def reference_python() -> Path:
    """The Python of the pinned environment: in the folder ROBUSTLAB_REFERENCE, or where the script builds it.

    Raises `DataError` where there is none.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    default = cache / "robustlab" / "imagecorruptions-1.1.2"
    folder = Path(os.environ.get("ROBUSTLAB_REFERENCE") or default)
    python = folder / "bin" / "python"
    if not ((folder / "ready").exists() and python.exists()):
        raise DataError(
            f"imagecorruptions has no environment in {folder}; allowed: one built by "
            "scripts/reference_corruptions.sh, whose folder ROBUSTLAB_REFERENCE names"
        )
    return python


class Worker:
    """A process in the pinned environment that corrupts images, one request at a time."""

    def __init__(self, python: Path) -> None:
        script = Path(__file__).with_name("original_worker.py")
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        self._lock = threading.Lock()
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        command = [str(python), "-W", "ignore", str(script)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env={**kept, **single}
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def corrupt(
        self, images: Pixels, name: str, severity: int, seeds: Sequence[int], repeat: int = 1
    ) -> tuple[Pixels, list[float]]:
        """uint8 (N, H, W, 3) of the same, and the least processor time of `repeat` runs for each image, in seconds.

        `np.random.seed(seeds[i])` is called before image i. Raises `DataError` where the package fails.
        """
        request = {
            "name": name, "severity": severity, "shape": images.shape, "seeds": list(seeds), "repeat": repeat
        }  # fmt: skip
        with self._lock:
            _, pipe = self._pipes()
            with contextlib.suppress(BrokenPipeError):  # the answer says why
                pipe.write(json.dumps(request).encode() + b"\n")
                pipe.write(np.ascontiguousarray(images).tobytes())
                pipe.flush()
            seconds: list[float] = self._answer()["seconds"]
            content = self._pipes()[0].read(images.size)
        return np.frombuffer(content, np.uint8).reshape(images.shape), seconds

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdout is not None and self._process.stdin is not None
        return self._process.stdout, self._process.stdin

    def _answer(self) -> dict[str, Any]:
        line = self._pipes()[0].readline()
        if not line:
            self._process.kill()
            code = self._process.wait()
            self._said.seek(0)
            last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise DataError(f"imagecorruptions: its process ended with code {code} ({last or 'it said nothing'})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DataError(f"imagecorruptions: {answer['error']}")
        return answer


@lru_cache(maxsize=1)
def _worker_of(process: int, python: Path) -> Worker:
    return Worker(python)


def worker() -> Worker:
    """The process that works for this one, a new one after it ended; a forked process gets one of its own."""
    python = reference_python()
    if _worker_of(os.getpid(), python).ended:
        _worker_of.cache_clear()
    return _worker_of(os.getpid(), python)


def draw_seeds(keys: Tensor, size: Size, severity: int, table: Table) -> Draws:
    """`seed`: int64 (N,), 32 bits of each key."""
    return {"seed": keys.bitwise_and(2**32 - 1)}


def apply(name: str, pixels: Tensor, draws: Draws, severity: int) -> Tensor:
    """The package's corruption of uint8 (N, 3, H, W)."""
    images = pixels.permute(0, 2, 3, 1).cpu().contiguous().numpy()
    made, _ = worker().corrupt(images, name, severity, draws["seed"].tolist())
    return torch.from_numpy(made.transpose(0, 3, 1, 2).copy()).to(pixels.device)
