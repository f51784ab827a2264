"""A float layer gives a sample the same bits in any place of a tile of one shape."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import robustlab
import torch
generator = torch.Generator().manual_seed(0)
different = 0
for inputs in [*range(1, 40), 65, 333]:
    rows = torch.rand((64, inputs), generator=generator)
    weight = torch.rand((10, inputs), generator=generator)
    order = torch.randperm(64, generator=generator)
    different += not torch.equal((rows @ weight.T)[order], rows[order] @ weight.T)
print(different)
"""


@pytest.mark.parametrize("torch_first", [False, True])
def test_a_linear_layer_does_not_depend_on_the_place(torch_first: bool, tmp_path: object) -> None:
    """In a process of its own, because MKL reads its setting once."""
    script = ("import torch\n" if torch_first else "") + _SCRIPT
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=str(tmp_path), check=True)
    assert done.stdout.strip() == "0"
