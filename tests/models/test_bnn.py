"""Binary networks that nobody here trained, on the packed kernels, against their semantics in whole numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

import robustlab as rl
from robustlab.core.errors import DataError, ModelFileError
from robustlab.deploy import PackedLayer, scheme, simulated_twin, stored_bytes
from robustlab.kernels import available, use_backend
from robustlab.kernels.program import Conv, Program, Scale, Store, StoreBelow
from robustlab.models import info_of

DATA = Path(os.environ.get("ROBUSTLAB_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="ROBUSTLAB_DATA names no folder of real data")

Integers = NDArray[np.int64]
SETS = {
    "bnn_cifar10_cnvW1A1": ("cifar10/test1000.npz", slice(0, 1000), 806),
    "bnn_gtsrb_cnvW1A1": ("gtsrb/gtsrb32_test3158.npz", slice(0, 1000), 956),
    "bnn_mnist_lfcW1A1": ("mnist/mnist_60k_train_3k_test.npz", slice(60_000, 63_000), 2926),
}


@pytest.fixture(autouse=True)
def real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTLAB_DATA", str(DATA.resolve()))


def read(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (N, H, W[, 3]) and labels."""
    path, rows, _ = SETS[name]
    with np.load(DATA / path, allow_pickle=False) as file:
        return file["x"][rows], file["y"][rows]


def as_images(pixels: NDArray[np.uint8]) -> Tensor:
    """Float images (N, 3, H, W) in [0, 1]; grey ones three times."""
    if pixels.ndim == 3:
        pixels = np.repeat(pixels[..., None], 3, axis=3)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255


