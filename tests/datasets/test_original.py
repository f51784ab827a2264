"""imagecorruptions in a process of its own: with a stand-in for the package, and with the package where it is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robustlab.core import ArgumentError
from robustlab.core.errors import DataError
from robustlab.core.keys import sample_keys
from robustlab.datasets.corruptions import COMMON, HELD_OUT, corrupt, find
from robustlab.datasets.corruptions.files import corrupt_files
from robustlab.datasets.corruptions.original import reference_python
from robustlab.evaluate.conditions import parse_condition

MODULES = {
    "cv2.py": "__version__ = '0'\ndef setNumThreads(n): pass\n",
    "skimage/__init__.py": "__version__ = '0'\nfrom skimage import filters, util\n",
    "skimage/filters.py": "def gaussian(image, sigma, channel_axis): return image\n",
    "skimage/util.py": "def random_noise(image, rng=None): return rng\n",
    "imagecorruptions/corruptions.py": "",
    "imagecorruptions/__init__.py": """
import os
import numpy as np
import skimage as sk
def corrupt(image, severity, corruption_name):
    print("chatter")
    if corruption_name == "fog":
        raise ValueError("no fog today")
    if corruption_name == "frost":
        os._exit(3)
    if corruption_name == "impulse_noise":
        return np.full_like(image, sk.util.random_noise(image) % 256)
    return image // 2 + severity + np.random.randint(0, 100, dtype=np.uint8)
""",
}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose imagecorruptions halves levels and adds the severity and one draw per image."""
    folder = tmp_path / "reference"
    for name, text in MODULES.items():
        path = folder / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder / "modules"}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / "ready").touch()
    monkeypatch.setenv("ROBUSTLAB_REFERENCE", str(folder))
    return folder


def images(count: int, side: int = 32) -> torch.Tensor:
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, 256, (count, 3, side, side + 3), dtype=np.uint8))


def test_images_go_there_and_back_each_with_its_own_seed(stand_in: Path, tmp_path: Path) -> None:
    x, keys = images(5), sample_keys(0, "x", range(5))
    found = corrupt(x, "imagecorruptions:snow", 4, keys)
    added = (found - (x // 2 + 4)).flatten(1)
    assert bool((added == added[:, :1]).all()) and len(added[:, 0].unique()) > 2
    assert torch.equal(corrupt(x[2:4], "imagecorruptions:snow", 4, keys[2:4]), found[2:4])
    condition = parse_condition("imagecorruptions:motion-blur-2")
    assert condition.key == "imagecorruptions-motion-blur-2" and parse_condition(condition.key) == condition
    shown = condition.show(x.to(torch.float32) / 255, torch.zeros(5), keys, None).images
    assert torch.equal((shown * 255).round().byte() - 2, found - 4)
    noise = corrupt(x, "imagecorruptions:impulse_noise", 1, keys)
    assert torch.equal(noise, corrupt(x, "imagecorruptions:impulse_noise", 1, keys)) and len(noise.unique()) > 1

    # What goes wrong there is said here, and the process goes on, or another one.
    with pytest.raises(DataError, match="imagecorruptions: ValueError: no fog today"):
        corrupt(x, "imagecorruptions:fog", 1, keys)
    assert torch.equal(corrupt(x, "imagecorruptions:snow", 4, keys), found)
    for _ in range(2):
        with pytest.raises(DataError, match="its process ended with code 3"):
            corrupt(x, "imagecorruptions:frost", 1, keys)
    assert torch.equal(corrupt(x, "imagecorruptions:snow", 4, keys), found)

    from PIL import Image

    Image.fromarray(x[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    assert corrupt_files([tmp_path / "a.png"], ["imagecorruptions:snow"], [3], tmp_path / "out").written == 1
    assert (tmp_path / "out" / "imagecorruptions-snow" / "3" / "a.png").is_file()


def test_bad_input_is_refused_before_work(stand_in: Path) -> None:
    keys = sample_keys(0, "x", range(2))
    with pytest.raises(ArgumentError, match="did you mean snow"):
        find("imagecorruptions:snows")
    with pytest.raises(ArgumentError, match="H, W >= 32"):
        corrupt(images(2, 31), "imagecorruptions:snow", 1, keys)
    with pytest.raises(ArgumentError, match="table is 'cifar-10-c'"):
        corrupt(images(2), "imagecorruptions:snow", 1, keys, "cifar-10-c")


def test_a_missing_environment_is_said_with_the_way_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTLAB_REFERENCE", str(tmp_path))
    for act in (lambda: find("imagecorruptions:snow"), lambda: parse_condition("imagecorruptions:snow-3")):
        with pytest.raises(DataError, match=r"no environment in .*reference_corruptions\.sh"):
            act()


def test_the_package_itself() -> None:
    try:
        reference_python()
    except DataError as error:
        pytest.skip(str(error))
    x, keys = images(2), sample_keys(0, "x", range(2))
    for name in (*COMMON, *HELD_OUT):
        found = corrupt(x, f"imagecorruptions:{name}", 3, keys)
        assert found.shape == x.shape and not torch.equal(found, x)
        assert torch.equal(corrupt(x[1:], f"imagecorruptions:{name}", 3, keys[1:]), found[1:]), name
