"""Whether what a peer returns is right."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from robustlab.bench.tasks import Failure, Task

TOLERANCE = 1e-5


def checked(task: Task, found: np.ndarray, expected: Tensor, *, exact: bool) -> Task | Failure:
    """The task, or why it is not timed: its output differs from the exact one.

    exact: every number must be the same; else to 1e-5 of the largest (a float library may add in other orders, or use
    algorithms that round).
    """
    wanted = expected.numpy()
    if found.shape != wanted.shape:
        return Failure(task.group, task.case, task.name, f"the output has shape {found.shape}, not {wanted.shape}")
    difference = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    allowed = 0.0 if exact else TOLERANCE * float(np.abs(wanted).max())
    if difference <= allowed:
        return task
    return Failure(task.group, task.case, task.name, f"the output is wrong: off by up to {difference:g}")
