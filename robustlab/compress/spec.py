"""`Spec`: everything that `compress` needs but a model and images, and its TOML file.

weights = 4
activations = 4
algorithm = "gptq"
keep_float = ["head.*"]

[options]
damping = [0.01]

[layers]
"stage1.*.conv1" = [3, 4]   # (weight bits, activation bits); later patterns win

[made_for]
architecture = "robustlab:signs_resnet"

[made_for.layers]
stem = "conv2d 16x3x3x3 groups=1"
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from robustlab.compress.algorithms import TRAINED
from robustlab.compress.catalogue import check_bits, method_of, takes_any_grid
from robustlab.compress.layers import CompressedConv2d, CompressedLinear
from robustlab.compress.ptq import Method
from robustlab.compress.weight_grid import PLAIN, WeightScheme
from robustlab.core.errors import ArgumentError, check_choice, check_int, invalid
from robustlab.models import info_of

# tomllib is part of Python from 3.11 on; tomli is the same parser for 3.10.
_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

FIRST_LAST_BITS = 8
_SAME = "same"  # TOML has no null: this says that the first and the last layer are like the others
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_DEEPEST = 20  # of tables and lists in each other
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class MadeFor:
    """The model a spec was made for: its architecture's name, and {layer: shape} as `describe_layers` says it."""

    architecture: str
    layers: Mapping[str, str]

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, str) or not self.architecture:
            raise invalid("made_for.architecture", self.architecture, "the name of an architecture")
        for name, shape in _table("made_for.layers", self.layers).items():
            if not isinstance(shape, str):
                raise invalid(f"made_for.layers.{name}", shape, "a text such as 'conv2d 16x3x3x3 groups=1'")
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))


@dataclass(frozen=True)
class Spec:
    """How to compress a model: the arguments of `robustlab.compress.compress`, which says what each means.

    options: hyper-parameters of a post-training method, as ``{"iterations": 10_000}`` for ``adaround``.
    made_for: the model it was made for; another one is refused. notes: where it comes from, text, numbers, lists and
    tables of them, which nothing reads.
    Raises `ArgumentError` for a field of another type or value than allowed.
    """

    weights: int = 8
    activations: int = 8
    algorithm: str = "mse"
    options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    statistics_correction: bool = False
    first_last_bits: int | None = FIRST_LAST_BITS
    layers: Mapping[str, tuple[int, int]] = field(default_factory=lambda: _NOTHING)
    keep_float: Sequence[str] = ()
    weight_scheme: WeightScheme = PLAIN
    seed: int = 0
    made_for: MadeFor | None = None
    notes: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def __post_init__(self) -> None:
        for name in ("options", "notes"):
            object.__setattr__(self, name, _plain(name, _table(name, getattr(self, name))))
        self.method()
        trained = TRAINED.get(self.algorithm)
        if trained is not None:
            trained.check_bits("weights, activations", self.weights, self.activations)
        else:
            binary = self.algorithm == "binary"
            check_bits("", self.weights, self.activations, binary=binary)
        if type(self.statistics_correction) is not bool:
            raise invalid("statistics_correction", self.statistics_correction, "True or False")
        if self.statistics_correction and (trained is not None or self.algorithm == "binary"):
            allowed = f"False with algorithm {self.algorithm}"
            raise invalid("statistics_correction", self.statistics_correction, allowed)
        if self.first_last_bits is not None:
            check_int("first_last_bits", self.first_last_bits, 2, 8)
        layers = {}
        for pattern, bits in _table("layers", self.layers).items():
            if not (isinstance(bits, (tuple, list)) and len(bits) == 2):
                raise invalid(f"bits of {pattern}", bits, "(weight bits, activation bits)")
            check_bits(f" of {pattern}", *bits, binary=tuple(bits) == (1, 1))
            layers[pattern] = (bits[0], bits[1])
        object.__setattr__(self, "layers", MappingProxyType(layers))
        keep = self.keep_float
        if not isinstance(keep, (list, tuple)) or not all(isinstance(pattern, str) for pattern in keep):
            raise invalid("keep_float", keep, "a list of name patterns")
        object.__setattr__(self, "keep_float", tuple(keep))
        if not isinstance(self.weight_scheme, WeightScheme):
            raise invalid("weight_scheme", type(self.weight_scheme).__name__, "a WeightScheme")
        if not (self.weight_scheme.plain or takes_any_grid(self.algorithm)):
            raise refused_scheme(self.weight_scheme, self.algorithm)
        check_int("seed", self.seed, 0, 2**32 - 1)
        if self.made_for is not None and not isinstance(self.made_for, MadeFor):
            raise invalid("made_for", type(self.made_for).__name__, "a MadeFor, or None")

    def method(self) -> Method:
        """The post-training method that `algorithm` and `options` name."""
        if not isinstance(self.algorithm, str):
            raise invalid("algorithm", self.algorithm, "the name of an algorithm")
        return method_of(self.algorithm, self.options)

    def table(self) -> dict[str, Any]:
        """The fields as plain lists and dicts, as TOML and JSON take them; those that are empty are left out."""
        found: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "first_last_bits" and value is None:
                value = _SAME
            if isinstance(value, MadeFor):
                value = {"architecture": value.architecture, "layers": value.layers}
            if isinstance(value, WeightScheme):
                default = vars(PLAIN)
                value = {key: item for key, item in vars(value).items() if item != default[key]}
            if value is not None and value != {} and value != ():
                found[f.name] = _thawed(value)
        return found

    def check(self, model: nn.Module) -> None:
        """Raise `ArgumentError` that names the first layer in which `model` is not what this was made for."""
        if self.made_for is None:
            return
        found, wanted = describe_layers(model), self.made_for.layers
        what = f"the spec of {self.made_for.architecture}"
        for name, shape in wanted.items():
            if found.get(name) != shape:
                has = f"{name} {found[name]}" if name in found else f"no layer {name}"
                raise invalid("model", architecture_of(model), f"what {what} was made for: {name} {shape}, not {has}")
        for name, shape in found.items():
            if name not in wanted:
                raise invalid("model", architecture_of(model), f"what {what} was made for: without {name} {shape}")


