"""OpenVINO: float32, and its binary convolution."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openvino
import torch
from openvino import opset1

from robustlab.bench.peers.check import checked
from robustlab.bench.shapes import Case, ConvCase, operands
from robustlab.bench.tasks import Failure, Sample, Task, wall

_CHAIN = 4


def tasks(case: Case, threads: int) -> Iterator[Task | Failure]:
    """float32, and for convolutions binary."""
    yield _float(case, threads)
    if isinstance(case, ConvCase):
        yield from _binary(case, threads)


def request(model: openvino.Model, x: np.ndarray, threads: int, *, profile: bool = False) -> openvino.InferRequest:
    """An infer request with that many threads and its input set. Without the hint float32 would run as bfloat16."""
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "PERF_COUNT": profile,
    }
    made = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    made.set_input_tensor(openvino.Tensor(x))
    return made


def _float(case: Case, threads: int) -> Task | Failure:
    values = operands(case, (-7, 7), (-7, 7))
    x, weight = values.x.numpy(), opset1.constant(values.weight.numpy())
    node = opset1.parameter(x.shape, dtype=np.float32)
    if isinstance(case, ConvCase):
        result = opset1.convolution(node, weight, [1, 1], [1, 1], [1, 1], [1, 1])
    else:
        result = opset1.matmul(node, weight, False, True)
    running = request(openvino.Model([result], [node], "layer"), x, threads)
    running.infer()
    found = running.get_output_tensor(0).data.copy()
    task = Task("fp32", case.label, "OpenVINO fp32", wall(running.infer), case.operations, "fp32")
    return checked(task, found, values.exact, exact=False)


def _layer(node: openvino.Node, case: ConvCase, weight: np.ndarray) -> openvino.Node:
    """Signs of the input and a binary convolution. Only outputs of 0 and 1 give a right result: with -1 and 1 the
    plugin converts wrongly."""
    zeros = opset1.constant(np.zeros((1, case.channels, 1, 1), np.float32))
    low, high = (opset1.constant(np.full((1, 1, 1, 1), value, np.float32)) for value in (0, 1))
    bits = opset1.fake_quantize(node, zeros, zeros, low, high, 2)
    packed = openvino.Tensor(openvino.Type.u1, openvino.Shape(weight.shape))
    packed.data[:] = np.packbits((weight > 0).reshape(-1), bitorder="little").reshape(packed.data.shape)
    constant = openvino.op.Constant(packed)
    return opset1.binary_convolution(bits, constant, [1, 1], [1, 1], [1, 1], [1, 1], "xnor-popcount", -1.0)


def _network(case: ConvCase, weight: np.ndarray, layers: int) -> openvino.Model:
    node = result = opset1.parameter([1, case.channels, case.size, case.size], dtype=np.float32)
    for _ in range(layers):
        result = _layer(result, case, weight)
    return openvino.Model([result], [node], "layers")


def _binary(case: ConvCase, threads: int) -> Iterator[Task | Failure]:
    """By itself as the library's own profile has it, and with the signs before it, as a chain shows it."""
    values = operands(case, (-1, 0), (-1, 0), odd=True)
    # its fake quantization takes x > 0 for 1; padding counts as -1
    x, weight = values.x.numpy(), values.weight.numpy()
    padded = torch.nn.functional.pad(values.x.double(), (1, 1, 1, 1), value=-1.0)
    exact = torch.nn.functional.conv2d(padded, values.weight.double())
    once = request(_network(case, weight, 1), x, threads)
    once.infer()
    found = once.get_output_tensor(0).data.copy()
    chain = request(_network(case, weight, 1 + _CHAIN), x, threads)
    task = Task(
        "binary",
        case.label,
        "OpenVINO binary, FakeQuantize and BinaryConvolution",
        wall(chain.infer),
        case.operations,
        "bits",
        wall(once.infer),
        _CHAIN,
    )
    whole = checked(task, found, exact, exact=True)
    yield whole
    if isinstance(whole, Failure):
        return
    sample = _profiled(request(_network(case, weight, 1 + _CHAIN), x, threads, profile=True))
    name = "OpenVINO binary, BinaryConvolution alone"
    yield Task("binary", case.label, name, sample, case.operations, "bits")


def _profiled(running: openvino.InferRequest) -> Sample:
    def sample() -> float:
        running.infer()
        times = [node.real_time for node in running.profiling_info if node.node_type == "BinaryConvolution"]
        return min(float(time.total_seconds()) for time in times)

    return sample
