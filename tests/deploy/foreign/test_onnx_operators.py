"""Every operator of the surrogate, compared with ONNX Runtime on a graph of its own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
C = np.random.default_rng(1).random((3,), dtype=np.float32) + 0.5


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


PLAIN = """
    Relu Sigmoid Tanh Exp Neg Abs Erf Sin Cos Round Floor Ceil Softsign Softplus HardSwish HardSigmoid LeakyRelu Elu
    Celu Selu ThresholdedRelu Mish GlobalAveragePool GlobalMaxPool GlobalLpPool Flatten LogSoftmax Softmax Transpose
    Shape Size Reciprocal
"""
POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
POOL_PADDED = {**POOL, "pads": [1, 1, 1, 1]}
FILTER = np.ones((4, 3, 3, 3), np.float32) * 0.1
HALF = {"strides": [2, 2]}

# name: (operator, constant inputs after the images, attributes)
CASES: dict[str, tuple[str, list[np.ndarray | None], dict[str, Any]]] = {
    **{op.lower(): (op, [], {}) for op in PLAIN.split()},
    **{
        op.lower(): (op, [ints(2, 3)], {"keepdims": 0})
        for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")
    },
    "gelu": ("Gelu", [], {}),
    "gelu tanh": ("Gelu", [], {"approximate": "tanh"}),
    "hard sigmoid": ("HardSigmoid", [], {"alpha": 0.3, "beta": 0.4}),
    "leaky": ("LeakyRelu", [], {"alpha": 0.2}),
    "prelu": ("PRelu", [C.reshape(3, 1, 1)], {}),
    "clip": ("Clip", [np.float32(-0.5), np.float32(0.7)], {}),
    "clip above": ("Clip", [None, np.float32(0.7)], {}),
    "add": ("Add", [C.reshape(3, 1, 1)], {}),
    "sub": ("Sub", [C.reshape(3, 1, 1)], {}),
    "mul": ("Mul", [C.reshape(3, 1, 1)], {}),
    "div": ("Div", [C.reshape(3, 1, 1)], {}),
    "pow": ("Pow", [floats(2.0)], {}),
    "max": ("Max", [C.reshape(3, 1, 1)], {}),
    "min": ("Min", [C.reshape(3, 1, 1)], {}),
    "mean of two": ("Mean", [C.reshape(3, 1, 1)], {}),
    "sum": ("Sum", [C.reshape(3, 1, 1)], {}),
    "reshape": ("Reshape", [ints(0, -1, 4)], {}),
    "flatten 2": ("Flatten", [], {"axis": 2}),
    "flatten 0": ("Flatten", [], {"axis": 0}),
    "flatten -1": ("Flatten", [], {"axis": -1}),
    "transpose": ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    "unsqueeze": ("Unsqueeze", [ints(0, -1)], {}),
    "slice": ("Slice", [ints(1, -3), ints(100, -1), ints(2, 3), ints(2, 1)], {}),
    "slice back": ("Slice", [ints(-1), ints(-100), ints(3), ints(-2)], {}),
    "slice without axes": ("Slice", [ints(0, 1), ints(2, 3)], {}),
    "gather": ("Gather", [ints(2, -3)], {"axis": 1}),
    "gather scalar": ("Gather", [np.array(1)], {"axis": 2}),
    "expand": ("Expand", [ints(2, 1, 3, 8, 8)], {}),
    "tile": ("Tile", [ints(1, 2, 1, 3)], {}),
    "pad": ("Pad", [ints(0, 0, 1, 2, 0, 0, 3, -1), np.float32(0.5)], {}),
    "pad reflect": ("Pad", [ints(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": "reflect"}),
    "pad edge": ("Pad", [ints(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": "edge"}),
    "pad channels": ("Pad", [ints(0, 2, 0, 0, 0, 1, 0, 0)], {}),
    "pad axes": ("Pad", [ints(1, 2), None, ints(-1)], {}),
    "reduce all": ("ReduceMean", [], {}),
    "reduce nothing": ("ReduceSum", [], {"noop_with_empty_axes": 1}),
    "space to depth": ("SpaceToDepth", [], {"blocksize": 2}),
    "softmax axis": ("Softmax", [], {"axis": 1}),
    "max pool": ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "max pool ceil": ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "max pool odd pads": ("MaxPool", [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}),
    "max pool dilated": ("MaxPool", [], {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    "max pool same": ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "average pool": ("AveragePool", [], POOL_PADDED),
    "average pool counted": ("AveragePool", [], {**POOL_PADDED, "count_include_pad": 1}),
    "average pool ceil": ("AveragePool", [], {**POOL, "ceil_mode": 1}),
    "average pool ceil counted": ("AveragePool", [], {**POOL_PADDED, "ceil_mode": 1, "count_include_pad": 1}),
    "conv": ("Conv", [FILTER, floats(1, 2, 3, 4)], {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 1, 2]}),
    "conv odd pads": ("Conv", [FILTER], {**HALF, "pads": [0, 0, 1, 1]}),
    "conv same upper": ("Conv", [FILTER], {**HALF, "auto_pad": "SAME_UPPER"}),
    "conv same lower": ("Conv", [FILTER], {**HALF, "auto_pad": "SAME_LOWER"}),
    "conv valid": ("Conv", [FILTER[:3, :1]], {"group": 3, "auto_pad": "VALID"}),
    "conv transpose": ("ConvTranspose", [FILTER[:3, :2]], {**HALF, "pads": [1, 0, 1, 1], "output_padding": [1, 1]}),
    "matmul": ("MatMul", [X[0, 0]], {}),
    "batch norm": ("BatchNormalization", [C, C, C - 1, C * 2], {"epsilon": 1e-3}),
    "layer norm": ("LayerNormalization", [X[0, 0, 0], X[0, 0, 1]], {"epsilon": 1e-3}),
    "instance norm": ("InstanceNormalization", [C, C], {}),
    "split": ("Split", [ints(3, 5)], {"axis": 3}),
    "einsum": ("Einsum", [X[0, 0]], {"equation": "nchw,wk->nchk"}),
}  # fmt: skip


def run_both(nets: ModuleType, model: Any) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime says of X, and what the translation says."""
    import onnxruntime

    from robustlab.deploy.foreign.onnx_file import OnnxFile
    from robustlab.deploy.foreign.onnx_model import network_of
    from robustlab.deploy.foreign.onnx_translate import translate

    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    expected: np.ndarray = session.run(None, {"images": X})[0]
    file = OnnxFile(Path("t.onnx"), model, content, "", 0, "images", "y", None, "nchw", (8, 8))
    made = network_of(translate(file))(torch.from_numpy(X))
    return expected, made.numpy()


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_what_onnx_runtime_makes_of_it(nets: ModuleType, name: str) -> None:
    op, constants, attributes = CASES[name]
    names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    outputs = ["y", "z"] if op == "Split" else ["y"]
    nodes = [nets.helper.make_node(op, ["images", *names], outputs, op, **attributes)]
    if op == "Softmax":  # as the last operator it would be read as the end of a classifier
        nodes = [
            nets.helper.make_node(op, ["images"], ["s"], op, **attributes),
            nets.helper.make_node("Neg", ["s"], ["y"]),
        ]
    stored = {n: c for n, c in zip(names, constants, strict=True) if c is not None}
    kind = nets.TensorProto.INT64 if op in ("Shape", "Size") else nets.TensorProto.FLOAT
    model = nets.model_of(
        nodes, stored, inputs=[nets.value("images", [2, 3, 8, 8])], outputs=[nets.value("y", None, kind)]
    )
    expected, made = run_both(nets, model)
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_before_opset_13_takes_all_last_axes(nets: ModuleType, opset: int) -> None:
    node = nets.helper.make_node("Softmax", ["images"], ["y"], axis=1)
    stay = nets.helper.make_node("Identity", ["y"], ["z"])
    model = nets.model_of(
        [node, stay], {}, inputs=[nets.value("images", [2, 3, 8, 8])], outputs=[nets.value("z", None)], opset=opset
    )
    import onnxruntime

    from robustlab.deploy.foreign.onnx_file import OnnxFile
    from robustlab.deploy.foreign.onnx_model import network_of
    from robustlab.deploy.foreign.onnx_translate import translate

    content = model.SerializeToString()
    expected = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"images": X})[0]
    file = OnnxFile(Path("t.onnx"), model, content, "", 0, "images", "z", None, "nchw", (8, 8))
    np.testing.assert_allclose(network_of(translate(file))(torch.from_numpy(X)).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_grid_has_the_codes_of_quantize_linear(nets: ModuleType) -> None:
    nodes = [
        nets.helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
        nets.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    for scale, zero_point in ((0.013, np.uint8(131)), (0.02, np.int8(-3)), (0.4, np.int16(7))):
        stored = {"s": np.float32(scale), "z": np.asarray(zero_point)}
        model = nets.model_of(
            nodes, stored, inputs=[nets.value("images", [2, 3, 8, 8])], outputs=[nets.value("y", None)]
        )
        expected, made = run_both(nets, model)
        np.testing.assert_array_equal(made, expected)


def test_a_quantizer_behind_a_pool_that_repeats_a_grid_costs_nothing(nets: ModuleType) -> None:
    from robustlab.deploy.foreign.onnx_file import OnnxFile
    from robustlab.deploy.foreign.onnx_translate import translate

    make = nets.helper.make_node
    nodes = [
        make("QuantizeLinear", ["images", "s", "z"], ["q"]),
        make("DequantizeLinear", ["q", "s", "z"], ["x"]),
        make("MaxPool", ["x"], ["p"], kernel_shape=[2, 2]),
        make("QuantizeLinear", ["p", "s", "z"], ["r"]),
        make("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    stored = {"s": np.float32(0.02), "z": np.int8(-3)}
    model = nets.model_of(nodes, stored, inputs=[nets.value("images", [2, 3, 8, 8])], outputs=[nets.value("y", None)])
    expected, made = run_both(nets, model)
    np.testing.assert_array_equal(made, expected)
    file = OnnxFile(Path("t.onnx"), model, b"", "", 0, "images", "y", None, "nchw", (8, 8))
    assert [step.op for step in translate(file).spec.steps] == ["Grid", "MaxPool"]


def test_a_grid_for_each_channel_has_the_codes_of_quantize_linear(nets: ModuleType) -> None:
    nodes = [
        nets.helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], axis=1),
        nets.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    stored = {"s": np.float32([0.01, 0.02, 0.5]), "z": np.uint8([3, 128, 250])}
    model = nets.model_of(nodes, stored, inputs=[nets.value("images", [2, 3, 8, 8])], outputs=[nets.value("y", None)])
    expected, made = run_both(nets, model)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("block", [0, 4])
def test_weights_of_four_bits(nets: ModuleType, block: int) -> None:
    codes = np.arange(-8, 8, dtype=np.int8).repeat(4).reshape(8, 8)
    four = nets.helper.make_tensor("w", nets.TensorProto.INT4, [8, 8], codes.flatten().tolist())
    scale = np.linspace(0.1, 0.3, 8 * (2 if block else 1), dtype=np.float32).reshape((2, 8) if block else (8,))
    attributes = {"axis": 0, "block_size": 4} if block else {"axis": 1}
    nodes = [
        nets.helper.make_node("DequantizeLinear", ["w", "s"], ["v"], **attributes),
        nets.helper.make_node("MatMul", ["images", "v"], ["y"], "product"),
    ]
    model = nets.model_of(
        nodes, {"s": scale}, inputs=[nets.value("images", [2, 3, 8, 8])], outputs=[nets.value("y", None)]
    )
    model.graph.initializer.append(four)
    expected, made = run_both(nets, model)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_weights_packed_for_weight_only_products(nets: ModuleType) -> None:
    codes = np.random.default_rng(3).integers(0, 16, (6, 64))
    zero_points = np.random.default_rng(4).integers(0, 16, (6, 2))
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8).reshape(6, 2, 16)
    stored = {
        "flat": ints(2, 3, 64),
        "w": packed,
        "s": np.random.default_rng(5).random((6, 2), dtype=np.float32),
        "z": (zero_points[:, 0] | zero_points[:, 1] << 4).astype(np.uint8).reshape(6, 1),
    }
    nodes = [
        nets.helper.make_node("Reshape", ["images", "flat"], ["x"], "reshape"),
        nets.helper.make_node(
            "MatMulNBits", ["x", "w", "s", "z"], ["y"], "product",
            domain="com.microsoft", K=64, N=6, bits=4, block_size=32,
        ),
    ]  # fmt: skip
    model = nets.model_of(
        nodes, stored, inputs=[nets.value("images", [2, 3, 8, 8])], outputs=[nets.value("y", [2, 3, 6])]
    )
    expected, made = run_both(nets, model)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-3)


def test_weights_in_blocks_are_counted_with_their_bits(nets: ModuleType, tmp_path: Path) -> None:
    import robustlab as rl

    nodes = [
        nets.helper.make_node("Flatten", ["images"], ["x"], "flatten"),
        nets.helper.make_node(
            "MatMulNBits", ["x", "w", "s"], ["logits"], "product",
            domain="com.microsoft", K=192, N=5, bits=4, block_size=32,
        ),
    ]  # fmt: skip
    stored = {"w": np.full((5, 6, 16), 0x79, dtype=np.uint8), "s": np.ones((5, 6), dtype=np.float32)}
    model = rl.load(nets.write(tmp_path / "m.onnx", nets.model_of(nodes, stored)))
    (row,) = model.layer_costs(torch.zeros(1, 3, 8, 8))
    assert (model.scheme, row.weight_bits, row.weight_bytes) == ("w4a32", 4, 480)


def test_dynamic_quantization_is_followed(nets: ModuleType, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    source = nets.write(tmp_path / "float.onnx", nets.small_net())
    quantize_dynamic(str(source), str(tmp_path / "dynamic.onnx"))
    import robustlab as rl

    model = rl.load(tmp_path / "dynamic.onnx")
    data = torch.from_numpy(nets.images(3))
    data[1:] /= 4
    with torch.no_grad():
        artefact, surrogate = model(data), model.stand_in(data)
        alone = torch.cat([model(image) for image in data.split(1)])
    assert (model.gradient, model.scheme) == ("surrogate:onnx-ste", "w8a8")
    assert torch.equal(artefact, alone)
    np.testing.assert_array_equal(alone.numpy()[1:2], nets.ask(tmp_path / "dynamic.onnx", data[1:2].numpy()))
    torch.testing.assert_close(surrogate, artefact, rtol=0.05, atol=0.05)


def test_text_is_no_constant(nets: ModuleType) -> None:
    from robustlab.deploy.foreign.onnx_constants import constant_of

    with pytest.raises(ValueError, match="text"):
        constant_of(nets.helper.make_tensor("t", nets.TensorProto.STRING, [1], [b"a"]))
