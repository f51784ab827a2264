"""A TFLite file as a model that gives scores: LiteRT runs it, whole numbers at its ends are scaled as the file says."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustlab.core.errors import ModelFileError, RobustlabError
from robustlab.core.keys import sample_keys, uniform
from robustlab.core.tiles import map_tiles
from robustlab.deploy.foreign.base import ForeignModel
from robustlab.deploy.foreign.preprocessing import Preprocessing, read_side_car
from robustlab.models import ModelInfo, set_info

_LARGEST = 1 << 31
_MAGIC = b"TFL3"
_WHOLE = (np.int8, np.uint8, np.int16)
_FLOAT_BITS = 32
_BITS = {"INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8, "INT16": 16, "FLOAT16": 16}
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


@dataclass(frozen=True)
class End:
    """An input or output tensor. scale 0: floats; else number = scale * (code - zero_point)."""

    index: int
    shape: tuple[int, ...]
    dtype: type
    scale: float
    zero_point: int

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Numbers as the tensor holds them: the nearest code, within the range of its type."""
        if not self.scale:
            return x.astype(np.float32, copy=False)
        limits = np.iinfo(self.dtype)
        codes = np.round(x / np.float32(self.scale)) + self.zero_point
        return np.clip(np.nan_to_num(codes), limits.min, limits.max).astype(self.dtype)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """The numbers that it holds."""
        if not self.scale:
            return values.astype(np.float32, copy=True)
        return (values.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


class Interpreter:
    """LiteRT's interpreter of some bytes, on as many threads as torch has. Copies of a model share it."""

    def __init__(self, where: str, content: bytes) -> None:
        self._where, self._content = where, content
        self._threads, self._batch = 0, 0
        self._session: Any = None
        self._whole: bool | None = None  # whether it takes other batches than its own
        session = self._open()
        self.input = self._end("input", session.get_input_details())
        self.output = self._end("output", session.get_output_details())
        if len(self.input.shape) != 4 or min(self.input.shape) < 1:
            raise ModelFileError(
                f"{where}: its input is {self.input.shape}; allowed: images (N, H, W, 3) or (N, 3, H, W)"
            )

    def __deepcopy__(self, memo: object) -> Interpreter:
        return self

    def _open(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter as LiteRT

        threads = torch.get_num_threads()
        if self._session is None or self._threads != threads:
            try:
                self._session = LiteRT(model_content=self._content, num_threads=threads)
                self._session.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise ModelFileError(f"{self._where}: LiteRT does not take it: {_line(error)}") from None
            self._threads, self._batch = threads, 0
        return self._session

    def _end(self, name: str, details: list[dict[str, Any]]) -> End:
        if len(details) != 1:
            raise ModelFileError(f"{self._where} has {len(details)} {name}s; allowed: one")
        (given,) = details
        dtype, (scale, zero_point) = given["dtype"], given["quantization"]
        if dtype not in (np.float32, *_WHOLE):
            raise ModelFileError(
                f"{self._where}: its {name} is {np.dtype(dtype)}; allowed: float32, int8, uint8, int16"
            )
        if dtype == np.float32:
            scale, zero_point = 0.0, 0
        elif not (np.isfinite(scale) and scale > 0):
            raise ModelFileError(f"{self._where}: the scale of its {name} is {scale}; allowed: a finite number > 0")
        return End(given["index"], tuple(int(v) for v in given["shape"]), dtype, float(scale), int(zero_point))

    @property
    def softmax(self) -> bool:
        """Whether the last operation is a softmax, as far as LiteRT says."""
        names = [row.get("op_name") for row in getattr(self._session, "_get_ops_details", list)()]
        made = [name for name in names if name not in (None, "DELEGATE", "QUANTIZE", "DEQUANTIZE")]
        return bool(made) and made[-1] == "SOFTMAX"

    def run(self, x: Tensor) -> Tensor:
        """Outputs, float32, of preprocessed images in the layout of the file, N >= 1."""
        values = self.input.encode(np.ascontiguousarray(x.detach().cpu().numpy()))
        if self._whole is None:
            self._whole = self._takes_batches(values)
        if self._whole:
            return torch.from_numpy(self._invoke(values))
        own = self.input.shape[0]
        return map_tiles(lambda part: torch.from_numpy(self._invoke(part.numpy())), torch.from_numpy(values), size=own)

    def _takes_batches(self, values: np.ndarray) -> bool:
        """Whether a batch of two gives what its images give in batches of the file's own size."""
        own = self.input.shape[0]
        two = np.concatenate([values, values])[:2]
        first = [self._invoke(np.repeat(row[None], own, axis=0))[:1] for row in two]
        try:
            both = self._invoke(two)
        except RobustlabError:
            self._session = None
            return False
        return both.shape == (2, *first[0].shape[1:]) and bool(np.allclose(both, np.concatenate(first), atol=1e-4))

    def _invoke(self, values: np.ndarray) -> np.ndarray:
        session = self._open()
        try:
            if self._batch != len(values):
                session.resize_tensor_input(self.input.index, list(values.shape))
                session.allocate_tensors()
                self._batch = len(values)
            session.set_tensor(self.input.index, values)
            session.invoke()
            return self.output.decode(session.get_tensor(self.output.index))
        except (ValueError, RuntimeError) as error:
            self._batch = 0
            raise RobustlabError(f"{self._where}: LiteRT failed on {values.shape}: {_line(error)}") from None


class TfliteModel(ForeignModel):
    """A file run by LiteRT. Shape: images (N, 3, H, W) in [0, 1] -> scores (N, K), logarithms of probabilities."""

    def __init__(self, path: Path, content: bytes, preprocessing: Preprocessing) -> None:
        super().__init__()
        where = f"model file {path}"
        self.source = str(path)
        self.file_bytes = len(content)
        self.digest = hashlib.sha256(content).hexdigest()
        self.scheme = scheme_of(content)
        self._interpreter = Interpreter(where, content)
        shape = self._interpreter.input.shape
        layout = preprocessing.layout
        if layout == "auto":
            layout = "nchw" if shape[1] == 3 and shape[3] != 3 else "nhwc"
        channels, height, width = (shape[3], shape[1], shape[2]) if layout == "nhwc" else shape[1:]
        if channels != 3:
            raise ModelFileError(f"{where}: its input has {channels} channels; allowed: 3")
        self.size = (height, width)
        self.preprocessing = preprocessing.with_layout(layout)
        output = self._interpreter.output
        self._least = output.scale / 2 if self._interpreter.softmax else 0.0
        self._probabilities = self._interpreter.softmax
        images = uniform(sample_keys(0, "tflite probe", range(2)), (3, *self.size))
        scores = self(images)
        if scores.ndim != 2 or len(scores) != 2 or scores.shape[1] < 2:
            raise ModelFileError(f"{where}: its output for 2 images is {tuple(scores.shape)}; allowed: (N, K), K >= 2")
        self.classes = scores.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Scores of LiteRT, without a gradient."""
        scores = self._interpreter.run(self.preprocessing(images.detach()))
        if self._probabilities:
            scores = scores.clamp_min(self._least or 1e-38).log()
        return scores.to(images.device)

    def extra_repr(self) -> str:
        """Part of a model's fingerprint: the bytes of the file and the preprocessing."""
        return f"sha256={self.digest}, {self.preprocessing}"


def scheme_of(content: bytes) -> str:
    """The bits most weights have, such as ``w8a8``; ``unknown`` for a file that cannot be looked into."""
    try:
        from ai_edge_litert import schema_py_generated as schema

        model = schema.Model.GetRootAsModel(content, 0)
        types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
        codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        graph = model.Subgraphs(0)
        counts: Counter[tuple[int, int]] = Counter()
        for index in range(graph.OperatorsLength()):
            operator = graph.Operators(index)
            if codes.get(model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()) in _LAYERS:
                x, weight = (graph.Tensors(int(operator.Inputs(place))) for place in (0, 1))
                bits = tuple(_BITS.get(str(types.get(tensor.Type())), _FLOAT_BITS) for tensor in (weight, x))
                counts[bits] += int(np.prod([weight.Shape(axis) for axis in range(weight.ShapeLength())]))  # type: ignore[index]
    except Exception:  # The reader trusts its offsets: a damaged file makes it raise anything.
        return "unknown"
    if not counts:
        return "unknown"
    weight_bits, activation_bits = counts.most_common(1)[0][0]
    return "float32" if weight_bits == activation_bits == _FLOAT_BITS else f"w{weight_bits}a{activation_bits}"


def load_tflite(path: Path, preprocessing: Preprocessing | None = None) -> nn.Module:
    """The model of a TFLite file; preprocessing as given, else as its side-car says, else none.

    Raises `ModelFileError`.
    """
    side_car = read_side_car(path)
    where = f"model file {path}"
    if path.stat().st_size > _LARGEST:
        raise ModelFileError(f"{where} has {path.stat().st_size} bytes; allowed: {_LARGEST}")
    content = path.read_bytes()
    if content[4:8] != _MAGIC:
        raise ModelFileError(f"{where} is no TFLite file (its bytes 4 to 8 are {content[4:8]!r}); allowed: {_MAGIC!r}")
    chosen = preprocessing or side_car.preprocessing or Preprocessing()
    model = TfliteModel(path, content, chosen).eval()
    assert isinstance(model, TfliteModel)
    names = side_car.class_names
    if names is not None and len(names) != model.classes:
        raise ModelFileError(f"{where}: its side-car names {len(names)} classes; allowed: {model.classes}")
    info = ModelInfo(
        name=path.stem,
        architecture="tflite:litert",
        class_names=names,
        input_size=model.size,
        provenance={"file": path.name, "sha256": model.digest, "preprocessing": chosen.text},
    )
    return set_info(model, info)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
