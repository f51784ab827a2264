"""One safetensors file per model: write it, and read it back with every check before a kernel sees a byte.

Tensors: ``<layer>.planes`` (canonical bit planes), ``<layer>.scale``, ``<layer>.bias`` of each packed layer, the
tensors of what is composed around it, the float remainder under its own names, and ``selftest.logits``. Metadata:
``format``, ``schema``, ``robustlab`` (canonical JSON, see `robustlab.deploy.schema`) and ``sha256`` over that JSON and
all tensors.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from robustlab.compress.composed import Composed
from robustlab.compress.freeze import FrozenLayer
from robustlab.compress.layers import Affine, CompressedLayer
from robustlab.compress.parts import Parts
from robustlab.compress.structure import BatchNorm, replace
from robustlab.core.access import runs_elsewhere
from robustlab.core.digest import tensors_digest
from robustlab.core.errors import ArgumentError, ModelFileError, invalid
from robustlab.core.frozen import frozen
from robustlab.core.keys import sample_keys, uniform
from robustlab.deploy.graph import unoptimized
from robustlab.deploy.layer_file import layer_contents, packed_layer
from robustlab.deploy.packed import PackedLayer
from robustlab.deploy.schema import SCHEMA, Layer, Metadata, parse_metadata
from robustlab.models import ModelInfo, build, info_of, set_info

_FORMAT = "robustlab"
_SELFTEST = "selftest.logits"
_SELFTEST_TOLERANCE = 0.05
_SELFTEST_PIXELS = 1024 * 1024


@dataclass(frozen=True)
class ModelFile:
    """A validated model file: metadata and tensors, no model yet."""

    path: Path
    metadata: Metadata
    tensors: Mapping[str, Tensor]


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a deployed or float model to `path`, atomically, and return the path. An optimized model is written as
    the model it was made of. Logits of two fixed images are written along, for a self-test when it is loaded; models
    that return something else, as detectors do, have none.

    Raises `ArgumentError` for a compressed model that is not deployed yet or a path that cannot be written.
    """
    target, model = Path(path), unoptimized(model)
    foreign = runs_elsewhere(model)
    if foreign or any(isinstance(module, (CompressedLayer, FrozenLayer)) for module in model.modules()):
        raise invalid("model", type(model).__name__, "a deployed model, from robustlab.deploy(...), or a float model")
    if not target.parent.is_dir():
        raise invalid("path", str(target), "a file in an existing folder")
    metadata, tensors = _contents(model)
    text = metadata.canonical()
    header = {"format": _FORMAT, "schema": str(SCHEMA), "robustlab": text, "sha256": tensors_digest(tensors, text)}
    partial = target.with_name(target.name + ".partial")
    try:
        partial.write_bytes(serialize(tensors, header))
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise invalid("path", str(target), f"a file that can be written ({error})") from error
    return target


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read and check a model file without building the model.

    Checked: it is safetensors, of this format and schema, its JSON is valid, the hash fits. Raises `ModelFileError`.
    """
    source = Path(path)
    if not source.is_file():
        raise invalid("model file", str(source), "an existing file")
    try:
        with safe_open(source, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                kind = header.get("format")
                raise ModelFileError(f"model file {source} is of format {kind!r}; allowed: {_FORMAT}")
            if header.get("schema") != str(SCHEMA):
                raise ModelFileError(f"model file {source} has schema {header.get('schema')!r}; allowed: {SCHEMA}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"model file {source} is not a readable safetensors file: {error}") from error
    text = header.get("robustlab", "")
    if header.get("sha256") != tensors_digest(tensors, text):
        raise ModelFileError(f"model file {source} was altered: its sha256 does not fit its contents")
    return ModelFile(source, parse_metadata(source, text), tensors)


def build_from_file(file: ModelFile, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """The deployed model of a file, in eval mode, after its self-test.

    `factory` builds the float architecture where the file names one of the user's own (``custom:``).
    Raises `ModelFileError` where file and architecture disagree or the self-test fails.
    """
    metadata, path = file.metadata, file.path
    try:
        if factory is not None:
            model = _filled(file, copy.deepcopy(factory()).eval())
        else:
            # Without memory first: a file that asks for a huge architecture it does not fill is refused for nothing.
            with torch.device("meta"):
                model = _architecture(file)
            model = _filled(file, model)
            if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
                model = _filled(file, _architecture(file))
    except ArgumentError as error:
        raise ModelFileError(f"model file {path}: {error}") from error
    for parameter in model.parameters():
        parameter.requires_grad_(not metadata.layers)
    info = ModelInfo(
        name=metadata.name,
        architecture=metadata.architecture,
        arguments=metadata.arguments,
        class_names=None if metadata.class_names is None else tuple(metadata.class_names),
        input_size=None if metadata.input_size is None else (metadata.input_size[0], metadata.input_size[1]),
        provenance=metadata.provenance,
        left_float=tuple(metadata.left_float),
    )
    set_info(model, info)
    _selftest(file, model)
    return model


def _filled(file: ModelFile, model: nn.Module) -> nn.Module:
    """Put the packed layers, stored norms and float tensors of a file into its architecture, checking each."""
    metadata, path = file.metadata, file.path
    remaining = {k: v for k, v in file.tensors.items() if k != _SELFTEST}
    for name, layer in metadata.layers.items():
        where = f"model file {path}: layer {name}"
        replace(model, name, packed_layer(where, model, name, layer, remaining))
    for name in metadata.identity:
        _replace_norm(path, model, name, nn.Identity())
    for name in metadata.affine:
        scale, shift = remaining.pop(f"{name}.scale", None), remaining.pop(f"{name}.shift", None)
        if scale is None or shift is None or scale.ndim != 1 or scale.shape != shift.shape:
            raise ModelFileError(f"model file {path}: affine {name} lacks its scale and shift of equal length")
        _replace_norm(path, model, name, Affine(scale, shift).eval())
    _load_remainder(path, model, remaining)
    return model


def _contents(model: nn.Module) -> tuple[Metadata, dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    layers: dict[str, Layer] = {}
    inside: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, (PackedLayer, Composed, Parts)) and not name.startswith(tuple(inside)):
            layers[name], own = layer_contents(module)
            tensors |= {f"{name}.{key}": value for key, value in own.items()}
            inside.append(name + ".")
    tensors |= {name: value for name, value in model.state_dict().items() if not name.startswith(tuple(inside))}
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise invalid(f"tensor {name} of the model", "NaN or infinity", "finite numbers")
    info = info_of(model)
    if info is None:
        info = ModelInfo(type(model).__name__, f"custom:{type(model).__qualname__}")
    selftest = None
    if info.input_size is not None and info.input_size[0] * info.input_size[1] <= _SELFTEST_PIXELS:
        logits = _selftest_logits(model, info.input_size)
        if logits is not None:
            tensors[_SELFTEST] = logits
            selftest = tensors_digest({"": logits})
    metadata = Metadata(
        name=info.name,
        architecture=info.architecture,
        arguments=dict(info.arguments),
        class_names=None if info.class_names is None else list(info.class_names),
        input_size=None if info.input_size is None else list(info.input_size),
        provenance=dict(info.provenance),
        left_float=list(info.left_float),
        layers=layers,
        affine=[name for name, module in model.named_modules() if isinstance(module, Affine)],
        identity=[name for name, module in model.named_modules() if type(module) is nn.Identity],
        selftest=selftest,
    )
    return metadata, {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}


def _architecture(file: ModelFile) -> nn.Module:
    name = file.metadata.architecture
    if name.startswith("custom:"):
        raise ModelFileError(
            f"model file {file.path} holds the user's own architecture {name}; allowed: load(path, factory=...)"
        )
    return build(name, file.metadata.arguments)


def _replace_norm(path: Path, model: nn.Module, name: str, module: nn.Module) -> None:
    try:
        original = model.get_submodule(name)
    except AttributeError as error:
        raise ModelFileError(f"model file {path}: module {name} is not in the architecture") from error
    if not isinstance(original, (BatchNorm, nn.Identity)):
        raise ModelFileError(
            f"model file {path}: {name} would replace a {type(original).__name__}; allowed: a batch norm"
        )
    if isinstance(module, Affine) and isinstance(original, BatchNorm) and len(module.scale) != original.num_features:
        raise ModelFileError(
            f"model file {path}: affine {name} has {len(module.scale)} channels; allowed: {original.num_features}"
        )
    replace(model, name, module)


def _load_remainder(path: Path, model: nn.Module, remaining: Mapping[str, Tensor]) -> None:
    inside = tuple(
        name + "."
        for name, module in model.named_modules()
        if isinstance(module, (PackedLayer, Composed, Parts, Affine))
    )
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith(inside)}
    missing, extra = sorted(set(wanted) - set(remaining)), sorted(set(remaining) - set(wanted))
    if missing or extra:
        what = f"lacks the tensor {missing[0]}" if missing else f"has the unknown tensor {extra[0]}"
        raise ModelFileError(f"model file {path} {what}; allowed: the tensors of its architecture")
    for name, value in remaining.items():
        if value.shape != wanted[name].shape or value.dtype != wanted[name].dtype:
            found, right = (f"{t.dtype} of shape {tuple(t.shape)}" for t in (value, wanted[name]))
            raise ModelFileError(f"model file {path}: tensor {name} is {found}; allowed: {right}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelFileError(f"model file {path}: tensor {name} holds NaN or infinity; allowed: finite numbers")
    model.load_state_dict({name: value.clone() for name, value in remaining.items()}, strict=False, assign=True)


def _selftest_logits(model: nn.Module, size: tuple[int, int]) -> Tensor | None:
    """Logits (N, K) of fixed images; None for a model that returns something else, as detectors do.

    What they return after suppression and sorting may change with a last bit, so it could not be judged by size.
    """
    images = uniform(sample_keys(0, "selftest", range(2)), (3, *size))
    with frozen(model), torch.no_grad():
        logits = model(images)
    return logits if isinstance(logits, Tensor) and logits.ndim == 2 else None


def _selftest(file: ModelFile, model: nn.Module) -> None:
    """Same input, same output. Last bits of float layers depend on the machine, so a digest miss is judged by size."""
    size = file.metadata.input_size
    if (file.metadata.selftest is None) != (_SELFTEST not in file.tensors):
        raise ModelFileError(f"model file {file.path} has half a self-test; allowed: digest and output, or neither")
    if file.metadata.selftest is None:
        return
    if size is None or size[0] * size[1] > _SELFTEST_PIXELS:
        raise ModelFileError(f"model file {file.path}: self-test of size {size}; allowed: {_SELFTEST_PIXELS} pixels")
    stored = file.tensors.get(_SELFTEST)
    if stored is None or tensors_digest({"": stored}) != file.metadata.selftest:
        raise ModelFileError(f"model file {file.path}: its self-test output is missing or does not fit its digest")
    try:
        logits = _selftest_logits(model, (size[0], size[1]))
    except (ArgumentError, RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise ModelFileError(f"model file {file.path} fails its self-test: {error}") from error
    if logits is None:
        raise ModelFileError(f"model file {file.path} fails its self-test: its model returns no logits (N, K)")
    if tensors_digest({"": logits}) == file.metadata.selftest:
        return
    span = max(float(stored.abs().max()), 1e-6)
    if logits.shape != stored.shape or not float((logits - stored).abs().max()) <= _SELFTEST_TOLERANCE * span:
        raise ModelFileError(f"model file {file.path} fails its self-test: logits differ from those stored in it")
