"""What is hashed of a module's code: enough to tell functions apart, and the same in every process."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from robustlab.core.digest import describe_code


class Holder(nn.Module):
    """A module with a function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """What the function says."""
        return self.function(x)


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    """A function that closes over a number."""

    def scale(x: Tensor) -> Tensor:
        return x * factor

    return scale


def within(x: Tensor, levels: int = 4) -> Tensor:
    return torch.round(x * levels) / levels


FUNCTIONS: list[Callable[..., Tensor]] = [
    lambda x: x,
    lambda x: torch.round(x * 4) / 4,
    lambda x: torch.round(x * 8) / 8,
    lambda x: torch.floor(x * 4) / 4,
    scaled(1.0),
    scaled(2.0),
    within,
    functools.partial(within, levels=4),
    functools.partial(within, levels=8),
    torch.relu,
    torch.sigmoid,
]


def test_functions_that_differ_are_told_apart_and_equal_ones_are_not() -> None:
    texts = [describe_code(Holder(function)) for function in FUNCTIONS]
    assert len(set(texts)) == len(FUNCTIONS)
    assert describe_code(Holder(scaled(2.0))) == texts[5]
    assert describe_code(Holder(functools.partial(within, levels=8))) == texts[8]


def counting(step: int) -> Callable[..., Tensor]:
    """A function that calls itself, and so closes over itself."""

    def count(x: Tensor, *, left: int = 2) -> Tensor:
        return x if left == 0 else count(x + step, left=left - 1)

    return count


def test_functions_may_call_themselves_and_keyword_defaults_count() -> None:
    def two(x: Tensor, *, levels: int = 2) -> Tensor:
        return x * levels

    first = describe_code(Holder(two))
    two.__kwdefaults__["levels"] = 3
    assert describe_code(Holder(two)) != first
    assert describe_code(Holder(counting(1))) == describe_code(Holder(counting(1)))
    assert describe_code(Holder(counting(1))) != describe_code(Holder(counting(2)))


def test_the_code_of_forward_counts() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    one = First()
    First.__qualname__ = "Same"
    texts = {describe_code(one)}

    class Second(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 3

    Second.__qualname__ = "Same"
    texts.add(describe_code(Second()))
    texts |= {describe_code(fx.symbolic_trace(module)) for module in (First(), Second())}
    assert len(texts) == 4
    assert describe_code(nn.Linear(2, 2)) == ""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_it_is_the_same_in_another_process(seed: str) -> None:
    program = (
        "from torch import nn\n"
        "class M(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x if x.device.type in {'cpu', 'cuda', 'mps'} else -x\n"
        "from robustlab.core.digest import describe_code\n"
        "print(describe_code(M()))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": s}
        ).stdout
        for s in (seed, "3")
    }
    assert len(found) == 1 and len(found.pop()) > 20
