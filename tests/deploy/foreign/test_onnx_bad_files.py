"""Files that are cut off, altered, hostile or something else: one clear error, and nothing is built from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import robustlab as rl
from robustlab.core import ModelFileError, RobustlabError


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason) as caught:
        rl.load(path)
    assert "\n" not in str(caught.value)


def test_cut_off_at_any_place(nets: ModuleType, tmp_path: Path) -> None:
    content = nets.small_net().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in [0, 1, 7, *range(20, len(content), len(content) // 12)]:
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            rl.load(path)


def test_bytes_turned_over_never_do_more_than_raise(nets: ModuleType, tmp_path: Path) -> None:
    content = bytearray(nets.quantized(tmp_path / "q.onnx", nets.small_net()).read_bytes())
    generator = np.random.default_rng(7)
    refusals = 0
    for trial in range(40):
        altered = bytearray(content)
        for place in generator.integers(0, len(content), 8 if trial % 2 else 2):
            altered[place] = generator.integers(0, 256)
        path = tmp_path / "m.onnx"
        path.write_bytes(bytes(altered))
        try:
            model = rl.load(path)
            model(torch.zeros(1, 3, 8, 8, requires_grad=True))
        except RobustlabError:
            refusals += 1
    assert refusals > 5


def test_something_else_with_that_name(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("hello, I am text and no protobuf at all" * 20)
    refused(path, "no ONNX file|cut off")
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refused(path, "no ONNX file|cut off")


def _outputs(nets: ModuleType, model: Any) -> None:
    model.graph.output.append(nets.value("g", ["n", 12, 1, 1]))


def _inputs(nets: ModuleType, model: Any) -> None:
    model.graph.input.append(nets.value("second", ["n", 3]))


def _bytes_input(nets: ModuleType, model: Any) -> None:
    model.graph.input[0].CopyFrom(nets.value("images", ["n", 3, 8, 8], nets.TensorProto.UINT8))


def _flat_input(nets: ModuleType, model: Any) -> None:
    model.graph.input[0].CopyFrom(nets.value("images", ["n", 192]))


def _one_channel(nets: ModuleType, model: Any) -> None:
    model.graph.input[0].CopyFrom(nets.value("images", ["n", 1, 8, 8]))


def _opset(nets: ModuleType, model: Any) -> None:
    model.opset_import[0].version = 999


def _old(nets: ModuleType, model: Any) -> None:
    model.opset_import[0].version = 6


def _strange_domain(nets: ModuleType, model: Any) -> None:
    model.graph.node[1].domain = "org.example"
    model.opset_import.append(nets.helper.make_opsetid("org.example", 3))


def _no_shape(nets: ModuleType, model: Any) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _free_channels_and_depth(nets: ModuleType, model: Any) -> None:
    model.graph.input[0].CopyFrom(nets.value("images", ["n", "c", "d", "h", "w"]))


def _no_output(nets: ModuleType, model: Any) -> None:
    del model.graph.output[:]


def _no_input(nets: ModuleType, model: Any) -> None:
    model.graph.input[0].name = "other"


def _operator(nets: ModuleType, model: Any) -> None:
    model.graph.node[1].op_type = "Frobnicate"


def _nan(nets: ModuleType, model: Any) -> None:
    array = nets.weights(8, 1, 3, 3)
    array[3] = np.nan
    next(t for t in model.graph.initializer if t.name == "w2").CopyFrom(nets.numpy_helper.from_array(array, "w2"))


def _shape(nets: ModuleType, model: Any) -> None:
    next(t for t in model.graph.initializer if t.name == "w2").dims[0] = 1 << 40


def _not_logits(nets: ModuleType, model: Any) -> None:
    del model.graph.node[6:]
    model.graph.output[0].CopyFrom(nets.value("f", ["n", 12, 4, 4]))


def _large_images(nets: ModuleType, model: Any) -> None:
    model.graph.input[0].CopyFrom(nets.value("images", ["n", 3, 10**6, 10**6]))


def _many_images(nets: ModuleType, model: Any) -> None:
    model.graph.input[0].CopyFrom(nets.value("images", [10**9, 3, 8, 8]))


def _constant_outside(nets: ModuleType, model: Any) -> None:
    tensor = nets.TensorProto(data_type=1, dims=[5], data_location=nets.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../w.bin")
    model.graph.node.insert(0, nets.helper.make_node("Constant", [], ["c"], "constant", value=tensor))


def _function_outside(nets: ModuleType, model: Any) -> None:
    inner = nets.value("inner", [1])
    branch = nets.helper.make_graph([], "branch", [], [inner])
    tensor = branch.initializer.add(name="inner", data_type=1, dims=[5], data_location=nets.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    nodes = [nets.helper.make_node("If", ["c"], ["y"], "if", then_branch=branch, else_branch=branch)]
    opsets = [nets.helper.make_opsetid("", nets.OPSET)]
    model.functions.append(nets.helper.make_function("own", "Branch", ["c"], ["y"], nodes, opsets))


def _cycle(nets: ModuleType, model: Any) -> None:
    model.graph.node[0].input[0] = "f"


def _huge(nets: ModuleType, model: Any) -> None:
    side = nets.numpy_helper.from_array(np.array([1 << 20, 1 << 20], dtype=np.int64), "side")
    model.graph.initializer.append(side)
    model.graph.node.insert(0, nets.helper.make_node("ConstantOfShape", ["side"], ["zeros"], "zeros"))
    model.graph.node.insert(1, nets.helper.make_node("ReduceSum", ["zeros"], ["nothing"], "nothing", keepdims=0))
    model.graph.node[2].input[0] = "more"
    model.graph.node.insert(2, nets.helper.make_node("Add", ["images", "nothing"], ["more"], "more"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_outputs, "has the outputs logits, g; allowed: one"),
        (_inputs, "has the inputs images, second; allowed: one"),
        (_bytes_input, "of type UINT8; allowed: FLOAT"),
        (_flat_input, r"shape \(\?, 192\)"),
        (_one_channel, "three channels"),
        (_opset, "is of opset version 999; allowed: 7 to"),
        (_old, "is of opset version 6; allowed: 7 to"),
        (_strange_domain, "org.example"),
        (_no_shape, r"shape \(\)|shape"),
        (_free_channels_and_depth, r"shape \(\?, \?, \?, \?, \?\); allowed: \(N, 3, H, W\)"),
        (_no_output, "has the outputs none|fails ONNX's checks"),
        (_no_input, "images"),
        (_operator, "Frobnicate"),
        (_nan, "tensor w2 holds NaN"),
        (_shape, "w2"),
        (_not_logits, r"\(2, 12, 4, 4\); allowed: \(N, K\)"),
        (_cycle, "topological|fails ONNX's checks"),
        (_huge, "zeros.*1048576"),
        (_large_images, r"shape \(\?, 3, 1000000, 1000000\); allowed: 16777216 values"),
        (_many_images, r"shape \(1000000000, 3, 8, 8\); allowed: 4096 images"),
        (_constant_outside, "tensor without a name is stored in '../w.bin'; allowed"),
        (_function_outside, "tensor inner is stored in '/etc/hostname'; allowed"),
    ],
)
def test_what_is_wrong_is_named(
    nets: ModuleType, tmp_path: Path, change: Callable[[ModuleType, Any], None], reason: str
) -> None:
    model = nets.small_net()
    change(nets, model)
    refused(nets.write(tmp_path / "m.onnx", model), reason)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0, -0.5])
def test_a_scale_that_is_no_positive_number(nets: ModuleType, tmp_path: Path, scale: float) -> None:
    import onnx

    path = nets.quantized(tmp_path / "m.onnx", nets.small_net())
    model = onnx.load(path)
    name = next(node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear")
    stored = next(t for t in model.graph.initializer if t.name == name)
    stored.CopyFrom(nets.numpy_helper.from_array(np.float32(scale).reshape(()), name))
    refused(nets.write(path, model), "holds NaN" if scale != scale else f"scale {name} is")


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin", "link.bin", ""])
def test_tensors_outside_the_folder_are_refused(nets: ModuleType, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(nets.weights(8, 3, 3, 3).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    refused(nets.write(folder / "m.onnx", _outside(nets, place)), "in the folder of the model")


def _outside(nets: ModuleType, place: str, **entries: str) -> Any:
    model = nets.small_net()
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    tensor.ClearField("raw_data")
    tensor.data_location = nets.TensorProto.EXTERNAL
    for key, value in {"location": place, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return model


def test_tensors_beside_the_file_are_read_and_are_part_of_its_identity(nets: ModuleType, tmp_path: Path) -> None:
    from robustlab.deploy import fingerprint

    (tmp_path / "w.bin").write_bytes(nets.weights(8, 3, 3, 3).tobytes())
    path = nets.write(tmp_path / "m.onnx", _outside(nets, "w.bin"))
    plain = nets.write(tmp_path / "plain.onnx", nets.small_net())
    data = torch.from_numpy(nets.images(2))
    model = rl.load(path)
    assert torch.equal(model(data), rl.load(plain)(data))
    (tmp_path / "w.bin").write_bytes((2 * nets.weights(8, 3, 3, 3)).tobytes())
    assert fingerprint(rl.load(path)) != fingerprint(model)
    (tmp_path / "w.bin").write_bytes(b"short")
    refused(nets.write(path, _outside(nets, "w.bin", length="864")), "outside of|fails ONNX")
    refused(nets.write(path, _outside(nets, "w.bin", offset="-4")), "offset")
    refused(nets.write(path, _outside(nets, "gone.bin")), "does not exist")


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for name, reason in {"folder.onnx": "it is no file", "gone.onnx": "there is no such file"}.items():
        with pytest.raises(RobustlabError, match=f"{name}'; allowed: .*; {reason}"):
            rl.load(tmp_path / name)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RobustlabError, match=r"pip install 'robustlab\[onnx\]'"):
        rl.load(path)


def test_files_that_are_too_large_are_refused_with_their_external_data(
    nets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustlab.deploy.foreign import onnx_file

    (tmp_path / "w.bin").write_bytes(nets.weights(8, 3, 3, 3).tobytes())
    path = nets.write(tmp_path / "m.onnx", _outside(nets, "w.bin"))
    size = path.stat().st_size
    monkeypatch.setattr(onnx_file, "MOST_BYTES", size + 863)
    refused(path, f"has {size + 864} bytes with its external data; allowed: {size + 863}")
    monkeypatch.setattr(onnx_file, "MOST_BYTES", size - 1)
    refused(path, f"has {size} bytes; allowed: {size - 1}")
