"""`load`: a model from a name, a file, or a torchvision architecture with a file of weights. Nothing is unpickled."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace as with_fields
from pathlib import Path

from torch import nn

from robustlab.core.errors import invalid
from robustlab.deploy.binary import pack_binary
from robustlab.deploy.file import build_from_file, read_model_file
from robustlab.deploy.foreign.preprocessing import Preprocessing
from robustlab.deploy.foreign.torch_model import load_program
from robustlab.deploy.named import load_timm, load_torchvision
from robustlab.kernels import backend
from robustlab.models import info_of, open_zoo, set_info
from robustlab.models.bnn import BinaryNetwork

_NAMED = {"torchvision": load_torchvision, "timm": load_timm}
_ALLOWED = "robustlab:NAME, torchvision:NAME@FILE, timm:NAME@FILE, hf:FOLDER, or the path of a model file"


def load(
    spec: str | os.PathLike[str],
    *,
    factory: Callable[[], nn.Module] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    preprocessing: Preprocessing | None = None,
) -> nn.Module:
    """A model in eval mode: images (N, 3, H, W) in [0, 1] -> logits (N, K).

    spec: ``robustlab:NAME`` (see `robustlab list models`); ``torchvision:NAME@FILE`` or ``timm:NAME@FILE`` (a state
    dict; `mean` and `std` say what the weights expect, by default ImageNet's and timm's; without ``@FILE`` what was
    fetched before); ``hf:FOLDER``, an image classifier of transformers; the path of a file that `robustlab.save`
    wrote; or that of an ``.onnx`` file (needs ``robustlab[onnx]``), which ONNX Runtime runs. ``trusted:FILE.pt2`` is an
    exported program of torch: reading it unpickles objects, so it can run code of whoever wrote it. A ``.tflite`` file
    (needs ``robustlab[tflite]``) gives scores, without a gradient. `preprocessing` says what these three take, by
    default what a side-car such as ``model.onnx.json`` says, else images as they are.
    `factory` builds the architecture of a file that was made from a class of your own.
    Raises `ArgumentError`, `DataError` or `ModelFileError`.

    Example: ``load("torchvision:resnet18@resnet18.safetensors")``.
    """
    backend()  # an unknown ROBUSTLAB_KERNELS is not the file's fault
    text = os.fspath(spec)
    prefix, separator, rest = text.partition(":")
    if separator and prefix == "robustlab":
        found = open_zoo(rest)
        if isinstance(found, BinaryNetwork):
            return pack_binary(found)
        if isinstance(found, nn.Module):
            return found
        model = build_from_file(read_model_file(found))
        info = info_of(model)
        assert info is not None
        return set_info(model, with_fields(info, name=rest))
    if separator and prefix == "hf":
        _need("transformers", text, "hf")
        from robustlab.deploy.huggingface import load_huggingface

        return load_huggingface(Path(rest))
    if separator and prefix in _NAMED:
        return _NAMED[prefix](rest, mean, std)
    trusted = bool(separator) and prefix == "trusted"
    path = Path(rest if trusted else text)
    if not path.is_file():
        what = "; it is no file" if path.exists() else "; there is no such file" if path.suffix else ""
        raise invalid("model", text, _ALLOWED + what)
    if path.suffix.lower() == ".pt2":
        if not trusted:
            raise invalid(
                "model",
                text,
                f"trusted:{text} for a file you trust: torch unpickles exported programs, so code in it runs",
            )
        return load_program(path, _preprocessing(preprocessing, mean, std))
    if trusted:
        raise invalid("model", text, "trusted: before an exported program, FILE.pt2")
    if path.suffix.lower() == ".onnx":
        return _onnx(path, _preprocessing(preprocessing, mean, std))
    if path.suffix.lower() == ".tflite":
        _need("ai_edge_litert", text, "tflite")
        from robustlab.deploy.foreign.tflite_model import load_tflite

        return load_tflite(path, _preprocessing(preprocessing, mean, std))
    model = build_from_file(read_model_file(path), factory)
    info = info_of(model)
    assert info is not None
    return set_info(model, with_fields(info, name=path.stem))


def _preprocessing(
    given: Preprocessing | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocessing | None:
    if mean is None and std is None:
        return given
    if given is not None:
        raise invalid("mean, std", (mean, std), "None beside preprocessing, which has them")
    return Preprocessing(tuple(mean or (0, 0, 0)), tuple(std or (1, 1, 1)))  # type: ignore[arg-type]


def _need(package: str, spec: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise invalid("model", spec, f"another model without the package {package}: pip install 'robustlab[{extra}]'")


def _onnx(path: Path, preprocessing: Preprocessing | None) -> nn.Module:
    for package in ("onnx", "onnxruntime"):
        _need(package, str(path), "onnx")
    from robustlab.deploy.foreign.onnx_model import load_onnx

    return load_onnx(path, preprocessing)
