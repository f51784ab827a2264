"""Real networks, exported by torch and quantized by ONNX Runtime: benchmarks/foreign.py, on fewer images."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import robustlab as rl
from robustlab.core import Tiled
from robustlab.core.paths import data_folder
from robustlab.datasets import load_dataset
from robustlab.deploy import Preprocessing, simulated_twin
from robustlab.models.blocks import IMAGENET_MEAN, IMAGENET_STD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(data_folder() is None, reason="ROBUSTLAB_DATA is not set"),
]
NETWORKS = {
    "cifar_resnet20": ("cifar10", Preprocessing(IMAGENET_MEAN, IMAGENET_STD), 256),
    "squeezenet1_1": ("imagenet1000", Preprocessing(), 16),
    "mobilenet_v2": ("imagenet1000", Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), 16),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["QDQ", "QOperator"])
def test_a_quantized_file_of_a_real_network(nets: ModuleType, tmp_path: Path, name: str, kind: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from robustlab.deploy.foreign.convert import convert, parity

    data, taken, count = NETWORKS[name]
    images, labels = load_dataset(data).batch(range(count))
    training, _ = load_dataset(data, split="train").batch(range(64))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(taken(training).split(8))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    network = rl.load(f"robustlab:{name}").eval()
    network.normalize = nn.Identity()
    plain, inferred, path = (tmp_path / f"{part}.onnx" for part in ("float", "inferred", "int8"))
    free = {"images": {0: "n"}, "logits": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (training[:1],), plain, input_names=["images"], output_names=["logits"], dynamic_axes=free,
            opset_version=17, dynamo=False,
        )  # fmt: skip
    quant_pre_process(str(plain), str(inferred), skip_symbolic_shape=True)
    quantize_static(str(inferred), str(path), Reader(), per_channel=True, quant_format=QuantFormat[kind])

    model = rl.load(path, preprocessing=taken)
    expected = nets.ask(path, _ready(taken, images))
    with torch.no_grad():
        logits, surrogate = model(images), model.stand_in(images)
    np.testing.assert_array_equal(logits.argmax(1).numpy(), expected.argmax(1))
    span = float(logits.abs().max())
    assert float((surrogate - logits).abs().mean()) <= 0.01 * span
    assert float((surrogate - logits).abs().max()) <= 0.1 * span

    ball = rl.Linf(8 / 255)
    adversarial = rl.attacks.PGD(ball, steps=20)(Tiled(model, 16), images, labels)
    assert bool(ball.contains(adversarial, images).all())
    assert (nets.ask(path, _ready(taken, adversarial)).argmax(1) == labels.numpy()).mean() < 0.01

    begin = time.perf_counter()
    saved = rl.save(convert(rl.load(path, preprocessing=taken)), tmp_path / "packed.safetensors")
    assert time.perf_counter() - begin < 10
    packed = rl.load(saved)
    twin = simulated_twin(packed)
    assert twin is not None
    with torch.no_grad():
        assert torch.equal(twin(images[:8]), packed(images[:8]))
    found = parity(model, packed, load_dataset(data).batch(range(64))[0], 16)
    assert found.different <= 0.05 * found.images
    assert found.mean <= 0.01 * found.span


def _ready(taken: Preprocessing, images: torch.Tensor) -> np.ndarray:
    """What the file wants, without robustlab's own preprocessing."""
    mean, std = (np.reshape(np.float32(values), (1, 3, 1, 1)) for values in (taken.mean, taken.std))
    ready: np.ndarray = (images.numpy() - mean) / std
    return ready
