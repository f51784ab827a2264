"""Models by the names that torchvision and timm give them, with weights from a file or from what was fetched before."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.core.errors import ArgumentError, DataError, ModelFileError, invalid
from robustlab.models import ModelInfo, build, set_info
from robustlab.models.blocks import IMAGENET_MEAN, IMAGENET_STD
from robustlab.models.registry import check_architecture, timm_configuration
from robustlab.models.zoo import load_tensors, read_tensors


def load_torchvision(rest: str, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """The model of ``NAME@FILE``, a state dict, or of ``NAME`` with torchvision's own weights if they are in its cache.

    `mean` and `std` are what the weights expect, by default ImageNet's. Nothing is downloaded.
    """
    name, file = _split("torchvision", rest)
    arguments = _statistics(mean or IMAGENET_MEAN, std or IMAGENET_STD)
    architecture = f"torchvision:{name}"
    check_architecture(architecture, arguments)
    if file is not None:
        classes = _last_outputs(build(architecture, arguments), read_tensors(file))
        return _filled(architecture, {**arguments, **classes}, file)
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not cached.is_file():
        raise _not_here("torchvision", name, f"download {weights.url}", cached)
    names = tuple(str(c) for c in weights.meta["categories"])
    size = weights.transforms().crop_size[0]
    return _filled(architecture, arguments, cached, class_names=names, size=(size, size), name=name)


def load_timm(rest: str, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """The model of ``NAME@FILE``, a state dict, or of ``NAME`` with weights that were fetched before.

    `mean` and `std` are by default those that timm states for the name. Nothing is downloaded.
    """
    name, file = _split("timm", rest)
    configuration = timm_configuration(name)
    arguments = _statistics(mean or configuration["mean"], std or configuration["std"])
    _, height, width = configuration["input_size"]
    if file is not None:
        classifier = configuration.get("classifier")
        weight = read_tensors(file).get(f"{classifier}.weight") if isinstance(classifier, str) else None
        classes = {} if weight is None else {"classes": len(weight)}
        return _filled(f"timm:{name}", {**arguments, **classes}, file, size=(height, width))
    repository = configuration.get("hf_hub_id")
    cached = None
    if repository and importlib.util.find_spec("huggingface_hub") is not None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repository, "model.safetensors")
        cached = Path(found) if isinstance(found, str) else None
    if cached is None:
        where = f"download model.safetensors of https://huggingface.co/{repository}" if repository else "train it"
        raise _not_here("timm", name, where, None)
    return _filled(f"timm:{name}", arguments, cached, size=(height, width), name=name)


def _split(prefix: str, rest: str) -> tuple[str, Path | None]:
    name, separator, file = rest.partition("@")
    if not name or (separator and not file):
        raise invalid("model", f"{prefix}:{rest}", f"{prefix}:NAME@FILE, e.g. {prefix}:resnet18@weights.safetensors")
    return name, Path(file) if separator else None


def _not_here(prefix: str, name: str, where: str, cached: Path | None) -> DataError:
    looked = "" if cached is None else f" at {cached}"
    return DataError(
        f"the weights of {prefix}:{name} are not on this machine{looked}, and nothing is downloaded: {where}, "
        f"then name {prefix}:{name}@FILE"
    )


def _statistics(mean: Sequence[float], std: Sequence[float]) -> dict[str, object]:
    return {"mean": [float(v) for v in mean], "std": [float(v) for v in std]}


def _last_outputs(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """The number of classes, if the last layer of the file has another one than ImageNet's."""
    last = list(model.state_dict())[-1].removeprefix("network.")
    if last in tensors and tensors[last].ndim >= 1 and len(tensors[last]) != 1000:
        return {"classes": len(tensors[last])}
    return {}


def _filled(
    architecture: str,
    arguments: Mapping[str, object],
    file: Path,
    *,
    class_names: tuple[str, ...] | None = None,
    size: tuple[int, int] | None = None,
    name: str | None = None,
) -> nn.Module:
    try:
        model = build(architecture, arguments)
    except ArgumentError as error:
        raise ModelFileError(f"model file {file}: {error}") from error
    load_tensors(model, {f"network.{key}": value for key, value in read_tensors(file).items()}, file)
    info = ModelInfo(
        name=name or file.stem,
        architecture=architecture,
        arguments=dict(arguments),
        class_names=class_names,
        input_size=size,
        provenance={"weights": file.name},
    )
    return set_info(model, info)
