"""scripts/train_signs.py: merging batch norms and sharing grids must not change what a network computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import robustlab as rl
from robustlab.compress import TrainConfig
from robustlab.compress.layers import Affine
from robustlab.deploy import stored_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_signs", ROOT / "scripts" / "train_signs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_merged_batch_norms_change_roundings_alone(script: ModuleType) -> None:
    images, _ = rl.datasets.load_dataset("signs").batch(range(64))
    model = rl.load("robustlab:signs_float")
    small = rl.compress(model, weights=4, activations=4, algorithm="lsq", calibration=images)
    plain, merged = rl.deploy(small), rl.deploy(script.merged(small, images[:4]))
    assert not any(isinstance(part, (nn.BatchNorm2d, Affine)) for part in merged.modules())
    assert stored_bytes(merged) < stored_bytes(plain)
    with torch.no_grad():
        expected, found = plain(images), merged(images)
    # A rounding moves a code only where it was at a tie; most images have no such place.
    close = (found - expected).abs().amax(dim=1) < 1e-4 * expected.abs().max()
    assert float(close.double().mean()) > 0.8
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_shared_grids_are_learned_together_and_deployed_alike(script: ModuleType) -> None:
    images, labels = rl.datasets.load_dataset("signs").batch(range(64))
    small = rl.compress(rl.load("robustlab:signs_float"), weights=4, activations=4, algorithm="lsq", calibration=images)
    with torch.no_grad():
        expected = small(images)
        script.share_grids(small)
        assert torch.equal(small(images), expected)
    rl.qat(small, images, labels, TrainConfig(1, batch_size=32, learning_rate=1e-2))
    stages = rl.deploy(small).stages
    for number in (1, 2):
        assert stages[number].conv1.scheme.activation == stages[number].shortcut[0].scheme.activation
