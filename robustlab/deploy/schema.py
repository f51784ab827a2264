"""The JSON part of a model file, strictly validated before any tensor is used."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustlab.compress.composed import COMPOSITIONS
from robustlab.compress.freeze import LayerScheme
from robustlab.compress.parts import Parts
from robustlab.core.errors import ArgumentError, ModelFileError, check_choice, invalid
from robustlab.kernels import ActivationSpec, ConvGeometry

SCHEMA = 1
_MAX_JSON = 1 << 22

Size = Annotated[int, Field(ge=1, le=1 << 20)]
Offset = Annotated[int, Field(ge=0, le=1 << 20)]
Pixels = Annotated[int, Field(ge=1, le=1 << 14)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Activation(_Strict):
    """Grid of a layer's input, see `robustlab.kernels.ActivationSpec`."""

    scale: float
    zero_point: int | float
    bits: int


class Geometry(_Strict):
    """Geometry of a convolution, see `robustlab.kernels.ConvGeometry`."""

    stride: Annotated[list[Size], Field(min_length=2, max_length=2)]
    padding: Annotated[list[Offset], Field(min_length=2, max_length=2)]
    dilation: Annotated[list[Size], Field(min_length=2, max_length=2)]
    groups: Size
    padding_value: str


class Layer(_Strict):
    """One packed layer. `shape` is (O, C / groups, kh, kw). A weight zero point of 0 is not written.

    composition: one of `robustlab.compress.composed.COMPOSITIONS`, or ``parts`` for a sum of parts, each of
    `group_size` input channels; not written where there is none.
    """

    weight_bits: Annotated[int, Field(ge=1, le=8)]
    shape: Annotated[list[Size], Field(min_length=4, max_length=4)]
    activation: Activation | None
    geometry: Geometry | None
    weight_zero_point: int | float = 0
    composition: str | None = None
    group_size: Size | None = None

    def scheme(self) -> LayerScheme:
        """As the packed layer takes it; raises `ArgumentError` for values outside their ranges."""
        activation = None if self.activation is None else ActivationSpec(**self.activation.model_dump())
        geometry = None
        if self.geometry is not None:
            g = self.geometry
            geometry = ConvGeometry(
                (g.stride[0], g.stride[1]),
                (g.padding[0], g.padding[1]),
                (g.dilation[0], g.dilation[1]),
                g.groups,
                g.padding_value,
            )
        return LayerScheme(self.weight_bits, activation, geometry, self.weight_zero_point)


class Metadata(_Strict):
    """Everything in a model file that is not a tensor."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    architecture: Annotated[str, Field(min_length=1, max_length=200)]
    arguments: dict[str, Any]
    class_names: list[str] | None
    input_size: Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None
    provenance: dict[str, Any]
    left_float: list[str]
    layers: dict[str, Layer]
    affine: list[str]
    identity: list[str]
    selftest: str | None

    def canonical(self) -> str:
        """The one JSON text of these values, over which the file's hash is taken."""
        return json.dumps(
            self.model_dump(exclude_defaults=True), sort_keys=True, separators=(",", ":"), allow_nan=False
        )


def describe_layer(
    scheme: LayerScheme, shape: tuple[int, int, int, int], composition: str | None, group_size: int | None = None
) -> Layer:
    """The JSON form of a packed layer, with the kind of what is composed around it."""
    activation, geometry = scheme.activation, scheme.geometry
    return Layer(
        weight_bits=scheme.weight_bits,
        shape=list(shape),
        activation=None
        if activation is None
        else Activation(scale=activation.scale, zero_point=activation.zero_point, bits=activation.bits),
        geometry=None
        if geometry is None
        else Geometry(
            stride=list(geometry.stride),
            padding=list(geometry.padding),
            dilation=list(geometry.dilation),
            groups=geometry.groups,
            padding_value=geometry.padding_value,
        ),
        weight_zero_point=scheme.weight_zero_point,
        composition=composition,
        group_size=group_size,
    )


def _refuse_duplicates(text: str) -> None:
    """A key that appears twice could mean one thing to the hash's maker and another to the reader."""

    def check(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                raise invalid("metadata", f"the key {name} twice", "each key once")
            found[name] = value
        return found

    json.loads(text, object_pairs_hook=check)


def parse_metadata(path: object, text: str) -> Metadata:
    """Validate the JSON text of the file `path`. Raises `ModelFileError` that names the first field at fault."""
    if len(text) > _MAX_JSON:
        raise ModelFileError(f"model file {path} has {len(text)} characters of metadata; allowed: {_MAX_JSON}")
    try:
        _refuse_duplicates(text)
        metadata = Metadata.model_validate_json(text)
        for layer in metadata.layers.values():
            layer.scheme()
            if layer.composition is not None:
                check_choice("composition", layer.composition, (*COMPOSITIONS, Parts.kind))
            if (layer.composition == Parts.kind) != (layer.group_size is not None):
                raise invalid("group_size", layer.group_size, f"a number with composition {Parts.kind}, else none")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "metadata"
        raise ModelFileError(f"model file {path}: {field}: {first['msg']}") from error
    except (ArgumentError, RecursionError, json.JSONDecodeError) as error:
        raise ModelFileError(f"model file {path}: {error}") from error
    return metadata
