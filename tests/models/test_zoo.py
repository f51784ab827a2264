"""Architectures, their arguments, and the weights of other people's training."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import robustlab as rl
from robustlab.core.errors import ArgumentError, DataError
from robustlab.models import BUNDLED, MODELS, build, info_of, open_zoo

DATA = Path(os.environ.get("ROBUSTLAB_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="ROBUSTLAB_DATA names no folder of real data")


@pytest.mark.parametrize("architecture", ["robustlab:signs_resnet", "robustlab:signs_binary"])
def test_sign_networks_stay_small(architecture: str) -> None:
    from robustlab.deploy import layer_costs

    model = build(architecture, {"classes": 24})
    assert sum(p.numel() for p in model.parameters()) <= 350_000
    assert sum(cost.macs for cost in layer_costs(model, torch.rand(1, 3, 64, 64))) <= 25_000_000


@needs_data
@pytest.mark.parametrize(("depth", "right"), [(20, 915), (32, 928), (44, 933), (56, 926)])
def test_cifar_networks_have_their_known_accuracy(depth: int, right: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTLAB_DATA", str(DATA.resolve()))
    with np.load(DATA / "cifar10" / "test1000.npz", allow_pickle=False) as file:
        images = torch.from_numpy(file["x"]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(file["y"]).long()
    model = rl.load(f"robustlab:cifar_resnet{depth}")
    with torch.inference_mode():
        found = 0
        for start in range(0, 1000, 250):
            rows = slice(start, start + 250)
            found += int((model(images[rows]).argmax(1) == labels[rows]).sum())
    assert found == right


ROBUST = {
    "cifar_cnn_a_adv": 664,
    "cifar_cnn_a_adv4": 574,
    "cifar_cnn_a_adv_alt": 697,
    "cifar_cnn_a_mix": 760,
    "cifar_resnet2b_adv": 703,
    "cifar_oval_base": 611,
    "cifar_oval_wide": 636,
    "cifar_oval_deep": 565,
    "cifar_conv_small_pgd": 630,
}


@needs_data
@pytest.mark.parametrize("name", ROBUST)
def test_robustly_trained_networks_have_their_known_accuracy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTLAB_DATA", str(DATA.resolve()))
    images, labels = rl.datasets.load_dataset("cifar10").batch(range(1000))
    with torch.inference_mode():
        assert int((rl.load(f"robustlab:{name}")(images).argmax(1) == labels).sum()) == ROBUST[name]


@needs_data
@pytest.mark.parametrize(("name", "right"), [("mnist_cnn_a_adv", 2852), ("mnist_convex_adv", 2922)])
def test_grey_networks_take_one_channel_or_three(name: str, right: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTLAB_DATA", str(DATA.resolve()))
    images, labels = rl.datasets.load_dataset("mnist").batch(range(3000))
    model = rl.load(f"robustlab:{name}")
    with torch.inference_mode():
        answers = model(images).argmax(1)
        assert int((answers == labels).sum()) == right
        assert torch.equal(model(images[:, :1]).argmax(1), answers)


def test_networks_of_mismatched_lists_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"outputs, kernels, strides, paddings is \(2, 1, 2, 2\)"):
        build("robustlab:relu_net", {"kernels": [4]})
    with pytest.raises(ArgumentError, match="size is 3"):
        build("robustlab:relu_net", {"size": 3, "paddings": [0, 0]})


def test_zoo_names_are_checked_and_missing_weights_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="did you mean signs_w4a4"):
        open_zoo("signs_w4a5")
    monkeypatch.setenv("ROBUSTLAB_DATA", str(tmp_path))
    with pytest.raises(DataError, match="ROBUSTLAB_DATA"):
        open_zoo("cifar_resnet20")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_are_what_their_names_say(name: str) -> None:
    from robustlab.deploy import scheme

    model = rl.load(f"robustlab:{name}")
    info = info_of(model)
    assert info is not None
    assert info.name == name
    assert info.input_size == (64, 64)
    assert scheme(model) == {"float": "float32"}.get(name.split("_")[1], name.split("_")[1])
    assert info.class_names == rl.datasets.load_dataset("signs").class_names
    assert info.provenance["recipe"] == "scripts/train_signs.py"


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_have_the_accuracy_of_their_file(name: str) -> None:
    model = rl.load(f"robustlab:{name}")
    info = info_of(model)
    assert info is not None
    images, labels = rl.datasets.load_dataset("signs").batch(range(512))
    with torch.no_grad():
        right = float((model(images).argmax(1) == labels).double().mean())
    stated = info.provenance["test_accuracy"]
    assert isinstance(stated, float)
    assert abs(right - stated) < 0.045  # three standard errors of 512 images at 90 %


def test_every_listed_model_is_described() -> None:
    assert set(BUNDLED) <= set(MODELS)
    assert all(MODELS.values())


@pytest.mark.parametrize(
    ("architecture", "arguments", "word"),
    [
        ("robustlab:signs_resnet", {"classes": 0}, "classes"),
        ("robustlab:signs_resnet", {"classes": True}, "classes"),
        ("robustlab:signs_resnet", {"classes": "24"}, "classes"),
        ("robustlab:signs_resnet", {"classes": 4, "widths": [16] * 40}, "widths"),
        ("robustlab:signs_resnet", {"classes": 4, "widths": [16, 32]}, "arguments"),
        ("robustlab:signs_resnet", {"clases": 4}, "classes"),
        ("robustlab:cifar_resnet", {"depth": 21}, "depth"),
        ("robustlab:cifar_resnet", {"std": [0.0, 1.0, 1.0]}, "std"),
        ("torchvision:resnet999", {}, "resnet"),
        ("subprocess:run", {}, "prefix"),
    ],
)
def test_bad_architectures_are_refused(architecture: str, arguments: dict[str, object], word: str) -> None:
    with pytest.raises(ArgumentError, match=word):
        build(architecture, arguments)


def test_building_leaves_the_global_random_state() -> None:
    before = torch.random.get_rng_state()
    build("robustlab:cifar_resnet", {"depth": 20})
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("name", "right"), [("squeezenet1_1", 601), ("mobilenet_v2", 869)])
def test_imagenet_networks_have_their_known_accuracy(name: str, right: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On all 1,000 files, of both splits; without TensorFlow's padding MobileNetV2 has 8 points less."""
    monkeypatch.setenv("ROBUSTLAB_DATA", str(DATA.resolve()))
    model, found = rl.load(f"robustlab:{name}"), 0
    for split in ("test", "train"):
        data = rl.datasets.load_dataset("imagenet1000", split=split)
        for start in range(0, len(data), 50):
            images, labels = data.batch(range(start, start + 50))
            with torch.inference_mode():
                found += int((model(images).argmax(1) == labels).sum())
    assert found == right


