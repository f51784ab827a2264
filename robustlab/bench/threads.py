"""Threads: whether an operation of torch and one of ours, in turn, gain from a second thread."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustlab.bench.layers import SAME, binary_layer
from robustlab.bench.shapes import ConvCase
from robustlab.bench.tasks import Sample, shortest, wall
from robustlab.kernels import binary_conv2d

CASE = ConvCase(256, 14)


def alternation(threads: Sequence[int], seconds: float) -> dict[int, float]:
    """Seconds of a float operation of torch and a binary convolution, one after the other, by number of threads."""
    values, weight = binary_layer(CASE)
    scale, image = torch.ones(CASE.channels), torch.rand((1, 256, 28, 28))
    result = torch.empty_like(image)

    def both() -> None:
        torch.sigmoid(image, out=result)
        binary_conv2d(values.x, weight, scale, None, SAME)

    timed = wall(both)

    def on(count: int) -> Sample:
        def sample() -> float:
            torch.set_num_threads(count)
            return timed()

        return sample

    before = torch.get_num_threads()
    try:
        # many rounds: two threads that wait for each other need two cores that are free at once
        return dict(zip(threads, shortest([on(count) for count in threads], seconds, rounds=40), strict=True))
    finally:
        torch.set_num_threads(before)
