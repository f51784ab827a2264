"""From an image in [0, 1] to what a foreign model takes: channel order, range, mean and standard deviation, layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustlab.core.errors import ModelFileError, check_choice, check_number, invalid

CHANNELS = ("rgb", "bgr")
LAYOUTS = ("auto", "nchw", "nhwc")
_MOST_JSON = 1 << 22


@dataclass(frozen=True)
class Preprocessing:
    """x = (image * pixel_range - mean) / std, in the channel order and the layout of the model.

    Attributes:
        mean, std: one number per channel, in the order of the model's channels and in units of `pixel_range`.
        pixel_range: what white is before mean and std, 1 or 255 (any number > 0).
        channels: ``rgb`` or ``bgr``.
        layout: ``nchw``, ``nhwc``, or ``auto`` to read it from the shape of the model's input.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pixel_range: float = 1.0
    channels: str = "rgb"
    layout: str = "auto"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or len(values) != 3:
                raise invalid(name, values, "three numbers, one per channel")
            checked = tuple(
                check_number(name, v, *((0.0,) if name == "std" else ()), open_low=name == "std") for v in values
            )
            object.__setattr__(self, name, checked)
        object.__setattr__(self, "pixel_range", check_number("pixel_range", self.pixel_range, 0.0, open_low=True))
        check_choice("channels", self.channels, CHANNELS)
        check_choice("layout", self.layout, LAYOUTS)

    @property
    def text(self) -> str:
        """In words, for people."""
        parts = [f"{self.channels}, white = {self.pixel_range:g}"]
        if any(self.mean) or self.std != (1.0, 1.0, 1.0):
            parts.append(f"mean {' '.join(f'{v:g}' for v in self.mean)}")
            parts.append(f"std {' '.join(f'{v:g}' for v in self.std)}")
        return ", ".join(parts)

    @property
    def options(self) -> str:
        """As options of the command line."""
        text = f"--channels {self.channels} --pixel-range {self.pixel_range:g}"
        numbers = (",".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return text + "".join(f" --{name} {value}" for name, value in zip(("mean", "std"), numbers, strict=True))

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> float32 (N, 3, H, W), or (N, H, W, 3) with layout ``nhwc``."""
        x = images.flip(1) if self.channels == "bgr" else images
        if self.pixel_range != 1:
            x = x * self.pixel_range
        if any(self.mean):
            x = x - torch.tensor(self.mean, device=x.device).reshape(1, 3, 1, 1)
        if self.std != (1.0, 1.0, 1.0):
            x = x / torch.tensor(self.std, device=x.device).reshape(1, 3, 1, 1)
        return x.permute(0, 2, 3, 1) if self.layout == "nhwc" else x

    def with_layout(self, layout: str) -> Preprocessing:
        """The same with another layout."""
        return replace(self, layout=layout)


@dataclass(frozen=True)
class SideCar:
    """What a file beside a model says of it."""

    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None


FIELDS = ("preprocessing", "class_names")
FORMATS = (".onnx", ".pt2", ".tflite")


def is_foreign_file(spec: str) -> bool:
    """Whether a model is a file of another runtime, which does not say what it takes."""
    return spec.lower().endswith(FORMATS)


def side_car_path(model: Path) -> Path:
    """``model.onnx`` -> ``model.onnx.json``."""
    return model.with_name(model.name + ".json")


def read_side_car(model: Path) -> SideCar:
    """The JSON file beside `model`: fields ``preprocessing`` (of `Preprocessing`) and ``class_names``, both optional.

    Raises `ModelFileError` for a file that is something else.
    """
    path = side_car_path(model)
    if not path.is_file():
        return SideCar()
    allowed = f"a JSON object with the fields {' and '.join(FIELDS)}"
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ModelFileError(f"side-car {path} has {path.stat().st_size} bytes; allowed: {_MOST_JSON}")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"side-car {path} cannot be read ({error}); allowed: {allowed}") from None
    if not isinstance(document, dict) or not set(document) <= set(FIELDS):
        raise ModelFileError(f"side-car {path} is something else; allowed: {allowed}")
    names = document.get("class_names")
    if names is not None and not (isinstance(names, list) and names and all(isinstance(n, str) and n for n in names)):
        raise ModelFileError(f"side-car {path}: class_names is no list of names")
    given = document.get("preprocessing")
    try:
        preprocessing = None if given is None else preprocessing_from(given)
    except ValueError as error:
        raise ModelFileError(f"side-car {path}: {error}") from None
    return SideCar(preprocessing, None if names is None else tuple(names))


def preprocessing_from(values: object) -> Preprocessing:
    """A `Preprocessing` from its fields in a mapping. Raises `ArgumentError`."""
    if isinstance(values, Preprocessing):
        return values
    if not isinstance(values, Mapping):
        raise invalid("preprocessing", values, "an object with the fields of robustlab.Preprocessing")
    for key in values:
        check_choice("field of preprocessing", key, Preprocessing.__dataclass_fields__)
    fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return Preprocessing(**fields)
