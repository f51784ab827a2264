"""The exactness grid: every backend, at one to four threads, equals an independent convolution of integers."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from robustlab import kernels
from robustlab.core import ArgumentError
from robustlab.kernels import ActivationSpec, ConvGeometry


def _load(name: str) -> ModuleType:
    """A module that lies beside this file, which pytest imports from nowhere."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


grid, chains = _load("grid"), _load("chains")
BACKENDS = kernels.available()
CHUNK = 75
FIRST = int(os.environ.get("ROBUSTLAB_GRID_FIRST", "0"))  # another stretch of the grid and other random cases


def check(case: Any, found: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], how: str) -> None:
    """Equal bit for bit; a failure names the case, which `grid.make_case` makes again."""
    for what, got, wanted in (("acc", found[0], right[0]), ("y", found[1], right[1])):
        if not torch.equal(got, wanted):
            wrong = (got != wanted).nonzero()
            place = tuple(wrong[0].tolist())
            count = f"{len(wrong)} of {wanted.numel()} places"
            pytest.fail(f"{case!r}\n{how}: {what} at {place} is {got[place]}, not {wanted[place]}; wrong at {count}")


def check_cases(numbers: range, threads: int) -> None:
    """Run cases on every backend. torch's own operators stay on one thread, where small ones are fastest."""
    torch.set_num_threads(1)
    cases = [(case, case.expected()) for case in map(grid.make_case, numbers)]
    for case, right in cases:
        with kernels.use_backend("reference"):
            check(case, case.run(), right, "reference")
    torch.set_num_threads(threads)
    for name in BACKENDS[1:]:
        with kernels.use_backend(name):
            for case, right in cases:
                check(case, case.run(), right, f"{name}, {threads} threads")


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("chunk", range(10))
@pytest.mark.parametrize("part", ["grid", "random"])
def test_grid_and_random_cases(part: str, chunk: int) -> None:
    first = FIRST + chunk * CHUNK + (0 if part == "grid" else grid.GRID)
    check_cases(range(first, first + CHUNK), 1 + chunk % 4)


def check_chains(numbers: range, threads: int) -> None:
    """Run the programs of cases on every backend."""
    torch.set_num_threads(1)
    made = []
    for number in numbers:
        case = grid.make_case(number)
        made.append((case, chains.make_chain(case)))
    for name in BACKENDS:
        torch.set_num_threads(1 if name == "reference" else threads)
        with kernels.use_backend(name):
            for case, chain in made:
                wrong = chain.wrong()
                if wrong is not None:
                    pytest.fail(f"{case!r}\n{chain!r}\n{name}, {threads} threads: {wrong}")


@pytest.mark.parametrize("chunk", range(8))
@pytest.mark.parametrize("part", ["grid", "random"])
def test_what_follows_a_convolution(part: str, chunk: int) -> None:
    first = FIRST + 3000 + chunk * 40 + (0 if part == "grid" else grid.GRID)
    check_chains(range(first, first + 40), 1 + chunk % 4)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(40))
def test_twenty_thousand_cases(chunk: int) -> None:
    """The whole grid, and random cases."""
    first = FIRST + chunk * 500
    check_cases(range(first, first + 500), 1 + chunk % 4)
    check_chains(range(first, first + 500, 5), 1 + chunk % 4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("bits", "activation_bits"), [(1, 0), (1, 1), (1, 8), (2, 2), (4, 4), (8, 8)])
