"""Whole networks for `kernels.py`: deployed and optimized here, in float32 and int8 elsewhere."""

from __future__ import annotations

import copy
import io
import itertools
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from robustlab.bench.peers import installed
from robustlab.bench.tasks import cpu, shortest
from robustlab.compress import compress
from robustlab.deploy import PackedLayer, deploy, optimize
from robustlab.models import build

TORCH = "torch fp32"
INT8 = "ONNX Runtime int8"


class BinaryStep(nn.Module):
    """A 3x3 convolution and batch norm with a shortcut of its own, then Hardtanh (the layout of Bi-Real networks)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            down = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), down, nn.BatchNorm2d(outputs))
        self.activation = nn.Hardtanh()

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.norm(self.conv(x)) + self.shortcut(x))
        return activated


class ResNet18Shape(nn.Module):
    """The convolutions of ResNet-18, a shortcut around each but the first. Shape: (N, 3, 224, 224) -> (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1), nn.Hardtanh()
        )
        widths = [64, 64, 64, 64, 64, 128, 128, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512]
        self.steps = nn.Sequential(*(BinaryStep(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, 1000)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.pool(self.steps(self.stem(images))), 1))
        return logits


def cifar_resnet20() -> nn.Module:
    """ResNet-20 for 32x32 images."""
    return build("robustlab:cifar_resnet", {"depth": 20})


@dataclass(frozen=True)
class NetworkFigure:
    """Seconds of one image, of ours and of the peers; bytes of the weights in memory and as their bits say.

    fused: what `optimize` made of the network.
    """

    name: str
    seconds: float
    unoptimized_seconds: float
    peers: dict[str, float]
    goals: dict[str, float]
    resident_bytes: int
    packed_bytes: int
    fused: str


@dataclass(frozen=True)
class NetworkFigures:
    """All networks."""

    networks: list[NetworkFigure] = field(default_factory=list)


@dataclass(frozen=True)
class Network:
    """A float network, how it is compressed, and by how much it should beat the peers."""

    name: str
    build: Callable[[], nn.Module]
    size: int
    bits: int
    others: dict[str, tuple[int, int]]
    goals: dict[str, float]


DOWNSAMPLING = {"*.shortcut.1": (8, 8)}
NETWORKS = (
    Network("ResNet-18 shape 224², binary, int8 stem", ResNet18Shape, 224, 1, DOWNSAMPLING, {TORCH: 9, INT8: 3}),
    Network("CIFAR ResNet-20 shape, binary", cifar_resnet20, 32, 1, {}, {TORCH: 4}),
    Network("CIFAR ResNet-20 shape, W4A4", cifar_resnet20, 32, 4, {}, {TORCH: 1.5}),
    Network("CIFAR ResNet-20 shape, W8A8", cifar_resnet20, 32, 8, {}, {TORCH: 1.3}),
)


def randomized(model: nn.Module) -> nn.Module:
    """Weights and batch statistics from a seed, so that no channel is dead and no norm is the identity."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
            ):
                assert isinstance(tensor, Tensor)
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            fan = module.weight[0].numel()
            module.weight.data.copy_(torch.randn(module.weight.shape, generator=generator) / math.sqrt(fan))
    return model.eval()


def images(size: int, count: int) -> Tensor:
    """Random images in [0, 1]."""
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(1))


def weight_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of the packed layers' weights in memory, and weights times bits / 8."""
    layers = [module for module in model.modules() if isinstance(module, PackedLayer)]
    resident = sum(layer.packed.numel() * layer.packed.element_size() for layer in layers)
    return resident, sum(math.prod(layer.shape) * layer.scheme.weight_bits for layer in layers) // 8


def int8_session(model: nn.Module, size: int) -> Callable[[], object]:
    """The float network, quantized statically by ONNX Runtime (QDQ, per channel, u8 activations, s8 weights)."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images(size, 8).split(1))

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    exported = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is deprecated
        torch.onnx.export(model, (images(size, 1),), exported, input_names=["images"], opset_version=17, dynamo=False)
    with tempfile.TemporaryDirectory() as folder:
        first, second, third = (Path(folder) / f"{name}.onnx" for name in ("float", "inferred", "int8"))
        first.write_bytes(exported.getvalue())
        quant_pre_process(str(first), str(second))
        quantize_static(
            str(second),
            str(third),
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(third.read_bytes(), options, providers=["CPUExecutionProvider"])
    x = images(size, 1).numpy()
    with torch.inference_mode():
        wanted = model(images(size, 1)).flatten()
    found = torch.from_numpy(session.run(None, {"images": x})[0]).flatten()
    likeness = torch.nn.functional.cosine_similarity(wanted, found, dim=0).item()
    if likeness < 0.9:
        raise RuntimeError(f"the int8 network of ONNX Runtime is wrong: likeness {likeness:.2f} of its logits")
    return lambda: session.run(None, {"images": x})


def measure_network(network: Network, seconds: float) -> NetworkFigure:
    """One network, batch 1, one thread; the optimized one is compared with the deployed one first."""
    model = randomized(network.build())
    x = images(network.size, 1)
    settings = {"algorithm": "binary"} if network.bits == 1 else {}
    compressed = compress(
        model,
        weights=network.bits,
        activations=network.bits,
        calibration=images(network.size, 8),
        layers=network.others,
        **settings,
    )
    deployed = deploy(compressed).eval()
    optimized = optimize(deployed, (3, network.size, network.size)).eval()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x_last = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        if not torch.equal(optimized(x), deployed(x)):
            raise RuntimeError(f"{network.name}: the optimized model differs from the deployed one")
        runs: dict[str, Callable[[], object]] = {
            "optimized": lambda: optimized(x),
            "deployed": lambda: deployed(x),
            TORCH: lambda: model(x),
            f"{TORCH}, channels last": lambda: last(x_last),
        }
        if "onnxruntime" in installed():
            runs[INT8] = int8_session(model, network.size)
        times = dict(zip(runs, shortest([cpu(run) for run in runs.values()], seconds), strict=True))
    peers = {TORCH: min(times[TORCH], times[f"{TORCH}, channels last"])}
    if INT8 in times:
        peers[INT8] = times[INT8]
    resident, packed = weight_bytes(deployed)
    return NetworkFigure(
        network.name,
        times["optimized"],
        times["deployed"],
        peers,
        network.goals,
        resident,
        packed,
        str(optimized.report()),
    )


def measure_networks(*, quick: bool, progress: Callable[[str], None]) -> NetworkFigures:
    """All networks, one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        figures = []
        for network in NETWORKS:
            progress(network.name)
            figures.append(measure_network(network, 0.5 if quick else 3.0))
        return NetworkFigures(figures)
    finally:
        torch.set_num_threads(before)
