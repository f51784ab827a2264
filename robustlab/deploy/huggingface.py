"""Image classifiers of transformers from a folder: config.json, model.safetensors, preprocessor_config.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.core.errors import ModelFileError, invalid
from robustlab.deploy.foreign.preprocessing import Preprocessing
from robustlab.models import ModelInfo, set_info

_MOST_JSON = 1 << 22
_CONFIG, _WEIGHTS, _PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
_SHARDED = f"{_WEIGHTS}.index.json"


class HuggingFaceClassifier(nn.Module):
    """A classifier of transformers behind its preprocessing. Shape: images (N, 3, H, W) in [0, 1] -> logits (N, K)."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing.with_layout("nchw")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images, which are not resized."""
        logits: Tensor = self.network(pixel_values=self.preprocessing(images)).logits
        return logits

    def extra_repr(self) -> str:
        """Part of a model's fingerprint: what tensors do not show."""
        configuration = getattr(self.network, "config", None)
        text = configuration.to_json_string() if configuration is not None else ""
        return f"{self.preprocessing}, config={hashlib.sha256(text.encode()).hexdigest()}"


def load_huggingface(folder: Path) -> nn.Module:
    """The classifier in a folder that `save_pretrained` of a model and of its image processor wrote, in eval mode.

    Names of classes come from ``config.json``, normalisation and size from ``preprocessor_config.json``. Weights are
    safetensors; code of the folder's own is never run, and nothing is downloaded. Raises `ModelFileError`.
    """
    if not folder.is_dir():
        raise invalid("model", f"hf:{folder}", f"a folder with {_CONFIG}, {_WEIGHTS} and {_PROCESSOR}")
    if not (folder / _WEIGHTS).is_file() and not (folder / _SHARDED).is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        found = f", only {others[0]}, which would be unpickled" if others else ""
        raise ModelFileError(f"model folder {folder} has no {_WEIGHTS}{found}; allowed: save_pretrained(folder)")
    configuration = _read(folder / _CONFIG)
    if "auto_map" in configuration:
        raise ModelFileError(f"model folder {folder} needs code of its own (auto_map); allowed: models of transformers")
    preprocessing, size = read_processor(folder / _PROCESSOR)
    network = _network(folder)
    names = _class_names(folder, configuration)
    model = HuggingFaceClassifier(network, preprocessing).eval()
    height, width = size or (224, 224)
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, 3, height, width))
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelFileError(f"model folder {folder} does not take {height}x{width} images: {_line(error)}") from None
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ModelFileError(f"model folder {folder} gives {tuple(logits.shape)} for an image; allowed: (1, K), K >= 2")
    if names is not None and len(names) != logits.shape[1]:
        names = None
    info = ModelInfo(
        name=folder.resolve().name,
        architecture=f"custom:{type(network).__name__}",
        class_names=names,
        input_size=size,
        provenance={"folder": folder.resolve().name, "preprocessing": preprocessing.text},
    )
    return set_info(model, info)


def _network(folder: Path) -> nn.Module:
    from transformers import AutoModelForImageClassification
    from transformers.utils import logging as their_logging

    bar = their_logging.is_progress_bar_enabled()
    level = their_logging.get_verbosity()
    their_logging.disable_progress_bar()
    their_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            network, report = AutoModelForImageClassification.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except Exception as error:  # transformers raises what its readers of JSON, safetensors and models raise.
        raise ModelFileError(f"model folder {folder} cannot be read by transformers: {_line(error)}") from None
    finally:
        their_logging.set_verbosity(level)
        if bar:
            their_logging.enable_progress_bar()
    missing = sorted(report["missing_keys"]) or sorted(str(key) for key in report["mismatched_keys"])
    if missing:  # They would stay random.
        raise ModelFileError(f"model folder {folder} lacks the tensor {missing[0]}; allowed: all of the architecture's")
    if not isinstance(network, nn.Module):
        raise ModelFileError(f"model folder {folder} is no network of torch")
    return network


def read_processor(path: Path) -> tuple[Preprocessing, tuple[int, int] | None]:
    """Normalisation and (H, W) of an image processor's file; images as they are, and None, where it says nothing."""
    values = _read(path)
    fields: dict[str, Any] = {}
    if values.get("do_normalize", True):
        for name in ("mean", "std"):
            if values.get(f"image_{name}") is not None:
                fields[name] = tuple(values[f"image_{name}"])
    factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    if isinstance(factor, bool) or not isinstance(factor, (int, float)):
        raise ModelFileError(f"file {path}: rescale_factor is {factor!r}; allowed: a number")
    pixel_range = 255 * float(factor)
    fields["pixel_range"] = 1.0 if abs(pixel_range - 1) < 1e-6 else pixel_range
    fields["channels"] = "bgr" if values.get("do_flip_channel_order") else "rgb"
    try:
        preprocessing = Preprocessing(**fields)
    except ValueError as error:
        raise ModelFileError(f"file {path}: {error}") from None
    return preprocessing, _size(values)


def _size(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W) of what a processor gives out: of its crop, else of its resizing."""
    crops = [values.get("crop_size")] if values.get("do_center_crop") else []
    for given in (*crops, values.get("size")):
        if isinstance(given, int):
            return given, given
        if isinstance(given, Mapping):
            sides = (given.get("height"), given.get("width"))
            edge = given.get("shortest_edge")
            if all(isinstance(side, int) for side in sides):
                return sides  # type: ignore[return-value]
            if isinstance(edge, int):
                return edge, edge
    return None


def _class_names(folder: Path, configuration: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names by number; None where they only are numbers themselves."""
    names = configuration.get("id2label")
    if not isinstance(names, Mapping):
        return None
    try:
        ordered = [str(names[key]) for key in sorted(names, key=int)]
    except (TypeError, ValueError):
        raise ModelFileError(f"model folder {folder}: id2label of {_CONFIG} has keys that are no numbers") from None
    numbered = all(name == f"LABEL_{index}" for index, name in enumerate(ordered))
    return None if numbered or len(set(ordered)) != len(ordered) else tuple(ordered)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ModelFileError(f"file {path} has {path.stat().st_size} bytes; allowed: {_MOST_JSON}")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"file {path} cannot be read ({_line(error)}); allowed: a JSON object") from None
    if not isinstance(values, dict):
        raise ModelFileError(f"file {path} is something else; allowed: a JSON object")
    return values


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
