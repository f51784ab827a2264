"""GTSRB and MNIST from arrays, real and made up, and every way a file can be bad."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from robustlab.core import ArgumentError, DataError
from robustlab.datasets import ArrayImages, load_dataset

REAL = Path(os.environ.get("ROBUSTLAB_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="ROBUSTLAB_DATA names no folder of real data")


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "count", "classes", "side"),
    [
        ("gtsrb", "test", 3158, 43, 32),
        ("gtsrb", "train", 4300, 43, 32),
        ("mnist", "test", 3000, 10, 28),
        ("mnist", "train", 60_000, 10, 28),
    ],
)
def test_real_files(
    name: str, split: str, count: int, classes: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTLAB_DATA", str(REAL))
    data = load_dataset(name, split=split)
    assert (len(data), len(data.class_names), data.image_size) == (count, classes, (side, side))
    assert len(set(data.class_names)) == classes
    images, labels = data.batch([0, count - 1, 5])
    assert images.shape == (3, 3, side, side) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal((images * 255).round() / 255, images) and images.min() >= 0 and images.max() <= 1
    assert data.fingerprint == load_dataset(name, split=split).fingerprint
    with pytest.raises(ArgumentError, match="indices"):
        data.batch([count])


def write(folder: Path, name: str, **arrays: object) -> None:
    path = folder / {"gtsrb": "gtsrb/gtsrb32_test3158.npz", "mnist": "mnist/mnist_60k_train_3k_test.npz"}[name]
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUSTLAB_DATA", str(tmp_path))
    return tmp_path


def test_pixels_and_labels_are_those_of_the_file(folder: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    write(folder, "gtsrb", x=x, y=np.array([0, 42, 3, 3, 7]))
    images, labels = ArrayImages("gtsrb").batch([4, 1])
    assert torch.equal(images, torch.from_numpy(x[[4, 1]]).permute(0, 3, 1, 2).float() / 255)
    assert labels.tolist() == [7, 42]
    before = ArrayImages("gtsrb").fingerprint
    write(folder, "gtsrb", x=x, y=np.array([0, 42, 3, 3, 8]))
    assert ArrayImages("gtsrb").fingerprint != before


def test_bad_files(folder: Path) -> None:
    with pytest.raises(DataError, match=r"not here.*ROBUSTLAB_DATA"):
        ArrayImages("gtsrb")
    x, y = np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int64)
    bad = [
        {"x": x},
        {"x": x.astype(np.float32), "y": y},
        {"x": x[:, :31], "y": y},
        {"x": x[..., :2], "y": y},
        {"x": x, "y": y[:1]},
        {"x": x, "y": y + 43},
        {"x": x, "y": y - 1},
        {"x": x, "y": y.astype(np.float64)},
        {"x": x[:0], "y": y[:0]},
        {"x": np.array([object()]), "y": y},
    ]
    for arrays in bad:
        write(folder, "gtsrb", **arrays)
        with pytest.raises(DataError, match=r"gtsrb32_test3158\.npz"):
            ArrayImages("gtsrb")
    (folder / "gtsrb" / "gtsrb32_test3158.npz").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        ArrayImages("gtsrb")
    write(folder, "mnist", x=np.zeros((2, 28, 28), np.uint8), y=y)
    assert len(ArrayImages("mnist", "train")) == 2
    with pytest.raises(DataError, match="more than 60000"):
        ArrayImages("mnist")