def test_long_sums(backend: str, bits: int, activation_bits: int) -> None:
    """K as large as the accumulator allows, all products at their largest, both signs."""
    spec = None if activation_bits == 0 else ActivationSpec(1.0, 0, activation_bits)
    largest = 1 if spec is None else 2**activation_bits - 1
    top = max(1, 2 ** (bits - 1) - 1)
    taps = min((2**31 - 1) // (largest * top), 70_001)
    codes = torch.full((17, taps, 1, 1), top, dtype=torch.int8)
    codes[3] = -top
    codes[4, ::2] = -top
    weight = kernels.pack_weight(codes, bits, activation_bits=activation_bits)
    x = torch.full((2, taps, 1, 1), 1e9)
    with kernels.use_backend(backend):
        if spec is None:
            acc = kernels.binary_conv2d_acc(x, weight, ConvGeometry())
        else:
            acc = kernels.quant_conv2d_acc(x, weight, spec, ConvGeometry())
    sums = codes.flatten(1).sum(1, dtype=torch.int64) * largest
    assert torch.equal(acc.flatten(1).long(), sums.expand(2, 17))


@pytest.mark.parametrize(("zero_x", "zero_w"), [(0, 0), (127.5, 0), (0, -0.5), (127.5, -0.5)])
def test_the_largest_sum_that_fits_is_allowed_and_the_next_refused(zero_x: float, zero_w: float) -> None:
    spec = ActivationSpec(1.0, zero_x, 8)
    largest = 255 * (255 if zero_w else 127)  # in units: 2 (255 - 127.5) is 255, and so is 2 (127 + 1/2)
    taps = (2**31 - 1) // largest
    for extra in (0, 1):
        weight = kernels.pack_weight(
            torch.full((1, taps + extra, 1, 1), 127, dtype=torch.int8), 8, activation_bits=8, zero_point=zero_w
        )
        x = torch.full((1, taps + extra), 1e9)
        for name in BACKENDS:
            with kernels.use_backend(name):
                if extra:
                    with pytest.raises(ArgumentError, match=r"2\^31"):
                        kernels.quant_linear(x, weight, spec, torch.ones(1), None)
                else:
                    y = kernels.quant_linear(x, weight, spec, torch.ones(1), None)
                    unit = (2 if zero_x else 1) * (2 if zero_w else 1)
                    assert y.item() == torch.tensor(taps * largest / unit, dtype=torch.float32).item()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5, 4, 4), (3, 5, 1, 1), (1, 5, 1, 9), (0, 5, 1, 1)])
def test_empty_batches_and_images_of_one_pixel(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    codes = torch.where(torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(1)) < 0, -1, 1).to(torch.int8)
    for spec in (None, ActivationSpec(0.5, 7.5, 4)):
        geometry = ConvGeometry((1, 1), (1, 1), (1, 1))
        case = grid.Case(0, x, codes, 1, 0.0, spec, geometry, torch.ones(6), None)
        with kernels.use_backend(backend):
            acc, y = case.run()
        assert torch.equal(acc, case.expected()[0])
        assert torch.equal(y, case.expected()[1])
        assert y.shape == (shape[0], 6, *shape[2:])


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("outputs", "width"), [(32, 5), (64, 20), (96, 14), (160, 7), (64, 23)])
def test_panels_that_are_unpacked_while_others_are_met(bits: int, outputs: int, width: int) -> None:
    """One image, whole pairs of panels, lines of at least five pixels: the largest is too large to be one task."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(100 * bits + width)
    zero = -0.5 if bits == 7 else 0.0
    half = 2 ** (bits - 1)
    codes = torch.randint(-half if zero else 1 - half, half, (outputs, 36, 3, 3), generator=generator)
    codes = torch.where(codes < 0, -1, 1) if bits == 1 else codes
    x = torch.randn(1, 36, width, width, generator=generator) * 100
    geometry = ConvGeometry((1, 1), (1, 1), (1, 1))
    scale = torch.rand(outputs, generator=generator)
    case = grid.Case(0, x, codes.to(torch.int8), bits, zero, ActivationSpec(1.0, 128, 8), geometry, scale, None)
    acc, y = case.expected()
    for name in BACKENDS:
        with kernels.use_backend(name):
            check(case, case.run(), (acc, y), name)


def test_threads_change_nothing() -> None:
    """The same large convolution on one to four threads, many times."""
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(-7, 8, (70, 40, 3, 3), generator=generator).to(torch.int8)
    x = torch.randn(5, 40, 23, 21, generator=generator)
    geometry = ConvGeometry((1, 1), (1, 1), (1, 1))
    case = grid.Case(
        0, x, codes, 4, 0.0, ActivationSpec(0.1, 8, 4), geometry, torch.rand(70, generator=generator), None
    )
    acc, y = case.expected()
    for name in BACKENDS:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            for _ in range(1 if name == "reference" else 5):
                with kernels.use_backend(name):
                    found = case.run()
                check(case, found, (acc, y), f"{name}, {threads} threads")
