"""CIFAR-10 in its three layouts, against torchvision, and with every kind of damaged or hostile file."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from robustlab.core import DataError
from robustlab.datasets import Cifar10, load_dataset
from robustlab.datasets.cifar_batches import read_python_batch

REAL = Path(os.environ.get("ROBUSTLAB_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Start in an empty folder without the variables, so that only what a test makes is found."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("ROBUSTLAB_DATA", raising=False)
    monkeypatch.delenv("ROBUSTLAB_CIFAR10", raising=False)


def samples(count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), generator.integers(
        0, 10, count, dtype=np.uint8
    )


def save_arrays(root, x, y, name="test1000.npz"):
    (root / "cifar10").mkdir(parents=True, exist_ok=True)
    np.savez(root / "cifar10" / name, x=x, y=y)


def save_binary(root, x, y, name="test_batch.bin"):
    (root / "cifar-10-batches-bin").mkdir(parents=True, exist_ok=True)
    records = np.concatenate([y[:, None], x.transpose(0, 3, 1, 2).reshape(len(x), -1)], axis=1).astype(np.uint8)
    (root / "cifar-10-batches-bin" / name).write_bytes(records.tobytes())


def python2_string(value):
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def python2_batch(x, y):
    """The opcodes that Python 2's cPickle wrote for the published files, with the constants of theirs."""
    number = lambda v: b"K" + bytes([v]) if v < 256 else b"M" + struct.pack("<H", v)  # noqa: E731
    flat = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    labels = b"]q\x05(" + b"".join(number(int(v)) for v in y) + b"e"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08"
        b"(K\x01" + number(len(x)) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + python2_string(flat.tobytes()) + b"tb"
    )
    names = b"]q\x0b(" + b"".join(python2_string(b"picture_%d.png" % i) for i in range(len(x))) + b"e"
    return (
        b"\x80\x02}q\x01(" + python2_string(b"batch_label") + b"q\x02" + python2_string(b"testing batch 1 of 1")
        + python2_string(b"labels") + labels + python2_string(b"data") + array
        + python2_string(b"filenames") + names + b"u."
    )  # fmt: skip


def save_python(root, x, y, name="test_batch", content=None):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(python2_batch(x, y) if content is None else content)
    return folder


def assert_holds(data, x, y):
    images, labels = data.batch(range(len(y)))
    assert images.dtype == torch.float32 and labels.dtype == torch.int64 and images.shape == (len(y), 3, 32, 32)
    assert torch.equal(images, torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)
    assert labels.tolist() == y.tolist() and len(data) == len(y)


@pytest.mark.skipif(not (REAL / "cifar10" / "test1000.npz").is_file(), reason="needs the data of ROBUSTLAB_DATA")
def test_the_real_arrays(monkeypatch):
    monkeypatch.setenv("ROBUSTLAB_DATA", str(REAL))
    test, train = load_dataset("cifar10"), load_dataset("cifar10", split="train")
    assert (len(test), len(train)) == (1000, 4000) and test.fingerprint != train.fingerprint
    assert test.class_names[:2] == ("airplane", "automobile") and test.image_size == (32, 32)
    images, labels = test.batch([0, 1, 2])
    assert labels.tolist() == [3, 8, 8]  # cat, ship, ship: how the published test set begins
    assert 0.2 < float(images.mean()) < 0.7


def test_arrays_from_the_variable_and_from_beside_the_folder(tmp_path, monkeypatch):
    x, y = samples(7)
    save_arrays(tmp_path / "shared" / "data", x, y)
    assert_holds(Cifar10(), x, y)
    other, labels = samples(5, 1)
    save_arrays(tmp_path / "elsewhere", other, labels)
    monkeypatch.setenv("ROBUSTLAB_DATA", str(tmp_path / "elsewhere"))
    assert_holds(Cifar10(), other, labels)
    save_arrays(tmp_path / "elsewhere", x, y, "train4000.npz")
    assert_holds(Cifar10("train"), x, y)


def test_binary_layout(tmp_path):
    x, y = samples(6)
    save_binary(tmp_path / "cwd" / "data", x, y)
    assert_holds(Cifar10(), x, y)
    parts = [samples(3, seed) for seed in range(5)]
    for i, part in enumerate(parts):
        save_binary(tmp_path / "cwd" / "data", *part, f"data_batch_{i + 1}.bin")
    assert_holds(Cifar10("train"), np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))


def test_the_variable_wins(tmp_path, monkeypatch):
    x, y = samples(4)
    save_arrays(tmp_path / "shared" / "data", *samples(9, 1))
    save_binary(tmp_path / "mine", x, y)
    monkeypatch.setenv("ROBUSTLAB_CIFAR10", str(tmp_path / "mine"))
    assert_holds(Cifar10(), x, y)


