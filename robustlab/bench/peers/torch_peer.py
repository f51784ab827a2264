"""torch in float32: eager, and with channels last."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.bench.peers.check import checked
from robustlab.bench.shapes import Case, ConvCase, operands
from robustlab.bench.tasks import Failure, Task, wall


def tasks(case: Case, threads: int) -> Iterator[Task | Failure]:
    """float32 with `torch.get_num_threads()` threads, which the caller has set to `threads`."""
    values = operands(case, (-7, 7), (-7, 7))

    def found(name: str, run: Callable[[], Tensor]) -> Task | Failure:
        task = Task("fp32", case.label, name, wall(run), case.operations, "fp32")
        return checked(task, run().contiguous().numpy(), values.exact, exact=False)

    if not isinstance(case, ConvCase):
        yield found("torch fp32", lambda: F.linear(values.x, values.weight))
        return
    yield found("torch fp32", lambda: F.conv2d(values.x, values.weight, padding=1))
    x = values.x.contiguous(memory_format=torch.channels_last)
    weight = values.weight.contiguous(memory_format=torch.channels_last)
    yield found("torch fp32, channels last", lambda: F.conv2d(x, weight, padding=1))
