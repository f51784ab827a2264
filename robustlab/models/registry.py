"""Build an architecture from its name and JSON arguments. Nothing is ever imported because a file says so."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from robustlab.core.errors import check_choice, invalid
from robustlab.models.bireal import CifarBiReal
from robustlab.models.blocks import IMAGENET_MEAN, IMAGENET_STD, Normalized
from robustlab.models.bnn import BinaryCnv, BinaryLfc
from robustlab.models.certified import ReluNet, ResNet2B
from robustlab.models.cifar import CifarResNet, CnnA
from robustlab.models.graph import GraphNetwork, parse_graph
from robustlab.models.mobilenet import MobileNetV2Same
from robustlab.models.signs import SignsBinary, SignsResNet

_OWN: dict[str, Callable[..., nn.Module]] = {
    "signs_resnet": SignsResNet,
    "signs_binary": SignsBinary,
    "cifar_resnet": CifarResNet,
    "cifar_cnn_a": CnnA,
    "cifar_bireal": CifarBiReal,
    "relu_net": ReluNet,
    "resnet_2b": ResNet2B,
    "mobilenet_v2_same": MobileNetV2Same,
    "bnn_cnv": BinaryCnv,
    "bnn_lfc": BinaryLfc,
}
_ALLOWED: dict[str, frozenset[str]] = {
    "signs_resnet": frozenset({"classes", "widths", "blocks"}),
    "signs_binary": frozenset({"classes", "stem", "widths", "steps"}),
    "cifar_resnet": frozenset({"depth", "classes", "mean", "std"}),
    "cifar_cnn_a": frozenset({"classes", "mean", "std"}),
    "cifar_bireal": frozenset({"classes", "widths", "steps", "mean", "std"}),
    "relu_net": frozenset(
        {"outputs", "kernels", "strides", "paddings", "hidden", "size", "channels", "classes", "mean", "std"}
    ),
    "resnet_2b": frozenset({"classes", "mean", "std"}),
    "mobilenet_v2_same": frozenset({"classes", "mean", "std"}),
    "bnn_cnv": frozenset({"classes"}),
    "bnn_lfc": frozenset({"classes", "width"}),
    "torchvision": frozenset({"classes", "mean", "std"}),
    "timm": frozenset({"classes", "mean", "std"}),
}
_LIMIT = 4096
_LIMITS = {"blocks": 64, "steps": 64, "depth": 1024}
_LOWEST = {"paddings": 0}


def check_architecture(architecture: str, arguments: Mapping[str, object]) -> tuple[str, str]:
    """Split ``prefix:name`` and check both and the arguments.

    Allowed are ``robustlab:`` names of this module, ``torchvision:`` and ``timm:`` classification models, and
    ``graph:onnx``, whose arguments are the fields of a `robustlab.models.graph.GraphSpec`; other arguments are whole
    numbers from 1 to 4096 (64 for blocks and steps), numbers, or lists of up to 16 of either. Raises `ArgumentError`.
    """
    prefix, _, name = architecture.partition(":")
    check_choice("architecture prefix", prefix, ("robustlab", "torchvision", "timm", "graph"))
    if prefix == "graph":
        check_choice("architecture", name, ("onnx",))
        parse_graph(arguments)
        return prefix, name
    if prefix == "robustlab":
        check_choice("architecture", name, _OWN)
    elif prefix == "timm":
        timm_configuration(name)
    else:
        import torchvision.models as classification
        from torchvision.models import list_models

        check_choice("torchvision architecture", name, list_models(module=classification))
    allowed = _ALLOWED[name if prefix == "robustlab" else prefix]
    for key, value in arguments.items():
        check_choice(f"argument of {architecture}", key, allowed)
        _check_value(key, value)
    return prefix, name


def timm_configuration(name: str) -> dict[str, Any]:
    """What timm states for one of its models: ``mean``, ``std``, ``input_size`` (C, H, W), ``num_classes`` and more.

    Raises `ArgumentError` for an unknown name, for models of other than three channels, and without timm.
    """
    if importlib.util.find_spec("timm") is None:
        raise invalid("model", f"timm:{name}", "another one without the package timm: pip install 'robustlab[timm]'")
    import timm

    base, _, tag = name.partition(".")
    check_choice("timm architecture", base, timm.list_models())
    tags = timm.list_pretrained(f"{base}.*")
    if tag and name not in tags:
        raise invalid("timm weights", name, ", ".join((base, *tags)))
    configuration = timm.get_pretrained_cfg(name)
    if configuration is None:
        raise invalid("timm architecture", name, "one that timm describes")
    values = dict(configuration.to_dict())
    if values["input_size"][0] != 3:
        raise invalid("timm architecture", name, "one that takes images of three channels")
    return values


def _check_value(key: str, value: object) -> None:
    numbers = value if isinstance(value, (list, tuple)) else [value]
    if not 1 <= len(numbers) <= 16:
        raise invalid(key, value, "a list of 1 to 16 numbers")
    lowest, limit = _LOWEST.get(key, 1), _LIMITS.get(key, _LIMIT)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise invalid(key, value, "a number or a list of numbers")
        if isinstance(number, int) and not (key in ("mean", "std") or lowest <= number <= limit):
            raise invalid(key, value, f"whole numbers from {lowest} to {limit}")
        if isinstance(number, float) and key not in ("mean", "std"):
            raise invalid(key, value, f"whole numbers from {lowest} to {limit}")


def build(architecture: str, arguments: Mapping[str, object] | None = None) -> nn.Module:
    """An untrained model in eval mode, images in [0, 1] -> logits. Does not touch the global random state.

    Example: ``build("robustlab:signs_resnet", {"classes": 24})``; ``build("torchvision:resnet18")`` gets ImageNet's
    mean and standard deviation in front unless `mean` and `std` say otherwise. Raises `ArgumentError`.
    """
    values = json.loads(json.dumps(dict(arguments or {})))
    prefix, name = check_architecture(architecture, values)
    with torch.random.fork_rng(devices=[]):
        if prefix == "graph":
            return GraphNetwork(parse_graph(values)).eval()
        if prefix == "robustlab":
            try:
                model = _OWN[name](**values)
            except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
                raise invalid(f"arguments of {architecture}", values, f"what it takes ({error})") from error
        elif prefix == "timm":
            import timm

            configuration = timm_configuration(name)
            classes = values.get("classes", configuration["num_classes"])
            network = timm.create_model(name, pretrained=False, num_classes=classes)
            model = Normalized(
                network, values.get("mean", configuration["mean"]), values.get("std", configuration["std"])
            )
        else:
            from torchvision.models import get_model

            mean = values.pop("mean", IMAGENET_MEAN)
            std = values.pop("std", IMAGENET_STD)
            options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
            network = get_model(name, weights=None, num_classes=values.get("classes", 1000), **options)
            model = Normalized(network, mean, std)
    return model.eval()