def test_python_layout_equals_torchvision(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    parts = [samples(4, seed) for seed in range(6)]
    root = tmp_path / "cwd" / "data"
    save_python(root, *parts[5])
    for i in range(5):
        save_python(root, *parts[i], f"data_batch_{i + 1}")
    meta = {"label_names": [str(i) for i in range(10)], "num_cases_per_batch": 4, "num_vis": 3072}
    (root / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for split in ("train", "test"):
        reference = datasets.CIFAR10(str(root), train=split == "train")
        assert_holds(Cifar10(split), reference.data, np.asarray(reference.targets))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_batch_saved_by_python_3(protocol):
    x, y = samples(3)
    flat = x.transpose(0, 3, 1, 2).reshape(3, -1).copy()
    batch = {b"data": flat, b"labels": [int(v) for v in y], b"filenames": [b"a", b"b", b"c"], b"batch_label": b"x"}
    data, labels = read_python_batch(pickle.dumps(batch, protocol=protocol), "f")
    assert np.array_equal(data, flat) and labels.tolist() == y.tolist()


def test_the_fingerprint_follows_content_not_layout(tmp_path, monkeypatch):
    x, y = samples(4)
    prints = []
    for i, save in enumerate((save_arrays, save_binary, save_python)):
        save(tmp_path / str(i), x, y)
        monkeypatch.setenv("ROBUSTLAB_DATA" if i == 0 else "ROBUSTLAB_CIFAR10", str(tmp_path / str(i)))
        prints.append(Cifar10().fingerprint)
    assert len(set(prints)) == 1
    save_python(tmp_path / "2", x, (y + 1) % 10)
    assert Cifar10().fingerprint != prints[0]


def test_nothing_found_says_where_and_how():
    with pytest.raises(DataError) as error:
        load_dataset("cifar10")
    text = str(error.value)
    assert "test1000.npz" in text and "cifar-10-batches-py" in text and "cifar-10-batches-bin" in text
    assert "curl -L https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz" in text and "\n" not in text


def test_a_variable_that_points_nowhere_is_not_passed_over(tmp_path, monkeypatch):
    save_arrays(tmp_path / "shared" / "data", *samples(3))
    monkeypatch.setenv("ROBUSTLAB_CIFAR10", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere"):
        Cifar10()


X, Y = samples(3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X.astype(np.float32), Y, "holds images float32"),
        (X[:2], Y, "holds images uint8"),
        (X[:, :31], Y, "holds images uint8"),
        (X[0], Y, "holds x"),
        (X, Y[:, None], "holds x"),
        (X[:0], Y[:0], "holds labels"),
        (X, Y.astype(np.float64), "holds labels float64"),
        (X, np.array([0, 10, 1], dtype=np.uint8), "holds labels from 0 to 10; allowed: 0 to 9"),
        (X, np.array([0, -1, 1]), "holds labels from -1 to 1"),
    ],
)
def test_wrong_arrays(tmp_path, x, y, message):
    save_arrays(tmp_path / "shared" / "data", x, y)
    with pytest.raises(DataError, match=message) as error:
        Cifar10()
    assert "test1000.npz" in str(error.value) and "\n" not in str(error.value)


class Hostile:
    """Runs a command when unpickled."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_objects_in_arrays_are_refused_and_not_run(tmp_path):
    save_arrays(tmp_path / "shared" / "data", np.array([Hostile()], dtype=object), np.zeros(1, dtype=np.uint8))
    with pytest.raises(DataError, match="cannot be read"):
        Cifar10()
    assert not Path("owned").exists()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty", "npy", "key"])
def test_damaged_archives(tmp_path, damage):
    path = tmp_path / "shared" / "data" / "cifar10" / "test1000.npz"
    save_arrays(tmp_path / "shared" / "data", X, Y)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 3] ^= 255
    elif damage == "text":
        content = bytearray(b"hello")
    elif damage == "empty":
        content = bytearray()
    elif damage == "npy":
        buffer = io.BytesIO()
        np.save(buffer, X)
        content = bytearray(buffer.getvalue())
    else:
        np.savez(path, x=X)
        content = bytearray(path.read_bytes())
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"test1000\.npz"):
        Cifar10()


@pytest.mark.parametrize("content", [b"", b"\x01" * 3072, b"\x0a" * 3073])
def test_damaged_binary(tmp_path, content):
    folder = tmp_path / "cwd" / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (folder / "test_batch.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"test_batch\.bin holds"):
        Cifar10()


def test_a_missing_training_batch_is_named(tmp_path):
    save_binary(tmp_path / "cwd" / "data", X, Y, "data_batch_1.bin")
    with pytest.raises(DataError, match=r"data_batch_2\.bin cannot be read"):
        Cifar10("train")


GOOD = python2_batch(X, Y)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        GOOD[: len(GOOD) // 2],
        GOOD[:-1],
        pickle.dumps(Hostile()),
        pickle.dumps({b"data": Hostile(), b"labels": [1]}),
        pickle.dumps({b"data": X.reshape(3, -1).astype(np.float32), b"labels": [1, 2, 3]}),
        pickle.dumps({b"data": X.reshape(3, -1)[:, :5].copy(), b"labels": [1, 2, 3]}),
        pickle.dumps({b"data": X.reshape(3, -1), b"labels": [1, 2]}),
        pickle.dumps({b"data": X.reshape(3, -1), b"labels": [1, 2, "3"]}),
        pickle.dumps({b"data": X.reshape(3, -1)}),
        pickle.dumps([1, 2]),
        b"}.}.",
        b"\x80\x02h\x05.",
        b"t.",
        b"b.",
        b"R.",
    ],
)
def test_damaged_or_hostile_python_batches(content):
    with pytest.raises(DataError, match="batch_file is not a CIFAR-10 batch") as error:
        read_python_batch(content, "batch_file")
    assert not Path("owned").exists() and "\n" not in str(error.value)


def test_every_flipped_opcode_is_read_the_same_or_refused():
    """Single damaged bytes outside of the pixels never crash with anything but `DataError`."""
    header = GOOD.index(X.transpose(0, 3, 1, 2).tobytes()[:16])
    for position in range(header):
        for value in (40, 82, 98):
            damaged = bytearray(GOOD)
            damaged[position] = value
            try:
                data, labels = read_python_batch(bytes(damaged), "f")
            except DataError:
                continue
            assert data.shape[1] == 3072 and len(labels) == len(data)


def test_labels_out_of_range_in_a_python_batch(tmp_path):
    save_python(tmp_path / "cwd" / "data", X, np.array([1, 2, 11]))
    with pytest.raises(DataError, match="holds labels from 1 to 11"):
        Cifar10()
