from collections.abc import Callable, Sequence

import torch
from torch import Tensor

def available() -> tuple[str, ...]: ...
def cpu_flags() -> tuple[str, ...]: ...
def compiler() -> str: ...
def parallel_runtime() -> str: ...
def peaks() -> dict[str, float]: ...
def fork_join(threads: int) -> float: ...
def conv2d(
    backend: str,
    threads: int,
    x: tuple[int, int],
    weight: tuple[int, int],
    scale: int,
    bias: int,
    y: tuple[int, int],
    sizes: tuple[int, int, int, int],
    form: tuple[int, int, int, int, int, int, int, int, int],
    geometry: tuple[int, int, int, int, int, int, int, int],
    scale_x: float,
    doubled_zero_x: int,
) -> None: ...
def boundary_step(
    backend: str,
    threads: int,
    x: tuple[int, int],
    origin: tuple[int, int],
    normal: tuple[int, int],
    gap: tuple[int, int],
    out: tuple[int, int],
    l2: bool,
    alpha_max: float,
    eta: float,
) -> None: ...
def image_gradient(
    backend: str,
    threads: int,
    above: tuple[int, int],
    weights: tuple[int, int],
    gradient: tuple[int, int],
    images: tuple[int, int, int, int],
    form: tuple[int, int, int],
    place: tuple[int, int, int, int],
) -> None: ...
def ascent_step(
    backend: str,
    threads: int,
    x: tuple[int, int],
    old: tuple[int, int],
    best: tuple[int, int],
    best_gradient: tuple[int, int],
    origin: tuple[int, int],
    gradient: tuple[int, int],
    rows: tuple[int, int],
    better: tuple[int, int],
    back: tuple[int, int],
    first: tuple[int, int],
    length: tuple[int, int],
    eps: float,
    momentum: float,
) -> None: ...
def paint_squares(
    threads: int,
    best: tuple[int, int],
    low: tuple[int, int],
    high: tuple[int, int],
    rows: tuple[int, int],
    numbers: tuple[int, int],
    out: tuple[int, int],
    shape: tuple[int, int, int],
    side: int,
) -> None: ...

class Program:
    def value(self, kind: int, sizes: tuple[int, int, int], scale: float, doubled_zero: int, bits: int) -> int: ...
    def input(self, value: int) -> None: ...
    def scalars(self, count: int) -> None: ...
    def output(self, value: int) -> None: ...
    def pack(
        self, value: int, thresholds: tuple[int, int], sub: tuple[int, int], div: tuple[int, int], result: int
    ) -> None: ...
    def conv(
        self,
        value: int,
        form: tuple[int, ...],
        geometry: tuple[int, ...],
        weight: tuple[int, int],
        steps: list[tuple[str, tuple[int, int], tuple[int, int], float, float, int]],
    ) -> None: ...
    def map(self, value: int, steps: list[tuple[str, tuple[int, int], tuple[int, int], float, float, int]]) -> None: ...
    def pool(
        self,
        value: int,
        sum: bool,
        windows: tuple[int, int, int, int, int, int],
        steps: list[tuple[str, tuple[int, int], tuple[int, int], float, float, int]],
    ) -> None: ...
    def concat(self, values: list[int], result: int) -> None: ...
    def subsample(self, value: int, stride_y: int, stride_x: int, front: int, result: int) -> None: ...
    def finish(self) -> None: ...
    def arena_bytes(self) -> int: ...
    def run(
        self,
        backend: str,
        threads: int,
        images: int,
        inputs: list[tuple[int, int]],
        scalars: list[tuple[int, int]],
        outputs: list[tuple[int, int]],
    ) -> None: ...
    def run_tensors(
        self,
        backend: str,
        threads: int,
        inputs: Sequence[Tensor],
        scalars: Sequence[Tensor],
        type: type[Tensor],
        empty: Callable[..., Tensor],
        dtypes: tuple[torch.dtype, ...],
    ) -> tuple[Tensor, ...] | None: ...
