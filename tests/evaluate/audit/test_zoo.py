"""The masked zoo around real networks: twins answer alike, and the audit sees through the masks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from robustlab.core.paths import data_folder
from robustlab.datasets import load_dataset

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
_FOLDER = data_folder()
_WANTED = ("cifar10_cnn_a_mix", "cifar10_resnet20_akamaster", "mnist_cnn_a_adv")

pytestmark = pytest.mark.skipif(
    _FOLDER is None or not all((_FOLDER / "models" / f"{name}.safetensors").is_file() for name in _WANTED),
    reason="needs the networks of ROBUSTLAB_DATA",
)


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up, and one script imports the other
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def masked() -> Iterator[ModuleType]:
    yield _load("masked")
    sys.modules.pop("masked", None)


@pytest.mark.parametrize("name", ["round", "sign", "floor", "thermometer", "logits-x100", "dead-clamp", "softmax"])
def test_a_mask_and_its_twin_give_the_same_classes(name: str, masked: ModuleType) -> None:
    data = load_dataset(masked.MASKED[name].data)
    images, labels = data.batch(range(16))
    model, twin = masked.make(name, images)
    with torch.no_grad():
        answers = model(images).argmax(1)
        assert torch.equal(answers, twin(images).argmax(1))
    assert float((answers == labels).float().mean()) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["logits-x100", "zero-backward", "thermometer", "shattered", "cifar_cnn_a_mix", "cifar_oval_deep"]
)
def test_the_benchmark_flags_masks_and_nothing_else(name: str, masked: ModuleType, tmp_path: Path) -> None:
    script = _load("audit")
    sys.modules.pop("audit", None)
    script.IMAGES = 40
    row = script.judge(name, tmp_path, None)
    assert row["flagged"] == (row["kind"] == "masked"), row
    assert abs(row["audited"] - row["truth"]) <= 1.01 / 40
