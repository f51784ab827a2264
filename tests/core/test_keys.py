"""Keyed randomness: a sample's draws depend on nothing but its key, and never change silently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.core import ArgumentError
from robustlab.core import keys as K

PINNED_KEYS = [1877513896036570389, 67673910331327026, -848962590869997103]
PINNED_DERIVED = [-3082008237091602225, 4987574447728057153, -2930933416720966658]
PINNED_UNIFORM = [
    0.11342298984527588,
    0.9503734707832336,
    0.004458785057067871,
    0.3927146792411804,
    0.9346980452537537,
    0.8515079617500305,
]
PINNED_NORMAL = [0.2340787, -1.2934101, 0.0089499, -0.9075196, -1.8847566, -2.2050445]
PINNED_INTEGERS = [113, 950, 640, 4, 392, 255, 934, 851, 985]


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**70), ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8), data=st.data()
)
def test_draws_do_not_depend_on_order_or_batch(seed: int, ids: list[int], data: st.DataObject) -> None:
    keys = K.sample_keys(seed, "p", ids)
    order = data.draw(st.permutations(range(len(ids))))
    shuffled = K.sample_keys(seed, "p", [ids[i] for i in order])
    assert torch.equal(shuffled, keys[order])
    for draw in (K.uniform, K.normal):
        assert torch.equal(draw(shuffled, (2, 3)), draw(keys, (2, 3))[order])
        assert torch.equal(draw(keys[:1], (2, 3)), draw(keys, (2, 3))[:1])
    assert torch.equal(K.integers(shuffled, (5,), -3, 9), K.integers(keys, (5,), -3, 9)[order])


def test_seed_purpose_and_sample_give_different_streams() -> None:
    keys = torch.cat([K.sample_keys(s, p, range(500)) for s in (0, 1) for p in ("a", "b")])
    keys = torch.cat([keys, K.derive(keys, "a"), K.derive(keys, "b")])
    assert len(keys.unique()) == len(keys)
    first = K.uniform(keys, (1,)).flatten()
    assert abs(float(np.corrcoef(first[:500], first[500:1000])[0, 1])) < 0.15


def test_pinned_values() -> None:
    """A changed generator changes every result of every user: it must not happen unnoticed."""
    keys = K.sample_keys(0, "pgd20-linf-8of255", [0, 1, 4999])
    assert keys.tolist() == PINNED_KEYS
    assert K.derive(keys, "radius").tolist() == PINNED_DERIVED
    assert K.uniform(keys, (2,)).double().flatten().tolist() == pytest.approx(PINNED_UNIFORM, abs=0)
    assert K.normal(keys, (2,)).double().flatten().tolist() == pytest.approx(PINNED_NORMAL, abs=1e-6)
    assert K.integers(keys, (3,), 0, 1000).flatten().tolist() == PINNED_INTEGERS


def test_moments() -> None:
    keys = K.sample_keys(7, "moments", range(200))
    u, n, i = K.uniform(keys, (500,)), K.normal(keys, (500,)), K.integers(keys, (500,), 0, 10)
    assert u.dtype == n.dtype == torch.float32
    assert 0 <= float(u.min()) < 1e-4 and 1 - 1e-4 < float(u.max()) < 1
    assert float(u.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(u.var()) == pytest.approx(1 / 12, rel=0.02)
    assert float(n.mean()) == pytest.approx(0, abs=0.015)
    assert float(n.var()) == pytest.approx(1, rel=0.02)
    assert torch.bincount(i.flatten(), minlength=10).float().div(1e4).sub(1).abs().max() < 0.06
    assert float(K.uniform(keys, (500,), -2, 4).mean()) == pytest.approx(1, abs=0.03)


def test_shapes_and_the_empty_batch() -> None:
    keys = K.sample_keys(0, "p", range(3))
    assert K.uniform(keys, ()).shape == (3,)
    assert K.normal(keys, (2, 4)).shape == (3, 2, 4)
    assert K.sample_keys(0, "p", []).shape == (0,)
    assert K.uniform(keys[:0], (2,)).shape == (0, 2)
    assert torch.equal(K.sample_keys(0, "p", torch.arange(3)), keys)


def test_global_state_is_untouched() -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    K.normal(K.sample_keys(0, "p", range(3)), (4,))
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("ids", [[0.5], [[1, 2]], 3, ["a"], [True], torch.tensor([0.5])])
def test_bad_ids(ids: object) -> None:
    with pytest.raises(ArgumentError, match="ids is"):
        K.sample_keys(0, "p", ids)  # type: ignore[arg-type]


def test_bad_keys_and_seed() -> None:
    with pytest.raises(ArgumentError, match="seed is -1"):
        K.sample_keys(-1, "p", [0])
    for bad in (None, [1, 2], torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ArgumentError, match="keys is"):
            K.check_keys(bad, 2)
