"""An ONNX file, read with every check before anything is built from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from robustlab.core.errors import ModelFileError

MOST_BYTES = (1 << 31) - 1
"""Of a file and of what it refers to: protobuf takes no more in one message."""
MOST_PIXELS = 1 << 24
"""Values of one image that an input asks for."""
MOST_IMAGES = 1 << 12
"""Of a fixed batch: a single image is asked with as many others."""

_SCALES = {
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "QLinearAdd": (1, 4, 6),
    "QLinearMul": (1, 4, 6),
    "QGemm": (1, 4, 7),
}


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A checked file: the model, its bytes as ONNX Runtime is to get them, sha256 (hex) and size in bytes of all of it.

    batch: the fixed number of images per call, None where it is free; layout: ``nchw`` or ``nhwc``; size: (H, W) or
    None where it is free.
    """

    path: Path
    model: Any
    content: bytes
    digest: str
    size_bytes: int
    input: str
    output: str
    batch: int | None
    layout: str
    size: tuple[int, int] | None

    @property
    def opset(self) -> int:
        """Version of the operators of the default domain."""
        return next((int(o.version) for o in self.model.opset_import if o.domain in ("", "ai.onnx")), 1)


def read_onnx(path: Path, layout: str = "auto") -> OnnxFile:
    """Read and check the file `path`; `layout` settles an input whose shape says neither.

    Checked: size, protobuf, external data inside the folder, ONNX's own checker, one float image in, one output, finite
    weights and positive finite scales. Raises `ModelFileError`.
    """
    where = f"model file {path}"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelFileError(f"{where} has {path.stat().st_size} bytes; allowed: {MOST_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{where} cannot be read ({error.strerror})") from None
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{where} is no ONNX file, or is cut off ({_line(error)})") from None
    if not model.graph.node:
        raise ModelFileError(f"{where} is no ONNX file, or has no operator in it")
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not 7 <= opset.version <= newest:
            raise ModelFileError(f"{where} is of opset version {opset.version}; allowed: 7 to {newest}")
    digest = hashlib.sha256(content)
    size_bytes = len(content)
    for file in _external_files(model, path, where):
        data = file.read_bytes()
        digest.update(hashlib.sha256(data).digest())
        size_bytes += len(data)
        if size_bytes > MOST_BYTES:
            raise ModelFileError(f"{where} has {size_bytes} bytes with its external data; allowed: {MOST_BYTES}")
    try:
        if size_bytes > len(content):
            onnx.load_external_data_for_model(model, str(path.resolve().parent))
            content = model.SerializeToString()
        onnx.checker.check_model(content)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # The checker and the loader raise what their C++ parts throw.
        raise ModelFileError(f"{where} fails ONNX's checks: {_line(error)}") from None
    _check_values(model, where)
    given = _one_input(model, where)
    batch, found, size = _image(given, layout, where)
    outputs = [value.name for value in model.graph.output]
    if len(outputs) != 1:
        raise ModelFileError(f"{where} has the outputs {', '.join(outputs) or 'none'}; allowed: one, the logits (N, K)")
    return OnnxFile(path, model, content, digest.hexdigest(), size_bytes, given.name, outputs[0], batch, found, size)


def _line(error: Exception) -> str:
    """The first line of a message, short."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor that is stored in a graph, those of attributes and of graphs in attributes included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)


def _all_tensors(model: Any) -> Iterator[Any]:
    yield from _tensors(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def _external_files(model: Any, path: Path, where: str) -> list[Path]:
    """The files that tensors refer to, each once. One outside the folder of the model is refused, links followed."""
    folder = path.resolve().parent
    files: dict[Path, None] = {}
    for tensor in _all_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        name = tensor.name or "without a name"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        target = (folder / location).resolve() if location and "\0" not in location else folder
        if Path(location).is_absolute() or folder not in target.parents:
            raise ModelFileError(
                f"{where}: tensor {name} is stored in {location!r}; allowed: a file in the folder of the model"
            )
        if not target.is_file():
            raise ModelFileError(f"{where}: tensor {name} is stored in {location!r}, which does not exist")
        for key in ("offset", "length"):
            if not entries.get(key, "0").isdigit():
                raise ModelFileError(f"{where}: tensor {name} has the {key} {entries[key]!r} in {location!r}")
        if int(entries.get("offset", "0")) + int(entries.get("length", "0")) > target.stat().st_size:
            raise ModelFileError(f"{where}: tensor {name} lies outside of {location!r}, which is cut off")
        files[target] = None
    return list(files)


def _check_values(model: Any, where: str) -> None:
    """No NaN in any stored tensor; positive finite scales."""
    scales = {node.input[i] for node in model.graph.node for i in _SCALES.get(node.op_type, ()) if i < len(node.input)}
    for tensor in _all_tensors(model):
        if any(side < 0 for side in tensor.dims):
            raise ModelFileError(f"{where}: tensor {tensor.name} has the shape {list(tensor.dims)}")
        try:
            values = numpy_helper.to_array(tensor)
        except Exception as error:  # Also C++ exceptions.
            raise ModelFileError(f"{where}: tensor {tensor.name} cannot be read ({_line(error)})") from None
        if values.dtype.kind != "f":
            continue
        if np.isnan(values).any():
            raise ModelFileError(f"{where}: tensor {tensor.name} holds NaN; allowed: numbers")
        if tensor.name in scales and not (np.isfinite(values).all() and (values > 0).all()):
            raise ModelFileError(f"{where}: scale {tensor.name} is {_worst(values)}; allowed: positive finite numbers")


def _worst(values: np.ndarray) -> float:
    flat = values.reshape(-1)
    return float(flat[~(np.isfinite(flat) & (flat > 0))][0])


def _one_input(model: Any, where: str) -> Any:
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelFileError(f"{where} has the inputs {names}; allowed: one batch of images")
    return inputs[0]


def _image(value: Any, layout: str, where: str) -> tuple[int | None, str, tuple[int, int] | None]:
    """(batch, layout, size) of the input; raises `ModelFileError` for anything but a float image batch."""
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ModelFileError(f"{where}: input {value.name} is of type {kind}; allowed: FLOAT")
    sides = [int(d.dim_value) if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]
    shown = f"({', '.join('?' if side is None else str(side) for side in sides)})"
    if len(sides) != 4:
        raise ModelFileError(
            f"{where}: input {value.name} has the shape {shown}; allowed: (N, 3, H, W) or (N, H, W, 3)"
        )
    batch, *rest = sides
    if math.prod(side or 1 for side in rest) > MOST_PIXELS:
        raise ModelFileError(
            f"{where}: input {value.name} has the shape {shown}; allowed: {MOST_PIXELS} values in an image"
        )
    if (batch or 1) > MOST_IMAGES:
        raise ModelFileError(f"{where}: input {value.name} has the shape {shown}; allowed: {MOST_IMAGES} images")
    first, last = rest[0] in (3, None), rest[2] in (3, None)
    if layout == "auto":
        layout = "nchw" if rest[0] == 3 or (rest[0] is None and rest[2] != 3) else "nhwc"
        if rest[0] == 3 and rest[2] == 3:
            raise ModelFileError(f"{where}: input {value.name} has the shape {shown}; say which layout it has")
    if not (first if layout == "nchw" else last):
        raise ModelFileError(
            f"{where}: input {value.name} has the shape {shown}; allowed: three channels, (N, 3, H, W) or (N, H, W, 3)"
        )
    height, width = (rest[1], rest[2]) if layout == "nchw" else (rest[0], rest[1])
    return batch, layout, None if height is None or width is None else (height, width)
