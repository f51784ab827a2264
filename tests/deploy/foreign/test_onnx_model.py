"""Quantized ONNX files as models: ONNX Runtime's own answers, and a gradient that finds its mistakes."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import robustlab as rl
from robustlab.core import ArgumentError, ModelFileError, Tiled
from robustlab.deploy import (
    ForeignModel,
    Preprocessing,
    class_names,
    fingerprint,
    gradient_kind,
    input_size,
    is_compressed,
    layer_costs,
    scheme,
    stored_bytes,
)

FORMATS = ("qdq", "qoperator", "float")


@pytest.fixture(scope="module")
def files(nets: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from onnxruntime.quantization import QuantFormat, QuantType

    folder = tmp_path_factory.mktemp("onnx")
    return {
        "qdq": nets.quantized(folder / "qdq.onnx", nets.small_net()),
        "qoperator": nets.quantized(
            folder / "qoperator.onnx",
            nets.small_net(),
            quant_format=QuantFormat.QOperator,
            activation_type=QuantType.QUInt8,
        ),
        "float": nets.write(folder / "float.onnx", nets.small_net()),
    }


def load(path: Path, **options: Any) -> ForeignModel:
    model = rl.load(path, **options)
    assert isinstance(model, ForeignModel)
    return model


@pytest.mark.parametrize("kind", FORMATS)
def test_logits_are_those_of_onnx_runtime_to_the_last_bit(nets: ModuleType, files: dict[str, Path], kind: str) -> None:
    data = nets.images(40)
    with torch.no_grad():
        logits = load(files[kind])(torch.from_numpy(data))
    np.testing.assert_array_equal(logits.numpy(), nets.ask(files[kind], data))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_surrogate_is_close_and_its_gradient_is_the_one_given(
    nets: ModuleType, files: dict[str, Path], kind: str
) -> None:
    model = load(files[kind])
    data = torch.from_numpy(nets.images(16)).requires_grad_()
    logits = model(data)
    surrogate = model.stand_in(data)
    assert surrogate is not None
    span = float(logits.detach().abs().max())
    assert float((surrogate - logits).detach().abs().max()) <= (1e-5 if kind == "float" else 0.05) * span
    cotangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (given,) = torch.autograd.grad((logits * cotangent).sum(), data)
    (expected,) = torch.autograd.grad((surrogate * cotangent).sum(), data)
    assert torch.equal(given, expected)
    assert bool((given.flatten(1).abs().amax(1) > 0).all())
    assert not model(data.detach()).requires_grad


@pytest.mark.parametrize("kind", ("qdq", "qoperator"))
def test_an_attack_through_the_surrogate_breaks_the_artefact(
    nets: ModuleType, files: dict[str, Path], kind: str
) -> None:
    model = load(files[kind])
    data = torch.from_numpy(nets.images(24))
    with torch.no_grad():
        labels = model(data).argmax(1)
    ball = rl.Linf(32 / 255)
    adversarial = rl.attacks.PGD(ball, steps=20)(Tiled(model, 8), data, labels)
    broken = nets.ask(files[kind], adversarial.numpy()).argmax(1) != labels.numpy()
    noisy = (data + ball.eps * torch.sign(torch.randn(data.shape, generator=torch.Generator().manual_seed(1)))).clamp(
        0, 1
    )
    random = nets.ask(files[kind], noisy.numpy()).argmax(1) != labels.numpy()
    assert bool(ball.contains(adversarial, data).all())
    assert len(labels.unique()) > 2
    assert broken.mean() > 0.95
    assert broken.mean() > random.mean() + 0.3


def test_what_is_said_of_a_file(files: dict[str, Path], nets: ModuleType) -> None:
    model = load(files["qdq"])
    assert (scheme(model), gradient_kind(model)) == ("w8a8", "surrogate:onnx-ste")
    assert scheme(load(files["float"])) == "float32"
    assert is_compressed(model)
    assert stored_bytes(model) == files["qdq"].stat().st_size
    costs = layer_costs(model, torch.from_numpy(nets.images(1)))
    assert [c.macs for c in costs] == [64 * 8 * 27, 64 * 8 * 9, 16 * 12 * 72, 60]
    assert {(c.weight_bits, c.activation_bits) for c in costs} == {(8, 8)}
    other = load(files["qdq"], preprocessing=Preprocessing(channels="bgr"))
    assert fingerprint(model) == fingerprint(load(files["qdq"])) != fingerprint(other)
    twin = copy.deepcopy(model)
    data = torch.from_numpy(nets.images(3))
    assert torch.equal(twin(data), model(data))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_takes_any_number_of_images(nets: ModuleType, tmp_path: Path, batch: int) -> None:
    path = (
        nets.quantized(tmp_path / "fixed.onnx", nets.small_net(batch))
        if batch != 3
        else nets.write(tmp_path / "fixed.onnx", nets.small_net(batch))
    )
    model = load(path)
    data = nets.images(7)
    expected = np.concatenate(
        [nets.ask(path, np.resize(data[i : i + batch], (batch, 3, 8, 8))) for i in range(0, 6, batch)]
    )
    with torch.no_grad():
        np.testing.assert_array_equal(model(torch.from_numpy(data))[:6].numpy(), expected)
    leaf = torch.from_numpy(data).requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
    (alone,) = torch.autograd.grad(model(leaf[2:3]).sum(), leaf)
    torch.testing.assert_close(gradient[2], alone[2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [["n", 3, "h", "w"], [1, 3, "h", "w"], ["n", "c", "h", "w"]])
def test_free_sides_take_images_of_any_size(nets: ModuleType, tmp_path: Path, shape: list[Any]) -> None:
    inner = nets.small_net()
    inner.graph.input[0].CopyFrom(nets.value("images", shape))
    path = nets.write(tmp_path / "free.onnx", inner)
    model = load(path)
    assert input_size(model) is None
    for side in (8, 13):
        data = np.random.default_rng(side).random((3, 3, side, side), dtype=np.float32)
        with torch.no_grad():
            logits, surrogate = model(torch.from_numpy(data)), model.stand_in(torch.from_numpy(data))
        expected = np.concatenate([nets.ask(path, data[i : i + 1]) for i in range(3)])
        np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(surrogate, logits, rtol=1e-4, atol=1e-4)


def test_preprocessing_reaches_runtime_and_surrogate(nets: ModuleType, files: dict[str, Path]) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    model = load(files["float"], preprocessing=Preprocessing(mean, std, channels="bgr"))
    data = nets.images(4)
    ready = (data[:, ::-1] - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    with torch.no_grad():
        logits, surrogate = model(torch.from_numpy(data)), model.stand_in(torch.from_numpy(data))
    np.testing.assert_allclose(logits.numpy(), nets.ask(files["float"], ready.astype(np.float32)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(surrogate, logits, rtol=1e-4, atol=1e-5)
    wide = load(
        files["float"], preprocessing=Preprocessing(tuple(255 * m for m in mean), tuple(255 * s for s in std), 255)
    )  # type: ignore[arg-type]
    narrow = load(files["float"], mean=mean, std=std)
    torch.testing.assert_close(wide(torch.from_numpy(data)), narrow(torch.from_numpy(data)), rtol=1e-4, atol=1e-4)


def test_channels_last_input_is_read_from_its_shape(nets: ModuleType, tmp_path: Path) -> None:
    inner = nets.small_net()
    move = nets.helper.make_node("Transpose", ["nhwc"], ["images"], "move", perm=[0, 3, 1, 2])
    graph = inner.graph
    graph.input[0].CopyFrom(nets.value("nhwc", ["n", 8, 8, 3]))
    graph.node.insert(0, move)
    path = nets.write(tmp_path / "nhwc.onnx", inner)
    model, plain = load(path), load(nets.write(tmp_path / "nchw.onnx", nets.small_net()))
    data = torch.from_numpy(nets.images(3))
    torch.testing.assert_close(model(data), plain(data))
    torch.testing.assert_close(model.stand_in(data), plain.stand_in(data))


def test_a_model_that_ends_in_softmax_is_attacked_on_its_logits(nets: ModuleType, tmp_path: Path) -> None:
    model = nets.small_net()
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(nets.helper.make_node("Softmax", ["raw"], ["logits"], "softmax", axis=-1))
    path = nets.write(tmp_path / "softmax.onnx", model)
    loaded, data = load(path), nets.images(5)
    with torch.no_grad():
        logits = loaded(torch.from_numpy(data))
        surrogate = loaded.stand_in(torch.from_numpy(data))
    np.testing.assert_allclose(logits.exp().numpy(), nets.ask(path, data), rtol=1e-6)
    torch.testing.assert_close(surrogate, logits, rtol=1e-4, atol=1e-4)


def test_an_operator_without_translation_is_named_and_leaves_the_scores(
    nets: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = nets.small_net()
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(nets.helper.make_node("Det", ["square"], ["det"], "the determinant"))
    model.graph.node.insert(0, nets.helper.make_node("Slice", ["images", "s0", "s1", "s2"], ["square"], "cut"))
    for name, values in (("s0", [0]), ("s1", [1]), ("s2", [1])):
        model.graph.initializer.append(nets.numpy_helper.from_array(np.array(values, dtype=np.int64), name))
    model.graph.node.append(nets.helper.make_node("Add", ["raw", "det"], ["logits"], "sum"))
    path = nets.write(tmp_path / "det.onnx", model)
    with caplog.at_level(logging.WARNING):
        loaded = load(path)
    assert "Det (node the determinant)" in caplog.text
    assert (loaded.gradient, loaded.robustlab_access) == ("none", "scores")
    data = torch.from_numpy(nets.images(6))
    np.testing.assert_array_equal(loaded(data).numpy(), nets.ask(path, data.numpy()))
    labels = loaded(data).argmax(1)
    with pytest.raises(ArgumentError, match=r"gives scores.*which PGD needs"):
        rl.attacks.PGD(rl.Linf(8 / 255))(Tiled(loaded, 8), data, labels)
    square = rl.attacks.Square(rl.Linf(64 / 255), steps=20)(loaded, data, labels)
    assert bool(rl.Linf(64 / 255).contains(square, data).all())


def test_the_side_car_says_what_the_model_takes(nets: ModuleType, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(files["float"].read_bytes())
    side = tmp_path / "m.onnx.json"
    names = ["a", "b", "c", "d", "e"]
    side.write_text(json.dumps({"preprocessing": {"mean": [0.5, 0.5, 0.5], "channels": "bgr"}, "class_names": names}))
    model = load(path)
    given = load(files["float"], preprocessing=Preprocessing((0.5, 0.5, 0.5), channels="bgr"))
    data = torch.from_numpy(nets.images(3))
    assert torch.equal(model(data), given(data))
    assert class_names(model) == tuple(names)
    assert input_size(model) == (8, 8)
    for text, wrong in (
        ('{"preprocessing": {"mean": [1, 2]}}', "mean"),
        ('{"preprocessing": {"std": [1, 0, 1]}}', "std"),
        ('{"preprocessing": {"colour": 1}}', "colour"),
        ('{"else": 1}', "something else"),
        ("[1", "cannot be read"),
        ('{"class_names": ["a", 1]}', "class_names"),
        ('{"class_names": ["a", "b"]}', "2 names"),
    ):
        side.write_text(text)
        with pytest.raises((ModelFileError, ArgumentError), match=wrong):
            rl.load(path)
