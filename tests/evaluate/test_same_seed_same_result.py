"""Invariant 4 with the bundled models: outcomes, confidences and norms do not depend on how a run was cut up."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import robustlab as rl
from robustlab.core import Tiled
from robustlab.core.keys import sample_keys
from robustlab.datasets import Dataset, load_dataset

MODELS = ["robustlab:signs_float", "robustlab:signs_w4a4"]
CONDITIONS = ["clean", "pgd3-linf-2of255", "pgd2-l2-0.5", "gaussian-noise-3", "jpeg-compression-3"]
COLUMNS = "condition, model, shard, ids, prediction, correct, confidence, linf, l2, attacked"


def outcomes(folder: Path) -> dict[tuple[str, str, int], tuple[bytes, ...]]:
    """Every array of every cell, as stored."""
    with sqlite3.connect(folder / "results.sqlite") as store:
        rows = store.execute(f"SELECT {COLUMNS} FROM cells").fetchall()
    return {(row[0], row[1], row[2]): row[3:] for row in rows}


def run(folder: Path, limit: int = 70, **options: object) -> dict[tuple[str, str, int], tuple[bytes, ...]]:
    rl.evaluate(MODELS, "signs", CONDITIONS, out=folder, limit=limit, efficiency=False, tile=16, **options)  # type: ignore[arg-type]
    return outcomes(folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], tuple[bytes, ...]]:
    return run(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("batch_size", [16, 48])
def test_any_batch_size(
    tmp_path: Path, reference: dict[tuple[str, str, int], tuple[bytes, ...]], batch_size: int
) -> None:
    assert run(tmp_path, batch_size=batch_size) == reference


def test_another_seed_is_noticed(tmp_path: Path, reference: dict[tuple[str, str, int], tuple[bytes, ...]]) -> None:
    other = run(tmp_path, seed=1)
    assert other["clean", "signs_float", 0] == reference["clean", "signs_float", 0]
    assert other["gaussian-noise-3", "signs_float", 0] != reference["gaussian-noise-3", "signs_float", 0]
    assert other["pgd3-linf-2of255", "signs_w4a4", 0] != reference["pgd3-linf-2of255", "signs_w4a4", 0]


@dataclass(frozen=True)
class Part:
    """Samples start to start + count of a data set, as a data set."""

    whole: Dataset
    start: int
    count: int
    name: str = "part"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.whole.class_names

    @property
    def image_size(self) -> tuple[int, int]:
        return self.whole.image_size

    @property
    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint}{self.start}"

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.whole.batch([self.start + i for i in indices])


def test_any_shard_and_resume_point(
    tmp_path: Path,
    reference: dict[tuple[str, str, int], tuple[bytes, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shards of 20 instead of one, and a run that stops after some cells: the same numbers, sample by sample."""
    monkeypatch.setattr(importlib.import_module("robustlab.evaluate.plan"), "SHARD", 20)

    class Stop(RuntimeError):
        pass

    class Interrupting:
        def __init__(self) -> None:
            self.left = 13

        def start(self, task: str, total: int) -> None: ...

        def advance(self, units: int = 1, note: str = "") -> None:
            self.left -= 1
            if self.left == 0:
                raise Stop

        def finish(self) -> None: ...

    with pytest.raises(Stop):
        run(tmp_path, progress=Interrupting())
    before = len(outcomes(tmp_path))
    cut = run(tmp_path)
    assert 0 < before < len(cut) == 4 * len(reference)
    widths = [8, 4, None, 4, 4, 4, None]  # bytes per sample; None: a bitmap, compared below
    for (condition, model, _), whole in reference.items():
        parts = [cut[condition, model, shard] for shard in range(4)]
        for column, width in enumerate(widths):
            if width is not None:
                assert b"".join(part[column] for part in parts) == whole[column], (condition, model, column)
            else:
                counts = [20, 20, 20, 10]
                bits = [_bits(part[column], n) for part, n in zip(parts, counts, strict=True)]
                assert np.array_equal(np.concatenate(bits), _bits(whole[column], 70))


def _bits(blob: bytes, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(blob, dtype=np.uint8), count=count)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attack", [rl.attacks.PGD(rl.Linf(2 / 255), steps=3), rl.attacks.PGD(rl.L2(0.5), steps=3)])
def test_any_set_of_survivors(name: str, attack: rl.attacks.PGD) -> None:
    """A sample is attacked to the same bits alone, in another place of the batch, and beside other samples."""
    model = Tiled(rl.load(name), 16)
    images, labels = load_dataset("signs").batch(range(40))
    keys = sample_keys(0, attack.slug, range(40))
    everything = attack(model, images, labels, keys=keys)
    for chosen in ([5], [39, 2, 17], list(range(39, -1, -1)), list(range(0, 40, 3))):
        rows = torch.tensor(chosen)
        some = attack(model, images[rows], labels[rows], keys=keys[rows])
        assert torch.equal(some, everything[rows]), chosen
    with torch.no_grad():
        assert torch.equal(model(images)[rows], model(images[rows]))
