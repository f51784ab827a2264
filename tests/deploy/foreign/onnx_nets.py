"""Small ONNX files for tests: built with onnx.helper, quantized with ONNX Runtime's own quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
SIZE = 8
CLASSES = 5


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    *,
    inputs: list[Any] | None = None,
    outputs: list[Any] | None = None,
    opset: int = OPSET,
) -> Any:
    """A model from `images` (N, 3, 8, 8) to `logits` (N, 5) unless said otherwise."""
    graph = helper.make_graph(
        nodes,
        "test",
        inputs or [value("images", ["n", 3, SIZE, SIZE])],
        outputs or [value("logits", ["n", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng([seed, *shape])
    return (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)


def small_net(batch: Any = "n", opset: int = 13) -> Any:
    """Two convolutions (one strided, one depthwise), an addition, pooling, a linear layer."""
    nodes = [
        helper.make_node("Conv", ["images", "w1", "b1"], ["a"], "first", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "depth", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Add", ["b", "c"], ["d"], "add"),
        helper.make_node("Conv", ["d", "w3", "b3"], ["e"], "second", pads=[0, 0, 1, 1], strides=[2, 2]),
        helper.make_node("Clip", ["e", "zero", "six"], ["f"], "relu6"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], "pool"),
        helper.make_node("Reshape", ["g", "target"], ["h"], "reshape"),
        helper.make_node("Gemm", ["h", "w4", "b4"], ["logits"], "linear", transB=1),
    ]
    constants = {
        "w1": weights(8, 3, 3, 3),
        "b1": weights(8, 1).reshape(-1),
        "w2": weights(8, 1, 3, 3),
        "w3": weights(12, 8, 3, 3),
        "b3": weights(12, 1).reshape(-1),
        "w4": 40 * weights(CLASSES, 12),
        # Minus the mean logits of random images, so that each class is said of some of them.
        "b4": 10 * np.array([-1.12753, 2.41651, 3.38319, 0.57465, -1.90166], dtype=np.float32),
        "zero": np.float32(0).reshape(()),
        "six": np.float32(6).reshape(()),
        "target": np.array([batch if isinstance(batch, int) else -1, 12], dtype=np.int64),
    }
    return model_of(
        nodes,
        constants,
        inputs=[value("images", [batch, 3, SIZE, SIZE])],
        outputs=[value("logits", [batch, CLASSES])],
        opset=opset,
    )


def images(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, SIZE, SIZE), dtype=np.float32)


def write(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def colour_net() -> Any:
    """Four classes by the means of the normalised channels: more of the first, more of the last, bright, dark."""
    nodes = [
        helper.make_node("Conv", ["images", "w1"], ["a"], "opposites"),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
        helper.make_node("Flatten", ["b"], ["c"], "flatten"),
        helper.make_node("Gemm", ["c", "w2"], ["logits"], "linear", transB=1),
    ]
    opposites = np.array([[1, 0, -1], [-1, 0, 1], [1, 1, 1], [-1, -1, -1]], dtype=np.float32)
    constants = {"w1": opposites.reshape(4, 3, 1, 1), "w2": np.eye(4, dtype=np.float32)}
    return model_of(nodes, constants, outputs=[value("logits", ["n", 4])], opset=13)


def quantized(path: Path, model: Any, *, spread: float = 0.0, **options: Any) -> Path:
    """Static quantization by ONNX Runtime, per channel, on four batches; `spread` makes [0, 1] so much wider."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 8

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = 4 * batch
            data = images(count) * np.float32(1 + 2 * spread) - np.float32(spread)
            self.batches = iter([data[i : i + batch] for i in range(0, count, batch)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.batches, None)
            return None if found is None else {"images": found}

    source = write(path.with_suffix(".float.onnx"), model)
    quantize_static(str(source), str(path), Reader(), per_channel=True, **options)
    return path


def ask(path: Path, data: np.ndarray) -> np.ndarray:
    """What ONNX Runtime says, by a session of its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: data})[0]
    return result


def checked(model: Any) -> Any:
    onnx.checker.check_model(model)
    return model