def convolve(x: Integers, weight: Integers) -> Integers:
    """Valid 3x3 convolution: (N, C, H, W) and (O, C, 3, 3) -> (N, O, H - 2, W - 2)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    count, channels, height, width = windows.shape[:4]
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(count * height * width, channels * 9)
    sums = rows @ weight.reshape(len(weight), -1).T
    return sums.reshape(count, height, width, len(weight)).transpose(0, 3, 1, 2)


def binarize(sums: Integers, threshold: NDArray[np.float32], step: int) -> Integers:
    """+1 where sums / step > threshold, else -1."""
    limits = threshold.astype(np.float64).reshape(-1, *([1] * (sums.ndim - 2)))
    return np.where(sums > limits * step, 1, -1).astype(np.int64)


def scores_of(name: str, pixels: NDArray[np.uint8]) -> Integers:
    """Sums of the last layer, by the `semantics` in the metadata of the file."""
    tensors = load_file(DATA / "models" / f"{name}.safetensors")
    weights = {key: value.astype(np.int64) for key, value in tensors.items() if key.endswith("weight")}
    if "lfc" in name:
        x, layers = np.where(pixels.reshape(len(pixels), -1) > 127, 1, -1).astype(np.int64), 4
    else:
        x, layers = pixels.transpose(0, 3, 1, 2).astype(np.int64) - 128, 3  # floor((2 p / 255 - 1) 128), at most 127
        for index in range(6):
            sums = convolve(x, weights[f"conv{index}.weight"])
            x = binarize(sums, tensors[f"conv{index}.threshold"], 128 if index == 0 else 1)
            if index in (1, 3):
                count, channels, height, width = x.shape
                x = x.reshape(count, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
        x = x.reshape(len(x), -1)
    for index in range(layers):
        x = x @ weights[f"fc{index}.weight"].T
        if index + 1 < layers:
            x = binarize(x, tensors[f"fc{index}.threshold"], 1)
    return x


def step_of(model: torch.nn.Module) -> float:
    """What the sums of the last layer are multiplied with: a power of two."""
    layer = [module for module in model.modules() if isinstance(module, PackedLayer)][-1]
    step = float(layer.scale[0])
    assert bool((layer.scale == step).all()) and np.frexp(step)[0] == 0.5
    return step


@pytest.mark.parametrize("name", SETS)
def test_accuracy_and_bits_on_real_images(name: str) -> None:
    pixels, labels = read(name)
    model = rl.load(f"robustlab:{name}")
    with torch.no_grad():
        logits = torch.cat([model(as_images(pixels[i : i + 250])) for i in range(0, len(pixels), 250)])
    right = int((logits.argmax(1).numpy() == labels).sum())
    assert right == SETS[name][2]
    some = slice(0, 60)
    assert np.array_equal(logits[some].double().numpy() / step_of(model), scores_of(name, pixels[some]))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("backend", available())
def test_every_backend_equals_the_integers(name: str, backend: str) -> None:
    pixels, _ = read(name)
    model = rl.load(f"robustlab:{name}")
    with torch.no_grad(), use_backend(backend):
        logits = model(as_images(pixels[-6:]))
    assert np.array_equal(logits.double().numpy() / step_of(model), scores_of(name, pixels[-6:]))


@pytest.mark.parametrize("name", SETS)
def test_every_pixel_value_and_extreme_images(name: str) -> None:
    shape = read(name)[0].shape[1:]
    generator = np.random.default_rng(0)
    pixels = np.stack(
        [
            np.zeros(shape),
            np.full(shape, 255),
            np.full(shape, 127),
            np.full(shape, 128),
            (np.arange(np.prod(shape)) % 256).reshape(shape),
            generator.integers(0, 256, shape),
        ]
    ).astype(np.uint8)
    model = rl.load(f"robustlab:{name}")
    with torch.no_grad():
        logits = model(as_images(pixels))
        twin = simulated_twin(model)
        assert twin is not None
        assert torch.equal(twin(as_images(pixels)), logits)
    assert np.array_equal(logits.double().numpy() / step_of(model), scores_of(name, pixels))


@pytest.mark.parametrize("name", SETS)
def test_it_is_a_packed_model_that_can_be_saved_and_attacked(name: str, tmp_path: Path) -> None:
    pixels, _ = read(name)
    images = as_images(pixels[:8])
    model = rl.load(f"robustlab:{name}")
    info = info_of(model)
    assert info is not None and info.name == name and info.input_size == tuple(images.shape[2:])
    assert scheme(model) == "w1a1"
    inner = [m for m in model.modules() if isinstance(m, (PackedLayer, torch.nn.Conv2d, torch.nn.Linear))]
    assert all(isinstance(m, PackedLayer) and m.scheme.weight_bits == 1 for m in inner)
    weights = sum(m.weight().taps * m.shape[0] for m in inner if isinstance(m, PackedLayer))
    assert stored_bytes(model) < weights / 8 + 40_000
    again = rl.load(rl.save(model, tmp_path / "bnn.safetensors"))
    with torch.no_grad():
        logits = model(images)
        assert torch.equal(again(images), logits)
    labels = logits.argmax(1)
    attacked = rl.attacks.PGD(rl.Linf(16 / 255 if "cnv" in name else 0.6), steps=10)(model, images, labels)
    with torch.no_grad():
        assert int((model(attacked).argmax(1) != labels).sum()) >= 4  # the surrogate's gradient says something


@pytest.mark.parametrize("name", SETS)
def test_optimized_it_is_one_program_of_whole_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every threshold is a comparison of the accumulator; only the last layer has float steps."""
    ran: list[Program] = []
    run = Program.run

    def watched(self: Program, *arguments: Any) -> Any:
        ran.append(self)
        return run(self, *arguments)

    monkeypatch.setattr(Program, "run", watched)
    pixels, _ = read(name)
    images = as_images(pixels[:5])
    model = rl.load(f"robustlab:{name}")
    optimized = rl.optimize(model)
    for backend in available():
        with torch.no_grad(), use_backend(backend):
            assert torch.equal(optimized(images), model(images))
    assert len(set(ran)) == 1
    steps = [tuple(type(step) for step in node.steps) for node in ran[0].nodes if isinstance(node, Conv)]
    layers = sum(isinstance(module, PackedLayer) for module in model.modules())
    assert steps == [(StoreBelow,)] * (layers - 1) + [(Scale, Store)]


def test_bad_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = load_file(DATA / "models" / "bnn_mnist_lfcW1A1.safetensors")
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("ROBUSTLAB_DATA", str(tmp_path))
    with pytest.raises(DataError, match="ROBUSTLAB_DATA"):
        rl.load("robustlab:bnn_mnist_lfcW1A1")
    bad = {
        "fc0.weight": np.zeros_like(source["fc0.weight"]),
        "fc1.threshold": np.full_like(source["fc1.threshold"], np.nan),
        "fc2.threshold": source["fc2.threshold"][1:],
        "fc9.bias": source["fc2.threshold"],
    }
    for key, value in bad.items():
        save_file({**source, key: value}, tmp_path / "models" / "bnn_mnist_lfcW1A1.safetensors")
        with pytest.raises(ModelFileError, match=key.split(".")[0]):
            rl.load("robustlab:bnn_mnist_lfcW1A1")
