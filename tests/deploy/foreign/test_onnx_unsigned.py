"""Integer graphs with uint8 in place of int8 activations: the same logits to the bit, for the steps of attacks."""

from __future__ import annotations

import platform
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import robustlab as rl


@pytest.fixture(scope="module")
def qoperator(nets: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from onnxruntime.quantization import QuantFormat, QuantType

    path = tmp_path_factory.mktemp("onnx") / "s8.onnx"
    options = {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QInt8}
    made: Path = nets.quantized(path, _branching(nets), **options)
    return made


def _branching(nets: ModuleType) -> Any:
    """`small_net` with pooling, a joining of channels and an average in its middle."""
    model = nets.small_net()
    nodes = model.graph.node
    place = next(i for i, node in enumerate(nodes) if node.name == "second")
    joined = [
        nets.helper.make_node("MaxPool", ["d"], ["p"], "max", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        nets.helper.make_node("Concat", ["d", "p"], ["j"], "join", axis=1),
        nets.helper.make_node("AveragePool", ["j"], ["d2"], "mean", kernel_shape=[2, 2], strides=[1, 1]),
    ]
    nodes[place].input[0] = "d2"
    for node in joined[::-1]:
        nodes.insert(place, node)
    weight = next(t for t in model.graph.initializer if t.name == "w3")
    weight.CopyFrom(nets.numpy_helper.from_array(nets.weights(12, 16, 3, 3), "w3"))
    return model


def test_the_altered_graph_gives_the_same_bits_through_layers_that_take_uint8(
    nets: ModuleType, qoperator: Path, tmp_path: Path
) -> None:
    import onnx
    import onnxruntime

    from robustlab.deploy.foreign.onnx_unsigned import with_unsigned_activations

    model = onnx.load(qoperator)
    altered = nets.checked(with_unsigned_activations(model))
    stored = {tensor.name: tensor.data_type for tensor in altered.graph.initializer}
    layers = [node for node in altered.graph.node if node.op_type in ("QLinearConv", "QGemm")]
    assert len(layers) == 4
    assert {stored[node.input[2]] for node in layers} == {onnx.TensorProto.UINT8}
    assert sum(node.op_type == "QLinearAdd" for node in altered.graph.node) == 1  # it rounds otherwise in uint8
    assert with_unsigned_activations(altered) is None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(altered.SerializeToString(), options, providers=["CPUExecutionProvider"])
    data = nets.images(300, seed=5)
    np.testing.assert_array_equal(session.run(None, {"images": data})[0], nets.ask(qoperator, data))
    assert onnx.load(qoperator) == model


def test_steps_of_an_attack_see_the_logits_of_the_file(qoperator: Path, nets: ModuleType) -> None:
    model = rl.load(qoperator)
    assert (model._step_runtime is not model._runtime) == (platform.machine() in ("x86_64", "AMD64"))
    data = torch.from_numpy(nets.images(40, seed=6))
    with torch.no_grad():
        said = model(data)
    assert torch.equal(model(data.clone().requires_grad_()).detach(), said)


def test_graphs_whose_kernels_are_fast_or_float_are_left_alone(nets: ModuleType, tmp_path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType

    from robustlab.deploy.foreign.onnx_unsigned import with_unsigned_activations

    unsigned = {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8}
    for number, options in enumerate(({}, unsigned)):
        path = nets.quantized(tmp_path / f"{number}.onnx", nets.small_net(), **options)
        assert with_unsigned_activations(onnx.load(path)) is None
        model = rl.load(path)
        assert model._step_runtime is model._runtime
    assert with_unsigned_activations(nets.small_net()) is None
