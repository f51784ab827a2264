from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustlab.core import StoreError
from robustlab.evaluate.outcomes import Outcomes
from robustlab.evaluate.store import SCHEMA, Cell, Store, StoredExample, digest


def outcomes(n: int, seed: int = 0) -> Outcomes:
    random = np.random.default_rng(seed)
    confidence = random.random(n, dtype=np.float32)
    confidence[::3] = np.nan
    return Outcomes(
        ids=np.arange(n, dtype=np.int64) + 10,
        prediction=random.integers(-1, 5, n).astype(np.int32),
        correct=random.random(n) < 0.5,
        confidence=confidence,
        linf=random.random(n, dtype=np.float32),
        l2=random.random(n, dtype=np.float32),
        attacked=random.random(n) < 0.5,
    )


def cell(key: str, n: int = 13, seed: int = 0) -> Cell:
    return Cell(key, "images", "model", "clean", 0, outcomes(n, seed), 1.5)


def ids(n: int = 13) -> range:
    return range(10, 10 + n)


@given(n=st.integers(1, 70), seed=st.integers(0, 99))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_cell_comes_back_bit_for_bit(tmp_path: Path, n: int, seed: int) -> None:
    key = f"{n}/{seed}"
    with Store(tmp_path / "s.sqlite") as store:
        store.put(cell(key, n, seed))
        found = store.get(key, ids(n))
    assert found is not None
    assert found[0].equals(outcomes(n, seed))
    assert found[1] == 1.5


def test_the_first_of_equal_keys_stays_and_unknown_keys_are_none(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as first, Store(tmp_path / "s.sqlite") as second:
        first.put(cell("a", seed=1))
        second.put(cell("a", seed=2))
        assert second.count() == 1
        found = second.get("a", ids())
        assert found is not None
        assert found[0].equals(outcomes(13, 1))
        assert second.get("b", ids()) is None


def test_examples_and_measurements(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.put(cell("a"), [StoredExample(1, 4, b"png1"), StoredExample(0, 3, b"png0")])
        store.put(cell("b"), [StoredExample(0, 3, b"again")])
        assert store.examples("images") == [StoredExample(0, 3, b"png0"), StoredExample(1, 4, b"png1")]
        assert store.examples("other") == []
        store.put_measurement("k", "efficiency", {"x": 1.5})
        assert store.measurement("k") == {"x": 1.5}
        assert store.measurement("l") is None


def test_digest_depends_on_every_part_and_not_on_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    assert len(digest({})) == 64


@pytest.mark.parametrize("content", [b"hello", b"SQLite format 3\0" + b"\xff" * 4096, b"SQLite format 3\0"])
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "s.sqlite"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"s\.sqlite") as caught:
        Store(file)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").touch()
    with Store(tmp_path / "s.sqlite") as store:
        assert store.count() == 0


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("CREATE TABLE cells (x)")
    before = (tmp_path / "s.sqlite").read_bytes()
    with pytest.raises(StoreError, match="another program's"):
        Store(tmp_path / "s.sqlite")
    assert (tmp_path / "s.sqlite").read_bytes() == before


@pytest.mark.parametrize(("version", "word"), [(SCHEMA + 1, "newer"), (SCHEMA - 1, "older")])
def test_another_schema_is_refused(tmp_path: Path, version: int, word: str) -> None:
    Store(tmp_path / "s.sqlite").close()
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(StoreError, match=word):
        Store(tmp_path / "s.sqlite")


@pytest.mark.parametrize(
    "change",
    [
        "prediction = x'00'",
        "correct = zeroblob(3)",
        "confidence = 'text'",
        "n = 14",
        "seconds = 'soon'",
        "ids = zeroblob(104)",
        f"prediction = x'{'00' * 48}00000080'",
    ],
)
def test_an_altered_cell_is_refused(tmp_path: Path, change: str) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.put(cell("a"))
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute(f"UPDATE cells SET {change}")
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(StoreError, match="start over"):
        store.get("a", ids())


def test_a_damaged_page_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    with Store(file) as store:
        for number in range(200):
            store.put(cell(str(number), 100))
    content = bytearray(file.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError) as caught, Store(file) as store:
        store.get("7", ids(100))
    assert "\n" not in str(caught.value)


def test_a_measurement_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.put_measurement("k", "parity", {"x": 1})
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("UPDATE measurements SET payload = '[1'")
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(StoreError, match="malformed"):
        store.measurement("k")


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        with pytest.raises(StoreError):
            store.put(cell("a"), [StoredExample(0, 0, None)])  # type: ignore[arg-type]
        assert store.count() == 0
        store.put(cell("a"))
        assert store.count() == 1
