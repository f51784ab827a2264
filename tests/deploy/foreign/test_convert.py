"""ONNX files on our packed kernels."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

import robustlab as rl
from robustlab.cli.app import run
from robustlab.core import ArgumentError, ModelFileError, RobustlabError
from robustlab.deploy import PackedLayer, Preprocessing, scheme, simulated_twin


def test_a_converted_model_is_its_own_simulation_and_close_to_onnx_runtime(nets: ModuleType, tmp_path: Path) -> None:
    from robustlab.deploy.foreign.convert import convert, parity

    taken = Preprocessing((0.1, 0.2, 0.3), (0.9, 1.0, 1.1), channels="bgr")
    model = rl.load(nets.quantized(tmp_path / "q.onnx", nets.small_net()), preprocessing=taken)
    converted = convert(model)
    assert sum(isinstance(m, PackedLayer) for m in converted.modules()) == 4
    assert scheme(converted) == "w8a8"
    images = torch.from_numpy(nets.images(32))
    found = parity(model, converted, images)
    assert found.images == 32
    assert found.largest <= 0.1 * found.span
    twin = simulated_twin(converted)
    assert twin is not None
    assert torch.equal(twin(images), converted(images))
    path = rl.save(converted, tmp_path / "c.safetensors")
    assert torch.equal(rl.load(path)(images), converted(images))
    leaf = images[:4].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rl.load(path)(leaf).sum(), leaf)
    assert bool((gradient != 0).any())


def test_what_cannot_be_converted_says_why(nets: ModuleType, tmp_path: Path) -> None:
    from robustlab.deploy.foreign.convert import convert

    with pytest.raises(RobustlabError, match="no layer is quantized"):
        convert(rl.load(nets.write(tmp_path / "f.onnx", nets.small_net())))
    with pytest.raises(ArgumentError, match="an ONNX model"):
        convert(torch.nn.Linear(2, 2))


def test_the_command_says_parity(nets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = nets.quantized(tmp_path / "q.onnx", nets.small_net())
    assert run(["convert", str(path), "--out", str(tmp_path / "c.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "w8a8, 4 of 4 layers packed" in out
    assert "of 64 random images get the class ONNX Runtime gives" in out
    assert run(["show", str(tmp_path / "c.safetensors")]) == 0
    assert "graph:onnx" in capsys.readouterr().out
    assert run(["convert", "c.safetensors", "--out", str(tmp_path / "d.safetensors")]) == 2


def test_a_file_with_an_altered_graph_is_refused(nets: ModuleType, tmp_path: Path) -> None:
    from robustlab.models import build

    model = rl.load(nets.write(tmp_path / "f.onnx", nets.small_net()))
    graph = model.translation.spec.model_dump(mode="json")
    build("graph:onnx", graph)
    for change, reason in (
        ({"output": "nothing"}, "output of the graph"),
        ({"steps": [{**graph["steps"][0], "op": "System"}]}, "operator"),
        ({"steps": graph["steps"][1:]}, "earlier step"),
        ({"extra": 1}, "extra"),
        ({"constants": {"c0": ["float32", [1 << 40]]}}, "weights|elements|step"),
        ({"layers": {}}, "layer"),
    ):
        with pytest.raises((ArgumentError, ModelFileError), match=reason):
            build("graph:onnx", {**graph, **change})
