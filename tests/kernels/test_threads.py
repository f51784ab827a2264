"""Threads: the same results whatever their number, in forked processes, in data loaders and from several callers."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from robustlab import kernels
from robustlab.kernels import ActivationSpec, ConvGeometry, available, pack_weight, use_backend

GEOMETRY = ConvGeometry(padding=(1, 1))


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


Layer = Callable[[], Tensor]


def _layers() -> tuple[Layer, ...]:
    """A binary, a bit-serial, a 4-bit and a linear layer, each large enough that threads are worth it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 64, 27, 29), generator=generator)
    signs = (torch.randint(0, 2, (50, 64, 3, 3), generator=generator) * 2 - 1).to(torch.int8)
    codes = torch.randint(-7, 8, (50, 64, 3, 3), generator=generator).to(torch.int8)
    scale, bias = torch.rand(50, generator=generator), torch.randn(50, generator=generator)
    rows = torch.randn((3, 1024), generator=generator)
    matrix = (torch.randint(0, 2, (2000, 1024, 1, 1), generator=generator) * 2 - 1).to(torch.int8)
    binary, serial = pack_weight(signs, 1), pack_weight(signs, 1, activation_bits=2)
    quant, linear, ones = pack_weight(codes, 4, activation_bits=4), pack_weight(matrix, 1), torch.ones(2000)
    return (
        lambda: kernels.binary_conv2d(x, binary, scale, bias, GEOMETRY),
        lambda: kernels.quant_conv2d(x, serial, ActivationSpec(0.5, 1, 2), scale, bias, GEOMETRY),
        lambda: kernels.quant_conv2d(x, quant, ActivationSpec(0.05, 8, 4), scale, bias, GEOMETRY),
        lambda: kernels.binary_linear(rows, linear, ones, None),
    )


def _run(layers: tuple[Layer, ...], threads: int) -> tuple[Tensor, ...]:
    """Run with that many threads, and leave torch with one: torch's own operations cannot have more after a fork."""
    torch.set_num_threads(threads)
    outputs = tuple(layer() for layer in layers)
    torch.set_num_threads(1)
    return outputs


def _all_equal(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", [name for name in available() if name != "reference"])
def test_results_do_not_depend_on_the_number_of_threads(backend: str) -> None:
    layers = _layers()
    with use_backend("reference"):
        expected = _run(layers, 1)
    with use_backend(backend):
        for threads in (1, 2, 3, 4, 2, 1):
            assert _all_equal(_run(layers, threads), expected), threads


def test_several_callers_at_once() -> None:
    layers = _layers()
    expected = _run(layers, 2)
    torch.set_num_threads(2)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(lambda: tuple(layer() for layer in layers)) for _ in range(12)]
        assert all(_all_equal(future.result(), expected) for future in futures)


class _Outputs(Dataset[list[Tensor]]):
    """Every item is what the layers return."""

    def __init__(self, threads: int) -> None:
        self.layers, self.threads = _layers(), threads

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> list[Tensor]:
        return list(_run(self.layers, self.threads))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_workers_of_a_data_loader(threads: int) -> None:
    expected = _run(_layers(), 2)
    loader = DataLoader(_Outputs(threads), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=120)
    assert all(_all_equal(tuple(item), expected) for item in loader)


FORK = """
    import os, torch
    def layer():
        from robustlab import kernels
        generator = torch.Generator().manual_seed(0)
        codes = (torch.randint(0, 2, (64, 64, 3, 3), generator=generator) * 2 - 1).to(torch.int8)
        x = torch.randn((1, 64, 40, 40), generator=generator)
        weight = kernels.pack_weight(codes, 1)
        def run(threads):
            torch.set_num_threads(threads)
            y = kernels.binary_conv2d(x, weight, torch.ones(64), None, kernels.ConvGeometry(padding=(1, 1)))
            torch.set_num_threads(1)
            return y
        return run
    torch.set_num_threads(2)
    torch.randn(400, 400).clamp(0, 1)  # the parent has threads
    {before}
    torch.set_num_threads(1)
    child = os.fork()
    if child == 0:
        run = layer()
        os._exit(0 if torch.equal(run(2), run(1)) and torch.equal(run(2), run(3)) else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    layer()(2)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("before", ["layer()(2)", "pass"], ids=["used before", "loaded in the child"])
def test_a_forked_process_computes(before: str, tmp_path: Path) -> None:
    script = textwrap.dedent(FORK.format(before=before))
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env=environment, cwd=tmp_path)
