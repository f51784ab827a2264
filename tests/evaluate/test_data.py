"""The data set that fits the models: their image size and their numbering of the classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import robustlab as rl
from robustlab.core.errors import ArgumentError
from robustlab.datasets import load_dataset
from robustlab.datasets.relabel import Relabelled
from robustlab.evaluate.data import open_data
from robustlab.evaluate.plan import make_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 signs as PNG files in folders of their names."""
    root = tmp_path_factory.mktemp("signs")
    signs = load_dataset("signs")
    images, labels = signs.batch(range(48))
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = root / signs.class_names[label]
        place.mkdir(exist_ok=True)
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(place / f"{index:03}.png")
    return root


def test_a_folder_gets_the_size_and_the_numbering_of_the_model(folder: Path, tmp_path: Path) -> None:
    """The same images give the same accuracy from files as from the generator."""
    model = rl.load("robustlab:signs_w4a4")
    data = open_data(f"imagefolder:{folder}", [model])
    assert data.image_size == (64, 64)
    assert tuple(data.class_names) == load_dataset("signs").class_names
    options = {"efficiency": False, "tile": 16}
    files = rl.evaluate("robustlab:signs_w4a4", f"imagefolder:{folder}", ["clean"], out=tmp_path / "a", **options)  # type: ignore[arg-type]
    drawn = rl.evaluate("robustlab:signs_w4a4", "signs", ["clean"], out=tmp_path / "b", limit=48, **options)  # type: ignore[arg-type]
    assert files.cells[0]["correct"] == drawn.cells[0]["correct"] > 40


def test_images_of_another_size_are_refused(folder: Path, tmp_path: Path) -> None:
    data = load_dataset(f"imagefolder:{folder}", image_size=32)
    with pytest.raises(ArgumentError, match="64x64 and 32x32"):
        make_plan(
            "robustlab:signs_float",
            data,
            ["clean"],
            out=tmp_path / "none",
            limit=None,
            batch_size=64,
            tile=16,
            seed=0,
            device="cpu",
        )
    assert not (tmp_path / "none").exists()


def test_relabelling_moves_labels_and_changes_the_fingerprint() -> None:
    signs = load_dataset("signs")
    names = tuple(reversed(signs.class_names))
    other = Relabelled(signs, names)
    (images, labels), (same, moved) = signs.batch(range(30)), other.batch(range(30))
    assert torch.equal(images, same)
    assert [signs.class_names[i] for i in labels] == [names[i] for i in moved]
    assert other.fingerprint != signs.fingerprint
    assert len(other) == len(signs)
    with pytest.raises(ArgumentError, match="class_names"):
        Relabelled(signs, names[1:])
    more = Relabelled(signs, ("first", *names, "last"))
    assert torch.equal(more.batch(range(30))[1], moved + 1)


def test_an_unknown_backend_is_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    import os
    import subprocess
    import sys

    command = [sys.executable, "-m", "robustlab.cli", "evaluate", "--model", "robustlab:signs_float", "--out", "run"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "ROBUSTLAB_KERNELS": "magic"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "ROBUSTLAB_KERNELS is 'magic'" in done.stderr
    assert not list(tmp_path.iterdir())