def test_padding_on_the_bottom_and_the_right_is_tensorflows() -> None:
    """A block of stride 2 on an even side is the plain convolution of the image with one more row and column of 0."""
    model = build("robustlab:mobilenet_v2_same", {"classes": 5})
    block = model.get_submodule("network.features.0")
    plain = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    assert len(plain) == 5 and all(m.padding == (0, 0) for m in plain)
    x = torch.rand(2, 3, 16, 16)
    first = block.get_submodule("1")
    assert isinstance(first, torch.nn.Conv2d)
    wide = torch.zeros(2, 3, 17, 17)
    wide[:, :, :16, :16] = x
    expected = torch.nn.functional.conv2d(wide, first.weight, stride=2)
    seen: list[torch.Tensor] = []
    with first.register_forward_hook(lambda module, inputs, output: seen.append(output)):
        block(x)
    assert torch.equal(seen[0], expected) and seen[0].shape == (2, 32, 8, 8)


def test_names_of_classes_come_from_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustlab.models.zoo import _names_in

    assert _names_in(tmp_path / "none.npz") is None
    np.savez(tmp_path / "a.npz", y=np.array([1, 0]), name=np.array(["b", "a"]))
    assert _names_in(tmp_path / "a.npz") == ("a", "b")
    np.savez(tmp_path / "b.npz", y=np.array([1, 0]))
    with pytest.raises(DataError, match="name"):
        _names_in(tmp_path / "b.npz")