def refused_scheme(scheme: WeightScheme, algorithm: str) -> ArgumentError:
    """The error for weights of a scheme that an algorithm cannot have."""
    return invalid("weight_scheme", scheme, f"symmetric, granularity channel with algorithm {algorithm}")


def architecture_of(model: nn.Module) -> str:
    """The name of a model's architecture: ``robustlab:signs_resnet``, or ``custom:ResNet`` for a class of one's own."""
    info = info_of(model)
    return f"custom:{type(model).__qualname__}" if info is None else info.architecture


def describe_layers(model: nn.Module) -> dict[str, str]:
    """{name: ``conv2d 64x32x3x3 groups=1`` or ``linear 10x64``} of every such layer, compressed or not."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear, CompressedConv2d, CompressedLinear)):
            continue
        shape = "x".join(str(size) for size in module.weight.shape)
        convolution = isinstance(module, (nn.Conv2d, CompressedConv2d))
        found[name] = f"conv2d {shape} groups={module.groups}" if convolution else f"linear {shape}"
    return found


def made_for(model: nn.Module) -> MadeFor:
    """What to put into the spec of a model, so that another one is refused."""
    return MadeFor(architecture_of(model), describe_layers(model))


def read_spec(path: str | os.PathLike[str]) -> Spec:
    """The spec in a TOML file. Raises `ArgumentError` that names file, key, value and what is allowed."""
    source = Path(path)
    if not source.is_file():
        raise invalid("spec", str(source), "an existing TOML file")
    try:
        table = _toml.loads(source.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise invalid(f"spec {source}", str(error), "a TOML file") from None
    try:
        _check_keys("a key", table, [f.name for f in fields(Spec)])
        made = table.get("made_for")
        if made is not None:
            _check_keys("a key of made_for", _table("made_for", made), ["architecture", "layers"])
            table["made_for"] = MadeFor(made.get("architecture", ""), made.get("layers", {}))
        scheme = table.get("weight_scheme")
        if scheme is not None:
            _check_keys(
                "a key of weight_scheme", _table("weight_scheme", scheme), [f.name for f in fields(WeightScheme)]
            )
            table["weight_scheme"] = WeightScheme(**scheme)
        if table.get("first_last_bits") == _SAME:
            table["first_last_bits"] = None
        return Spec(**table)
    except ArgumentError as error:
        raise ArgumentError(f"spec {source}: {error}") from None


def write_spec(spec: Spec, path: str | os.PathLike[str]) -> Path:
    """Write the TOML file that `read_spec` reads back as an equal spec, and return its path.

    Raises `ArgumentError` for a path that cannot be written.
    """
    target = Path(path)
    text = "\n".join(_lines(spec.table())) + "\n"
    try:
        target.write_text(text, encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise invalid("path", str(target), f"a file that can be written ({error})") from error
    return target


def _table(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise invalid(name, value, "a table with texts as keys")
    return value


def _check_keys(what: str, table: Mapping[str, object], known: list[str]) -> None:
    for key in table:
        check_choice(what, key, known)


def _plain(name: str, value: object, depth: int = 0) -> Any:
    """Text, numbers, and tuples and tables of them, so that what is written reads back equal."""
    if depth > _DEEPEST:
        raise invalid(name[:80], "tables in tables", f"at most {_DEEPEST} of them")
    if isinstance(value, Mapping):
        table = _table(name, value).items()
        return MappingProxyType({key: _plain(f"{name}.{key}", item, depth + 1) for key, item in table})
    if isinstance(value, (list, tuple)):
        return tuple(_plain(name, item, depth + 1) for item in value)
    whole = type(value) is int and -(2**63) <= value < 2**63
    if whole or type(value) in (bool, str) or (type(value) is float and math.isfinite(value)):
        return value
    raise invalid(name, value, "text, a finite number, true or false, or a list or table of them")


def _thawed(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value


def _lines(table: Mapping[str, object], path: str = "") -> list[str]:
    """A TOML table: first what is no table itself, then a section for each that is."""
    own = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    for key, value in table.items():
        if isinstance(value, Mapping):
            where = f"{path}{_key(key)}"
            own += ["", f"[{where}]", *_lines(value, f"{where}.")]
    return own


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    """A JSON string is a TOML one, but for the escape of one control character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
