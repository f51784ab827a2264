"""The ImageNet samples: real ones where they are, made-up archives, and every way a file can be bad."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from robustlab.core import ArgumentError, DataError
from robustlab.datasets import ImageNetSample, load_dataset
from robustlab.datasets.files import file_source, lossless
from robustlab.datasets.relabel import Relabelled

REAL = Path(os.environ.get("ROBUSTLAB_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="ROBUSTLAB_DATA names no folder of real data")
NAMES = ("n02_cat", "n01_dog", "n05_owl", "n04_hen", "n03_fox")
LABELS = np.array([1, 0, 4, 3, 2], dtype=np.int16)


def jpeg(seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
    levels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write(folder: Path, **changed: NDArray[np.generic]) -> list[bytes]:
    files = [jpeg(i) for i in range(5)]
    arrays: dict[str, NDArray[np.generic]] = {
        "bytes": np.frombuffer(b"".join(files), dtype=np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "y": LABELS,
        "name": np.array(NAMES),
    }
    (folder / "imagenet1000").mkdir(exist_ok=True)
    np.savez(folder / "imagenet1000" / "imagenet1000_224.npz", **(arrays | changed))  # type: ignore[arg-type]
    return files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUSTLAB_DATA", str(tmp_path))
    return tmp_path


@needs_data
def test_real_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTLAB_DATA", str(REAL))
    test, train = (load_dataset("imagenet1000", split=split) for split in ("test", "train"))
    assert (len(test), len(train), len(test.class_names), test.image_size) == (800, 200, 1000, (224, 224))
    assert test.class_names[:2] == ("n01440764_tench", "n01443537_goldfish")
    labels = torch.cat([data.batch(range(0, len(data), 100))[1] for data in (test, train)])
    assert len(labels.unique()) == len(labels)
    originals = load_dataset("imagenet-originals", image_size=64)
    images, labels = originals.batch(range(3))
    assert len(originals) == 125 and images.shape == (3, 3, 64, 64)
    by_name = {name.partition("_")[0]: label for label, name in enumerate(test.class_names)}
    files = {
        path.read_bytes(): by_name[path.name.partition("_")[0]] for path in (REAL / "imagenet_originals").iterdir()
    }
    source = file_source(originals)
    assert source is not None and source.jpeg
    assert [files[content] for content in source.files(range(3))] == labels.tolist()


def test_files_images_and_names_go_together(folder: Path) -> None:
    files = write(folder)
    test, train = ImageNetSample("imagenet1000", image_size=24), ImageNetSample("imagenet1000", "train", image_size=24)
    assert (len(test), len(train)) == (4, 1)
    assert test.class_names == ("n01_dog", "n02_cat", "n03_fox", "n04_hen", "n05_owl")
    contents = [*test.files(range(4)), *train.files([0])]
    assert sorted(contents) == sorted(files)
    images, labels = test.batch([2, 0])
    for image, label, index in zip(images, labels.tolist(), (2, 0), strict=True):
        assert LABELS[files.index(contents[index])] == label
        decoded = np.asarray(Image.open(io.BytesIO(contents[index])))
        assert torch.equal((image * 255).round().byte().permute(1, 2, 0), torch.from_numpy(decoded.copy()))
    other = ImageNetSample("imagenet1000", image_size=12)
    assert other.fingerprint != test.fingerprint != train.fingerprint
    with pytest.raises(ArgumentError, match="indices"):
        test.files([4])


def test_originals_are_named_by_their_class(folder: Path) -> None:
    write(folder)
    place = folder / "imagenet_originals"
    with pytest.raises(DataError, match="not here"):
        ImageNetSample("imagenet-originals")
    place.mkdir()
    with pytest.raises(DataError, match="no images"):
        ImageNetSample("imagenet-originals")
    (place / "n05_owl.JPEG").write_bytes(jpeg(1, (40, 30)))
    data = ImageNetSample("imagenet-originals", image_size=16)
    images, labels = data.batch([0])
    assert images.shape == (1, 3, 16, 16) and labels.tolist() == [4]
    with pytest.raises(DataError, match="train"):
        ImageNetSample("imagenet-originals", "train")
    (place / "n99_bat.JPEG").write_bytes(jpeg(1))
    with pytest.raises(DataError, match="n99_bat"):
        ImageNetSample("imagenet-originals")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"bytes": np.zeros(4, np.float32)}, "no list of files"),
        ({"offsets": np.array([0])}, "no list of files"),
        ({"offsets": np.array([0, 9, 5, 20, 30, 40])}, "offsets"),
        ({"y": np.array([0, 1, 2, 3, 3])}, "labels"),
        ({"y": LABELS.astype(np.float32)}, "labels"),
        ({"name": np.array(NAMES[:4])}, "labels"),
        ({"name": np.array([None] * 5)}, "cannot be read"),
    ],
)
def test_bad_archives(folder: Path, changed: dict[str, NDArray[np.generic]], words: str) -> None:
    with pytest.raises(DataError, match=r"not here.*ROBUSTLAB_DATA"):
        ImageNetSample("imagenet1000")
    write(folder, **changed)
    with pytest.raises(DataError, match=words):
        ImageNetSample("imagenet1000")


def test_the_files_behind_a_data_set(folder: Path) -> None:
    write(folder)
    data = ImageNetSample("imagenet1000", image_size=24)
    relabelled = Relabelled(data, tuple(reversed(data.class_names)))
    assert file_source(relabelled) is data
    signs = load_dataset("signs")
    assert file_source(signs) is None
    images, _ = signs.batch(range(2))
    for image, content in zip(images, lossless(images), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        assert np.array_equal(pixels, (image * 255).round().byte().permute(1, 2, 0).numpy())
