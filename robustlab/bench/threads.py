"""Threads: whether an operation of torch and one of ours, in turn, gain from a second thread."""

from __future__ import annotations

import torch

from robustlab.bench.shapes import ConvCase, operands
from robustlab.bench.tasks import shortest, wall
from robustlab.kernels import ConvGeometry, binary_conv2d, pack_weight

CASE = ConvCase(256, 14)


def alternation(threads: int, seconds: float) -> float:
    """Seconds of a float operation of torch and a binary convolution, one after the other, on that many threads."""
    values = operands(CASE, (-1, 0), (-1, 0), odd=True)
    weight = pack_weight(values.weight.to(torch.int8), 1)
    scale, image = torch.ones(CASE.channels), torch.rand((1, 256, 28, 28))
    result = torch.empty_like(image)

    def both() -> None:
        torch.sigmoid(image, out=result)
        binary_conv2d(values.x, weight, scale, None, ConvGeometry(padding=(1, 1)))

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return shortest([wall(both)], seconds)[0]
    finally:
        torch.set_num_threads(before)
