"""The gradient of a first convolution with respect to its images: torch's and ours, in turn, in one process.

    python benchmarks/image_gradient.py --out benchmarks/image_gradient.md

The least of --rounds times for each; ours on every instruction set that the processor has.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlab.kernels import dispatch
from robustlab.kernels.image_gradient import image_gradient

# network: images, channels, side, outputs, taps, stride, padding
FIRST = {
    "cifar_cnn_a": (64, 3, 32, 16, 4, 2, 1),
    "resnet20": (64, 3, 32, 16, 3, 1, 1),
    "mnist_cnn_a": (64, 1, 28, 16, 4, 2, 1),
    "mobilenet_v2": (16, 3, 224, 32, 3, 2, 1),
    "resnet18": (16, 3, 224, 64, 7, 2, 3),
    "alexnet": (16, 3, 224, 64, 11, 4, 2),
}


def least_ms(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, which take turns."""
    times = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name] = min(times[name], 1000 * (time.perf_counter() - begin))
    return times


def with_backend(name: str, function: Callable[[], object]) -> Callable[[], object]:
    """`function` on one instruction set."""

    def run() -> object:
        with dispatch.use_backend(name):
            return function()

    return run


def row(name: str, shape: tuple[int, ...], sets: list[str], rounds: int) -> str:
    """A line of the table."""
    count, channels, side, outputs, taps, stride, padding = shape
    images, weight = torch.randn(count, channels, side, side), torch.randn(outputs, channels, taps, taps)
    x = images.clone().requires_grad_()
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    above = torch.randn_like(y)

    def ours() -> Tensor:
        return image_gradient(above, weight, (side, side), (stride, stride), (padding, padding))

    functions: dict[str, Callable[[], object]] = {
        "forward": lambda: F.conv2d(images, weight, stride=stride, padding=padding),
        "torch": lambda: torch.autograd.grad(y, x, above, retain_graph=True),
    }
    ms = least_ms(functions | {s: with_backend(s, ours) for s in sets}, rounds)
    return (
        f"| {name} | {count} x {channels} x {side} x {side} | {outputs}, {taps} x {taps}, stride {stride} | "
        f"{ms['forward']:.2f} | {ms['torch']:.2f} | {' | '.join(f'{ms[s]:.2f}' for s in sets)} | "
        f"{ms['torch'] / ms[dispatch.backend()]:.1f} |"
    )


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sets = [name for name in dispatch.available() if name != "reference"]
    lines = [
        f"`python benchmarks/image_gradient.py`: torch {torch.__version__}, {options.threads} threads, "
        f"{platform.machine()}; milliseconds, the least of {options.rounds} in turn.",
        "",
        f"| first layer of | images | kernel | forward, torch | gradient, torch | {' | '.join(sets)} | times faster |",
        "|---|---|---|" + "---:|" * (len(sets) + 3),
    ]
    for name, shape in FIRST.items():
        lines.append(row(name, shape, sets, options.rounds))
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
