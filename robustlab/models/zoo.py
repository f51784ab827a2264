"""The named models: where their weights are and how to read them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from robustlab.core.errors import DataError, ModelFileError, check_choice, invalid
from robustlab.core.paths import data_folder
from robustlab.models.blocks import IMAGENET_MEAN, IMAGENET_STD
from robustlab.models.bnn import BinaryCnv, BinaryLfc, binary_state
from robustlab.models.info import ModelInfo, set_info
from robustlab.models.mobilenet import same_padding_state
from robustlab.models.registry import build

_CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CNN_A_NAMES = {"0": "conv1", "2": "conv2", "5": "fc1", "7": "fc2"}

BUNDLED = ("signs_float", "signs_w8a8", "signs_w4a4", "signs_w1a1", "signs_w8a8_adv")


@dataclass(frozen=True)
class _Foreign:
    """Weights of somebody else's training, read from the folder in the environment variable ROBUSTLAB_DATA."""

    file: str
    architecture: str
    arguments: Mapping[str, object]
    convert: Callable[[Mapping[str, Tensor], Path], dict[str, Tensor]]
    description: str
    class_names: tuple[str, ...] | None = _CIFAR_CLASSES
    input_size: tuple[int, int] = (32, 32)
    names_file: str | None = None  # in ROBUSTLAB_DATA: an archive with the arrays `name` and `y`


