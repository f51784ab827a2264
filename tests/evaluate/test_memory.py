"""Memory that is freed is used again while models are evaluated, and given back afterwards."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from robustlab.evaluate import memory

BYTES = 2**26  # glibc keeps no block of this size by itself

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's thresholds")


def _faults() -> int:
    """Pages that the system has to find while large blocks are made and freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(BYTES // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_large_blocks_are_used_again_within_and_given_back_after(untold: pytest.MonkeyPatch) -> None:
    if memory._library("mallopt") is None:
        pytest.skip("another C library")
    outside = _faults()
    with memory.reusing_freed_memory():
        torch.ones(BYTES // 4)
        assert _faults() < outside / 8
        held = _resident()
    assert _resident() < held - BYTES // 2
    assert _faults() > outside / 2


def test_what_the_user_told_the_c_library_stays(untold: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    untold.setattr(memory, "_library", lambda name: lambda *arguments: calls.append(name))
    untold.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    with memory.reusing_freed_memory():
        pass
    assert not calls


def test_other_c_libraries_are_left_alone(untold: pytest.MonkeyPatch) -> None:
    untold.setattr(memory, "_library", lambda name: None)
    with memory.reusing_freed_memory():
        memory.return_freed_memory()


def test_thresholds_are_restored_after_an_error(untold: pytest.MonkeyPatch) -> None:
    if memory._library("mallopt") is None:
        pytest.skip("another C library")
    outside = _faults()
    with pytest.raises(KeyError), memory.reusing_freed_memory():
        raise KeyError
    assert _faults() > outside / 2
