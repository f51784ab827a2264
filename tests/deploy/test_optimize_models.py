"""Whole models: optimized equals deployed, bit for bit, on every backend, and their gradients too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlab as rl
from robustlab.deploy import OptimizedModel, optimize
from robustlab.deploy.graph.plan import Plan, ProgramCall
from robustlab.kernels import available, use_backend
from robustlab.models import BUNDLED, build
from robustlab.models.blocks import ChannelBias, Normalize, ShiftedPReLU

BATCHES = (1, 2, 5)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def moved(model: nn.Module, size: int) -> nn.Module:
    """The model with batch norms that have seen images, and parameters that are not their initial constants."""
    model.train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        for seed in range(2):
            model(images(8, size, seed))
    return model.eval()


def deployed(model: nn.Module, weights: int, activations: int, size: int, **options: Any) -> nn.Module:
    algorithm = "binary" if weights == 1 else "mse"
    small = rl.compress(
        moved(model, size),
        weights=weights,
        activations=activations,
        algorithm=algorithm,
        calibration=images(8, size),
        **options,
    )
    return rl.deploy(small)


def check_equal(model: nn.Module, size: int, batches: tuple[int, ...] = BATCHES) -> OptimizedModel:
    optimized = optimize(model, (3, size, size))
    assert optimized.report().reason is None, str(optimized.report())
    with torch.no_grad():
        for name in available():
            with use_backend(name):
                for batch in batches:
                    x = images(batch, size, batch)
                    assert torch.equal(optimized(x), model(x)), (name, batch)
    return optimized


def check_gradient(model: nn.Module, size: int) -> None:
    gradients = []
    for module in (model, optimize(model)):
        leaf = images(2, size).requires_grad_()
        module(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("name", [name for name in BUNDLED if name != "signs_float"])
def test_bundled_models(name: str) -> None:
    model = rl.load(f"robustlab:{name}")
    optimized = check_equal(model, 64)
    assert len(optimized.report().segments) == 2, "only the average over the image splits these networks"
    assert [reason for _, reason in optimized.report().in_torch] == ["an average in torch's own order of additions"]
    check_gradient(model, 64)


@pytest.mark.parametrize(("weights", "activations"), [(1, 1), (2, 2), (4, 4), (8, 8), (3, 8)])
def test_cifar_resnet(weights: int, activations: int) -> None:
    model = deployed(build("robustlab:cifar_resnet", {"depth": 20}), weights, activations, 32)
    optimized = check_equal(model, 32)
    first, last = optimized.report().segments
    assert len(first.layers) == 19
    assert first.operations["subsampled shortcuts"] == 2
    assert last.layers == ("linear",)


def test_a_network_with_fully_connected_layers() -> None:
    model = deployed(build("robustlab:cifar_cnn_a"), 4, 4, 32)
    optimized = check_equal(model, 32)
    assert [name for name, _ in optimized.report().in_torch] == ["flatten"]


class BiRealBlock(nn.Module):
    """One shortcut around every binary convolution; where resolution halves, a pool and a 1x1 convolution on it."""

    def __init__(self, inputs: int, outputs: int, stride: int, shifts: bool) -> None:
        super().__init__()
        self.shift = ChannelBias(inputs) if shifts else nn.Identity()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )
        self.activation = ShiftedPReLU(outputs) if shifts else nn.Hardtanh()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn(self.conv(self.shift(x)))
        out += self.shortcut(x)
        return self.activation(out)


class BiReal(nn.Module):
    """ResNet-18's shape made for binary layers."""

    def __init__(self, shifts: bool, stem_pool: bool = True) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16))
        self.pool = nn.MaxPool2d(3, 2, 1) if stem_pool else nn.Identity()
        widths = (16, 16, 16, 16, 16, 32, 32, 32, 32)
        self.body = nn.Sequential(
            *(BiRealBlock(a, b, 2 if a != b else 1, shifts) for a, b in itertools.pairwise(widths))
        )
        self.head = nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.pool(self.stem(self.normalize(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize("shifts", [False, True])
@pytest.mark.parametrize("left", [None, ("stem.0",)])
def test_bi_real_networks(shifts: bool, left: tuple[str, ...] | None) -> None:
    options = {"keep_float": left} if left else {}
    model = deployed(BiReal(shifts), 1, 1, 48, **options)
    optimized = check_equal(model, 48)
    assert len(optimized.report().segments[0].layers) >= 8
    check_gradient(model, 48)


class Vgg(nn.Module):
    """Convolution, pool, batch norm, sign: no float between the layers is needed."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [Normalize()]
        inputs = 3
        for outputs, pool in ((16, False), (24, True), (32, False), (33, True)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
            layers += [nn.MaxPool2d(2)] if pool else []
            layers += [nn.BatchNorm2d(outputs), nn.Hardtanh()]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(33 * 16, 40, bias=False), nn.BatchNorm1d(40), nn.Hardtanh(), nn.Linear(40, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def test_a_plain_binary_network_keeps_bits_between_its_layers() -> None:
    model = deployed(Vgg(), 1, 1, 16)
    optimized = check_equal(model, 16)
    (plan, *_) = optimized._plans.values()
    assert isinstance(plan, Plan)
    first = next(step.function for step in plan._steps if isinstance(step.function, ProgramCall))
    kinds = [value.kind for value in first._program.values]
    assert kinds.count("float") == 3, "the images, and the last convolution before and after its pool"
    check_gradient(model, 16)


@pytest.mark.parametrize(
    ("name", "weights", "size"),
    [
        ("resnet18", 8, 64),
        ("resnet18", 1, 64),
        ("mobilenet_v2", 8, 64),
        ("squeezenet1_1", 4, 64),
        ("densenet121", 4, 32),
        ("shufflenet_v2_x0_5", 8, 64),
    ],
)
def test_torchvision_networks(name: str, weights: int, size: int) -> None:
    model = deployed(build(f"torchvision:{name}", {"classes": 10}), weights, weights, size)
    check_equal(model, size, (1, 3))


def test_images_of_other_sizes_make_their_own_programs() -> None:
    model = rl.load("robustlab:signs_w4a4")
    optimized = optimize(model, (3, 64, 64))
    with torch.no_grad():
        for size in (32, 64, 48, 32):
            x = images(2, size)
            assert torch.equal(optimized(x), model(x))
    assert optimized.report((3, 48, 48)).reason is None


def test_an_evaluation_gives_the_same_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = ["clean", "fgsm-linf-2of255", "gaussian-noise-3"]
    found = []
    for name in ("optimized", "as it is"):
        if found:
            monkeypatch.setattr(import_module("robustlab.evaluate.plan"), "optimize", lambda model: model)
        results = rl.evaluate(
            "robustlab:signs_w1a1", "signs", conditions, out=tmp_path / name, limit=16, tile=8, efficiency=False
        )
        found.append([{key: value for key, value in cell.items() if key != "seconds"} for cell in results.cells])
    assert found[0] == found[1]