def _same(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    return dict(tensors)


def _cnn_a(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    parts = {key: key.partition(".") for key in tensors}
    return {f"{_CNN_A_NAMES.get(head, head)}.{tail}": tensors[key] for key, (head, _, tail) in parts.items()}


def _chain(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Numbered layers, the last two of them linear, by the names of `ReluNet`."""
    numbers = sorted({int(key.partition(".")[0]) for key in tensors if key.partition(".")[0].isdecimal()})
    names = {str(number): f"convolutions.{index}" for index, number in enumerate(numbers[:-2])}
    names.update(zip(map(str, numbers[-2:]), ("hidden", "linear"), strict=False))
    parts = {key: key.partition(".") for key in tensors}
    return {f"{names.get(head, head)}.{tail}": tensors[key] for key, (head, _, tail) in parts.items()}


def _names_in(path: Path) -> tuple[str, ...] | None:
    """The names of the classes by number, from the arrays `name` and `y` of an archive; None without the file."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, numbers = arrays["name"], arrays["y"]
            return tuple(str(names[row]) for row in np.argsort(numbers, kind="stable"))
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}); allowed: arrays name and y") from error


def _cnv(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    return binary_state(tensors, BinaryCnv.grids, path)


def _lfc(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    return binary_state(tensors, BinaryLfc.grids, path)


_FOREIGN: dict[str, _Foreign] = {
    f"cifar_resnet{depth}": _Foreign(
        f"cifar10_resnet{depth}_akamaster",
        "robustlab:cifar_resnet",
        {"depth": depth, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
        _same,
        f"CIFAR-10 ResNet-{depth}, float (weights from ROBUSTLAB_DATA)",
    )
    for depth in (20, 32, 44, 56)
}
_FOREIGN["cifar_cnn_a_mix"] = _Foreign(
    "cifar10_cnn_a_mix",
    "robustlab:cifar_cnn_a",
    {"mean": [125.3 / 255, 123.0 / 255, 113.9 / 255], "std": [63.0 / 255, 62.1 / 255, 66.7 / 255]},
    _cnn_a,
    "CIFAR-10 CNN-A, robustly trained for linf 2/255, float (weights from ROBUSTLAB_DATA)",
)

_WONG = ([125.3 / 255, 123.0 / 255, 113.9 / 255], [63.0 / 255, 62.1 / 255, 66.7 / 255])
_OVAL = ([0.485, 0.456, 0.406], [0.225, 0.225, 0.225])


def _chain_entry(
    file: str,
    description: str,
    layers: tuple[list[int], list[int], list[int], list[int]],
    norm: tuple[list[float], list[float]] | None = None,
) -> _Foreign:
    arguments: dict[str, object] = dict(zip(("outputs", "kernels", "strides", "paddings"), layers, strict=True))
    arguments |= {"channels": 1, "size": 28} if norm is None else {"mean": norm[0], "std": norm[1]}
    return _Foreign(
        file,
        "robustlab:relu_net",
        arguments,
        _chain,
        f"{description}, float (weights from ROBUSTLAB_DATA)",
        class_names=tuple("0123456789") if norm is None else _CIFAR_CLASSES,
        input_size=(28, 28) if norm is None else (32, 32),
    )


_SMALL = ([16, 32], [4, 4], [2, 2], [1, 1])
_FOREIGN |= {
    **{
        f"cifar_cnn_a_{part}": _chain_entry(
            f"cifar10_cnn_a_{part}", "CIFAR-10 CNN-A, robustly trained for linf 2/255", _SMALL, _WONG
        )
        for part in ("adv", "adv4", "adv_alt")
    },
    "cifar_conv_small_pgd": _chain_entry(
        "cifar10_conv_small_pgd",
        "CIFAR-10, two convolutions, robustly trained for linf 2/255",
        ([16, 32], [4, 4], [2, 2], [0, 0]),
        ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    ),
    "cifar_oval_base": _chain_entry(
        "cifar10_oval_base", "CIFAR-10, OVAL base, certifiably trained", ([8, 16], [4, 4], [2, 2], [1, 1]), _OVAL
    ),
    "cifar_oval_wide": _chain_entry("cifar10_oval_wide", "CIFAR-10, OVAL wide, certifiably trained", _SMALL, _OVAL),
    "cifar_oval_deep": _chain_entry(
        "cifar10_oval_deep",
        "CIFAR-10, OVAL deep, certifiably trained",
        ([8, 8, 8, 8], [4, 3, 3, 4], [2, 1, 1, 2], [1, 1, 1, 1]),
        _OVAL,
    ),
    "cifar_resnet2b_adv": _Foreign(
        "cifar10_resnet2b_adv",
        "robustlab:resnet_2b",
        {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2471, 0.2435, 0.2616]},
        _same,
        "CIFAR-10 ResNet-2B, robustly trained for linf 2/255, float (weights from ROBUSTLAB_DATA)",
    ),
    "mnist_cnn_a_adv": _chain_entry("mnist_cnn_a_adv", "MNIST CNN-A, robustly trained for linf 0.3", _SMALL),
    "mnist_convex_adv": _chain_entry(
        "mnist_convex_adv_eps0.1", "MNIST CNN-A, certifiably trained for linf 0.1", _SMALL
    ),
}

_FOREIGN["bnn_cifar10_cnvW1A1"] = _Foreign(
    "bnn_cifar10_cnvW1A1",
    "robustlab:bnn_cnv",
    {"classes": 10},
    _cnv,
    "CIFAR-10, binary network with integer thresholds, made for FPGAs (weights from ROBUSTLAB_DATA)",
)
_FOREIGN["bnn_gtsrb_cnvW1A1"] = _Foreign(
    "bnn_gtsrb_cnvW1A1",
    "robustlab:bnn_cnv",
    {"classes": 43},
    _cnv,
    "German traffic signs, the same binary network (weights from ROBUSTLAB_DATA)",
    class_names=None,
)
_FOREIGN["bnn_mnist_lfcW1A1"] = _Foreign(
    "bnn_mnist_lfcW1A1",
    "robustlab:bnn_lfc",
    {"classes": 10, "width": 1024},
    _lfc,
    "MNIST, binary perceptron (weights from ROBUSTLAB_DATA)",
    class_names=tuple("0123456789"),
    input_size=(28, 28),
)


def _network(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    return {f"network.{key}": value for key, value in tensors.items()}


def _same_padding(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    return same_padding_state(tensors)


_FOREIGN["mobilenet_v2"] = _Foreign(
    "mobilenet_v2_imagenet_tf2ptq",
    "robustlab:mobilenet_v2_same",
    {"classes": 1000, "mean": [0.5] * 3, "std": [0.5] * 3},
    _same_padding,
    "ImageNet MobileNetV2, float, with TensorFlow's padding (weights from ROBUSTLAB_DATA)",
    class_names=None,
    names_file="imagenet1000/imagenet1000_224.npz",
    input_size=(224, 224),
)
_FOREIGN["squeezenet1_1"] = _Foreign(
    "squeezenet1_1_imagenet_rgb01",
    "torchvision:squeezenet1_1",
    {"classes": 1000, "mean": [0.0] * 3, "std": [1.0] * 3},
    _network,
    "ImageNet SqueezeNet 1.1, float (weights from ROBUSTLAB_DATA)",
    class_names=None,
    names_file="imagenet1000/imagenet1000_224.npz",
    input_size=(224, 224),
)

MODELS: dict[str, str] = {
    "signs_float": "traffic signs, residual network, float (bundled)",
    "signs_w8a8": "traffic signs, the same network with 8-bit weights and activations (bundled)",
    "signs_w4a4": "traffic signs, the same network with 4-bit weights and activations (bundled)",
    "signs_w1a1": "traffic signs, binary network, first and last layer 8 bit (bundled)",
    "signs_w8a8_adv": "traffic signs, adversarially trained, 8-bit weights and activations (bundled)",
    **{name: entry.description for name, entry in _FOREIGN.items()},
}


def bundled_path(name: str) -> Path:
    """The model file that is installed with the package."""
    return Path(str(files("robustlab.models") / "weights" / f"{name}.safetensors"))


def open_zoo(name: str) -> nn.Module | Path:
    """A model of the zoo by name: a float module in eval mode, or the path of a bundled model file.

    A `BinaryNetwork` comes with float weights; it is only what it was trained to be once it is deployed.

    Raises `ArgumentError` for an unknown name and `DataError` where the weights are not on this machine.
    """
    check_choice("model", name, MODELS)
    if name in BUNDLED:
        path = bundled_path(name)
        if not path.is_file():
            raise DataError(f"model {name} has no weights at {path}; install robustlab from a complete checkout")
        return path
    entry = _FOREIGN[name]
    folder = data_folder()
    path = (folder or Path("$ROBUSTLAB_DATA")) / "models" / f"{entry.file}.safetensors"
    if not path.is_file():
        raise DataError(
            f"model {name} needs the file {path}; set ROBUSTLAB_DATA to the folder that holds models/{path.name}"
        )
    model = build(entry.architecture, entry.arguments)
    load_tensors(model, entry.convert(read_tensors(path), path), path)
    class_names = entry.class_names
    if entry.names_file is not None:
        class_names = _names_in((folder or Path("$ROBUSTLAB_DATA")) / entry.names_file)
    info = ModelInfo(
        name=name,
        architecture=entry.architecture,
        arguments=entry.arguments,
        class_names=class_names,
        input_size=entry.input_size,
        provenance={"weights": path.name},
    )
    return set_info(model, info)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a state dict that torch loads without unpickling objects.

    Raises `ModelFileError` for anything else.
    """
    if not path.is_file():
        raise invalid("model file", str(path), "an existing .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelFileError(f"model file {path} is not a readable safetensors file: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its zip, tar or unpickling layers raise
        raise ModelFileError(
            f"model file {path} cannot be read without unpickling objects; allowed: tensors"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelFileError(f"model file {path} is not a state dict; allowed: a dict of names and tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy `tensors` into `model`, which must want exactly these names and shapes; normalisation may be missing.

    Raises `ModelFileError` that names the first tensor which does not fit.
    """
    wanted = model.state_dict()
    optional = {k for k in wanted if k.endswith("num_batches_tracked") or k.startswith("normalize.")}
    missing = sorted(set(wanted) - set(tensors) - optional)
    extra = sorted(set(tensors) - set(wanted))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has the unknown tensor {extra[0]}"
        raise ModelFileError(f"model file {path} {what}; allowed: the {len(wanted)} tensors of the architecture")
    for key, value in tensors.items():
        if value.shape != wanted[key].shape:
            shapes = f"{tuple(value.shape)}; allowed: {tuple(wanted[key].shape)}"
            raise ModelFileError(f"model file {path}: tensor {key} has shape {shapes}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelFileError(f"model file {path}: tensor {key} holds NaN or infinity; allowed: finite numbers")
    model.load_state_dict(dict(tensors), strict=False)
