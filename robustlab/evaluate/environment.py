"""What a result depends on besides its inputs: versions and hardware."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import torch

from robustlab import __version__
from robustlab.kernels import backend


def torch_minor() -> str:
    """Such as ``2.8``: within one, results are bit-identical."""
    return ".".join(torch.__version__.split(".")[:2])


def versions() -> dict[str, str]:
    """Of everything that computes."""
    return {
        "robustlab": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def hardware(device: str) -> dict[str, str | int]:
    """The machine, the threads torch uses on it, and the kernels that compressed layers run on."""
    found: dict[str, str | int] = {
        "cpu": _cpu(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "kernels": backend(),
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
        "device": device,
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found
