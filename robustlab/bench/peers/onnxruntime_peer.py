"""ONNX Runtime: float32, and int8 with u8 activations and s8 weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from robustlab.bench.peers.check import checked
from robustlab.bench.shapes import Case, ConvCase, operands
from robustlab.bench.tasks import Failure, Task, wall

_ONE = np.float32(1.0)


def tasks(case: Case, threads: int) -> Iterator[Task | Failure]:
    """float32 and int8 of a case."""
    yield _float(case, threads)
    yield _int8_conv(case, threads) if isinstance(case, ConvCase) else _int8_linear(case, threads)


def session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """An inference session with that many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _model(
    nodes: list[onnx.NodeProto], x: tuple[int, np.ndarray], y: tuple[int, tuple[int, ...]], constants: dict[str, object]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", x[0], x[1].shape)],
        [helper.make_tensor_value_info("y", y[0], y[1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _task(
    group: str, case: Case, name: str, model: onnx.ModelProto, x: np.ndarray, threads: int, peak: str
) -> tuple[Task, np.ndarray]:
    """The task, and its output. Input and output stay bound, so that no run copies them."""
    running = session(model, threads)
    bound = running.io_binding()
    bound.bind_cpu_input("x", x)
    bound.bind_output("y")
    task = Task(group, case.label, name, wall(lambda: running.run_with_iobinding(bound)), case.operations, peak)
    running.run_with_iobinding(bound)
    return task, bound.copy_outputs_to_cpu()[0]


def _float(case: Case, threads: int) -> Task | Failure:
    values = operands(case, (-7, 7), (-7, 7))
    x, weight = values.x.numpy(), values.weight.numpy()
    if isinstance(case, ConvCase):
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4, kernel_shape=[3, 3])
    else:
        node, weight = helper.make_node("MatMul", ["x", "w"], ["y"]), np.ascontiguousarray(weight.T)
    shape = tuple(values.exact.shape)
    model = _model([node], (TensorProto.FLOAT, x), (TensorProto.FLOAT, shape), {"w": weight})
    task, found = _task("fp32", case, "ONNX Runtime fp32", model, x, threads, "fp32")
    return checked(task, found, values.exact, exact=False)


def _int8_conv(case: ConvCase, threads: int) -> Task | Failure:
    """QLinearConv with a scale that is a power of two: round half to even of an exact quotient, so == must hold."""
    values = operands(case, (0, 255), (-127, 127))
    x, weight = values.x.numpy().astype(np.uint8), values.weight.numpy().astype(np.int8)
    step = 2.0 ** torch.ceil(torch.log2(values.exact.abs().max() / 127)).item()
    constants: dict[str, object] = {
        "w": weight,
        "sx": _ONE,
        "zx": np.uint8(0),
        "sw": np.ones(case.channels, np.float32),
        "zw": np.zeros(case.channels, np.int8),
        "sy": np.float32(step),
        "zy": np.uint8(128),
    }
    inputs = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
    node = helper.make_node("QLinearConv", inputs, ["y"], pads=[1] * 4, kernel_shape=[3, 3])
    model = _model([node], (TensorProto.UINT8, x), (TensorProto.UINT8, x.shape), constants)
    task, found = _task("int8", case, "ONNX Runtime int8", model, x, threads, "codes")
    expected = (torch.round(values.exact / step) + 128).clamp(0, 255)
    return checked(task, found, expected, exact=True)


def _int8_linear(case: Case, threads: int) -> Task | Failure:
    values = operands(case, (0, 255), (-127, 127))
    x = values.x.numpy().astype(np.uint8)
    weight = np.ascontiguousarray(values.weight.numpy().astype(np.int8).T)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    shape = tuple(values.exact.shape)
    model = _model([node], (TensorProto.UINT8, x), (TensorProto.INT32, shape), {"w": weight})
    task, found = _task("int8", case, "ONNX Runtime int8", model, x, threads, "codes")
    return checked(task, found, values.exact, exact=True)
