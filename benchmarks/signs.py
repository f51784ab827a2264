"""How many sign crops a second one thread renders: `python benchmarks/signs.py [count]`."""

from __future__ import annotations

import sys
import time

import torch

from robustlab.datasets.signs import Signs


def main() -> None:
    """Render `count` crops after a warm-up and print crops per second of wall and of CPU time."""
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    signs = Signs("train")
    signs.batch(range(48))
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, count, 250):
        signs.batch(range(start, min(count, start + 250)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{count} crops: {count / wall:.0f} crops/s wall, {count / cpu:.0f} crops/s CPU, one thread")


if __name__ == "__main__":
    main()
