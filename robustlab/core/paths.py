"""Where real data and weights are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "ROBUSTLAB_DATA"


def data_folder() -> Path | None:
    """The folder of real data: the environment variable ROBUSTLAB_DATA, else ``../shared/data`` if it exists."""
    named = os.environ.get(DATA_VARIABLE)
    if named:
        return Path(named)
    beside = Path("..") / "shared" / "data"
    return beside if beside.is_dir() else None
