"""Counter-based randomness: every draw is a function of (seed, purpose, sample id), never of order or batch.

A batch of *keys* is an int64 tensor (N,), one per sample. Each sample's stream is NumPy's Philox (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) keyed with that number, so a sample draws the same values
in any batch, shard, order or process, and on any device: draws are made on the CPU and copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from robustlab.core.errors import check_int, invalid


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """Steele et al. 2014, the finalizer of SplitMix64: a bijection of uint64 that mixes every bit."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _digest(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def sample_keys(seed: int, purpose: str, ids: Sequence[int] | Tensor) -> Tensor:
    """Make the keys (N,) of samples `ids` for one purpose, such as ``"pgd20-linf-8of255"``.

    Raises `ArgumentError` for a negative seed or ids that are not a one-dimensional list of whole numbers.
    """
    check_int("seed", seed, 0)
    given = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise invalid("ids", f"{given.dtype} of shape {given.shape}", "a list of whole numbers")
    numbers = given.astype(np.int64)
    mixed = _splitmix64(numbers.view(np.uint64) ^ _digest(f"{seed}/{purpose}"))
    return torch.from_numpy(_splitmix64(mixed).view(np.int64).copy())


def derive(keys: Tensor, purpose: str) -> Tensor:
    """Keys (N,) for a second, independent draw of the same samples."""
    numbers = check_keys(keys).cpu().numpy().view(np.uint64)
    return torch.from_numpy(_splitmix64(numbers ^ _digest(purpose)).view(np.int64).copy())


def check_keys(keys: object, count: int | None = None) -> Tensor:
    """Return `keys` if it is an int64 tensor (N,), N = `count` if given; otherwise raise `ArgumentError`."""
    ok = isinstance(keys, Tensor) and keys.dtype == torch.int64 and keys.ndim == 1
    if not ok or (count is not None and len(keys) != count):  # type: ignore[arg-type]
        shown = f"{keys.dtype} of shape {tuple(keys.shape)}" if isinstance(keys, Tensor) else type(keys).__name__
        raise invalid("keys", shown, f"an int64 tensor ({'N' if count is None else count},) from sample_keys()")
    assert isinstance(keys, Tensor)
    return keys


def generators(keys: Tensor) -> Iterator[np.random.Generator]:
    """One NumPy generator per key, in order."""
    for key in check_keys(keys).cpu().numpy().view(np.uint64):
        yield np.random.Generator(np.random.Philox(key=np.array([key, 0], dtype=np.uint64)))


def _stack(rows: list[np.ndarray], shape: tuple[int, ...], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    if not rows:
        return torch.empty((0, *shape), dtype=dtype, device=device)
    return torch.from_numpy(np.stack(rows)).to(device=device, dtype=dtype)


def uniform(
    keys: Tensor, shape: Sequence[int], low: float = 0.0, high: float = 1.0, device: torch.device | str = "cpu"
) -> Tensor:
    """float32 (N, *shape), uniform in [low, high), one stream per key."""
    size = tuple(shape)
    rows = [g.random(size, dtype=np.float32) * np.float32(high - low) + np.float32(low) for g in generators(keys)]
    return _stack([np.asarray(r) for r in rows], size, device, torch.float32)


def normal(keys: Tensor, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """float32 (N, *shape), standard normal, one stream per key."""
    size = tuple(shape)
    rows = [np.asarray(g.standard_normal(size, dtype=np.float32)) for g in generators(keys)]
    return _stack(rows, size, device, torch.float32)


def integers(keys: Tensor, shape: Sequence[int], low: int, high: int, device: torch.device | str = "cpu") -> Tensor:
    """int64 (N, *shape), uniform in [low, high), one stream per key."""
    size = tuple(shape)
    rows = [np.asarray(g.integers(low, high, size)) for g in generators(keys)]
    return _stack(rows, size, device, torch.int64)
