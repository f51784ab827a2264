"""TFLite files that are built here by hand: scores of LiteRT, batches, whole numbers at both ends, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import robustlab as rl
from robustlab.core import ArgumentError, ModelFileError
from robustlab.core.access import access_of
from robustlab.deploy import fingerprint, gradient_kind, input_size, scheme, stored_bytes

pytest.importorskip("ai_edge_litert")
import flatbuffers
from ai_edge_litert import schema_py_generated as schema

INT8, FLOAT = schema.TensorType.INT8, schema.TensorType.FLOAT32
SIDE, CLASSES = 4, 3
FEATURES = SIDE * SIDE * 3
IN, WEIGHT, OUT = (1 / 64, -10), (0.01, 0), (0.05, 5)


def _tensor(name: str, shape: list[int], kind: int, grid: tuple[float, int] | None, buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    if grid is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [grid[0]], [grid[1]]
    return tensor


def _operator(code: int, inputs: list[int], outputs: list[int], kind: int, options: Any) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    operator.builtinOptionsType, operator.builtinOptions = kind, options
    return operator


def weights() -> np.ndarray:
    return np.random.default_rng(3).integers(-127, 128, (CLASSES, FEATURES), dtype=np.int8)


def build(*, quantized: bool = True, softmax: bool = False, scale: float = IN[0], channels: int = 3) -> bytes:
    """Images (1, 4, 4, 3) -> a fully connected layer, with or without a softmax."""
    kind = INT8 if quantized else FLOAT
    grids = ((scale, IN[1]), WEIGHT, OUT, (1 / 256, -128)) if quantized else (None,) * 4
    stored = weights() if quantized else weights().astype(np.float32) * np.float32(WEIGHT[0])
    data = [None, stored.tobytes()]
    tensors = [
        _tensor("images", [1, SIDE, SIDE * 3 // channels, channels], kind, grids[0], 0),
        _tensor("weight", [CLASSES, FEATURES], kind, grids[1], 1),
        _tensor("logits", [1, CLASSES], kind, grids[2], 0),
        _tensor("probabilities", [1, CLASSES], kind, grids[3], 0),
    ]
    options, last = schema.FullyConnectedOptionsT(), schema.SoftmaxOptionsT()
    last.beta = 1.0
    operators = [_operator(0, [0, 1, -1], [2], schema.BuiltinOptions.FullyConnectedOptions, options)]
    if softmax:
        operators.append(_operator(1, [2], [3], schema.BuiltinOptions.SoftmaxOptions, last))
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = tensors, operators
    graph.inputs, graph.outputs = [0], [3 if softmax else 2]
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [], []
    for content in data:
        buffer = schema.BufferT()
        buffer.data = None if content is None else np.frombuffer(content, np.uint8)
        model.buffers.append(buffer)
    for code in (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.SOFTMAX):
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, code, 4 if code == 9 else 2
        model.operatorCodes.append(entry)
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def write(folder: Path, content: bytes, name: str = "net.tflite") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


IMAGES = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def reference(images: Tensor) -> np.ndarray:
    """The sums in whole numbers."""
    x = images.permute(0, 2, 3, 1).reshape(len(images), -1).numpy()
    codes = np.clip(np.round(x / np.float32(IN[0])) + IN[1], -128, 127)
    sums = (codes - IN[1]) @ weights().astype(np.float64).T
    out = np.clip(np.round(sums * IN[0] * WEIGHT[0] / OUT[0]) + OUT[1], -128, 127)
    return (out - OUT[1]) * OUT[0]


def test_int8_scores_are_those_of_the_whole_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, build())
    model = rl.load(path)
    found = model(IMAGES)
    assert float((found - torch.from_numpy(reference(IMAGES)).float()).abs().max()) <= OUT[0] + 1e-6
    assert torch.equal(found, torch.cat([model(image[None]) for image in IMAGES]))
    assert (access_of(model), gradient_kind(model), scheme(model)) == ("scores", "none", "w8a8")
    assert input_size(model) == (SIDE, SIDE) and stored_bytes(model) == path.stat().st_size
    assert not found.requires_grad


def test_float_files_and_probabilities(tmp_path: Path) -> None:
    exact = IMAGES.permute(0, 2, 3, 1).reshape(5, -1).numpy() @ (weights() * np.float32(WEIGHT[0])).T
    plain = rl.load(write(tmp_path, build(quantized=False)))
    assert scheme(plain) == "float32"
    np.testing.assert_allclose(plain(IMAGES), exact, atol=1e-4)
    soft = rl.load(write(tmp_path, build(quantized=False, softmax=True), "soft.tflite"))
    np.testing.assert_allclose(soft(IMAGES), torch.from_numpy(exact).log_softmax(1), atol=1e-3)
    coarse = rl.load(write(tmp_path, build(softmax=True), "coarse.tflite"))
    assert bool(torch.isfinite(coarse(IMAGES)).all()) and bool((coarse(IMAGES) <= 0).all())


def test_preprocessing_and_names_come_from_the_side_car(tmp_path: Path) -> None:
    path = write(tmp_path, build())
    plain = rl.load(path)
    side_car = {"preprocessing": {"channels": "bgr", "pixel_range": 2.0}, "class_names": ["a", "b", "c"]}
    path.with_name("net.tflite.json").write_text(json.dumps(side_car))
    model = rl.load(path)
    assert torch.equal(model(IMAGES / 2), plain(IMAGES.flip(1))) and fingerprint(model) != fingerprint(plain)
    given = rl.load(path, preprocessing=rl.Preprocessing())
    assert torch.equal(given(IMAGES), plain(IMAGES))


def test_attacks_get_what_the_file_gives(tmp_path: Path) -> None:
    model = rl.load(write(tmp_path, build()))
    labels = model(IMAGES).argmax(1)
    found = rl.attacks.Square(rl.Linf(0.3), steps=200)(model, IMAGES, labels)
    assert float((model(found).argmax(1) != labels).float().mean()) >= 0.6
    with pytest.raises(ArgumentError, match="which gives scores'; allowed: a model that gives gradient"):
        rl.attacks.PGD(rl.Linf(0.3), steps=1)(model, IMAGES, labels)
    with pytest.raises(ArgumentError, match="a deployed model"):
        rl.save(model, tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no TFLite file"),
        (b"\x00" * 64, "is no TFLite file"),
        (build()[:200], "LiteRT does not take it"),
        (build(scale=0.0), "scale"),
        (build(channels=1), "its input has 1 channels; allowed: 3"),
    ],
    ids=["empty", "zeros", "cut", "scale", "grey"],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ModelFileError, match=words) as caught:
        rl.load(write(tmp_path, content))
    assert "\n" not in str(caught.value)
