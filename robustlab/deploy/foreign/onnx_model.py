"""An ONNX file as a model: the forward pass is ONNX Runtime's, the gradient that of a graph rebuilt from the file."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.core.errors import ModelFileError, RobustlabError, check_choice, invalid
from robustlab.core.keys import sample_keys, uniform
from robustlab.core.tiles import map_tiles
from robustlab.deploy.foreign.base import ForeignModel, with_gradient_of
from robustlab.deploy.foreign.onnx_file import OnnxFile, read_onnx
from robustlab.deploy.foreign.onnx_runtime import Runtime
from robustlab.deploy.foreign.onnx_state import QuantizedLayer, Translation, UnsupportedOperators
from robustlab.deploy.foreign.onnx_tidy import with_fewer_roundings
from robustlab.deploy.foreign.onnx_translate import translate
from robustlab.deploy.foreign.onnx_unsigned import with_unsigned_activations
from robustlab.deploy.foreign.preprocessing import LAYOUTS, Preprocessing, read_side_car
from robustlab.models import ModelInfo, set_info
from robustlab.models.graph import GraphNetwork

_log = logging.getLogger(__name__)

_SCALED_BY_BATCH = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul"})
_PROBE_SIZE = (224, 224)
_LEAST_PROBABILITY = 1e-38  # the smallest that has a logarithm in float32 without going to subnormal numbers
_X86 = ("x86_64", "AMD64")
_SAME = 0.1  # a last bit that differs can move a code by a step; images mixed up differ by far more


class OnnxModel(ForeignModel):
    """A file run by ONNX Runtime. Shape: images (N, 3, H, W) in [0, 1] -> logits (N, K).

    Where every operator has a translation, `surrogate` is the network of the file with its weights de-quantized and its
    quantizers straight-through, and gives the gradient; logits are always ONNX Runtime's. A model that ends in a
    softmax gives the logarithms of its probabilities.
    """

    surrogate: GraphNetwork | None

    def __init__(self, file: OnnxFile, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.source = str(file.path)
        self.file_bytes = file.size_bytes
        self.digest = file.digest
        self.preprocessing = preprocessing.with_layout(file.layout)
        self.unsupported: tuple[str, ...] = ()
        self.quantized: Mapping[str, QuantizedLayer] = {}
        self.translation: Translation | None = None
        self.surrogate = None
        # The scale of a dynamic quantizer is that of all it is given: alone, an image does not depend on the others.
        alone = any(node.op_type in _SCALED_BY_BATCH for node in file.model.graph.node)
        self._batch = 1 if alone and file.batch is None else file.batch
        self._surrogate_batch = 1 if alone and file.batch is None else None
        self._file = file
        self._probabilities = False
        self._runtime = Runtime(f"model file {file.path}", file.content, file.input, file.output)
        self._step_runtime = self._runtime
        self._translate()
        self._probe()
        if self.surrogate is not None:
            self._step_runtime = self._faster() or self._runtime

    @property
    def file(self) -> OnnxFile:
        """What was read."""
        return self._file

    def _translate(self) -> None:
        try:
            self.translation = translate(self._file, free_batch=True)
        except UnsupportedOperators as error:
            self.unsupported = tuple(error.names)
            self._probabilities = self._file.model.graph.node[-1].op_type == "Softmax"
            return
        self._set_surrogate(self.translation)

    def _set_surrogate(self, translation: Translation) -> None:
        self.surrogate = network_of(replace(translation, spec=with_fewer_roundings(translation.spec)))
        self.quantized = translation.quantized
        self._probabilities = translation.probabilities
        self.scheme = scheme_of(translation)
        self.gradient = "surrogate:onnx-ste"
        self.robustlab_access = "gradient"

    def _probe(self) -> None:
        """Two images through runtime and surrogate: the shape of the output, and whether a fixed batch can be freed."""
        where = f"model file {self.source}"
        images = self._probe_images()
        with torch.no_grad():
            scores = self._scores(self.preprocessing(images))
            if scores.ndim != 2 or len(scores) != 2 or scores.shape[1] < 2:
                raise ModelFileError(
                    f"{where}: its output for 2 images is {tuple(scores.shape)}; allowed: (N, K), K >= 2"
                )
            if self.surrogate is None:
                return
            try:
                stand_in = self._ask_surrogate(self.preprocessing(images))
                fits = stand_in.shape == scores.shape
                if fits and self._batch is not None and self._surrogate_batch is None:
                    fits = _close(stand_in, map_tiles(self.surrogate, self.preprocessing(images), size=self._batch))
            except RobustlabError as error:
                fits, reason = False, str(error)
            else:
                reason = f"it gives {tuple(stand_in.shape)} for 2 images"
        if fits:
            return
        if self._batch is not None and self._surrogate_batch is None:
            self._surrogate_batch = self._batch
            self.translation = translate(self._file)
            self._set_surrogate(self.translation)
            self._probe()
            return
        _log.warning("%s: no gradient, as its surrogate does not run: %s", where, reason)
        self.surrogate, self.translation, self.gradient, self.robustlab_access = None, None, "none", "scores"
        self.unsupported = (f"a surrogate that runs ({reason})",)

    def _faster(self) -> Runtime | None:
        """A runtime for steps that need a gradient: of the same integers in uint8, where it says the same to the bit.

        A step asks for the logits only to know what to differentiate; what is counted is asked of the file itself.
        """
        file = self._file
        altered = with_unsigned_activations(file.model) if platform.machine() in _X86 else None
        if altered is None:
            return None
        content, where = altered.SerializeToString(), f"model file {self.source}"
        faster = Runtime(where, content, file.input, file.output, {"session.disable_quant_qdq": "1"})
        x = self.preprocessing(self._probe_images())
        try:
            same = torch.equal(self._scores(x, faster), self._scores(x))
        except RobustlabError:
            return None
        return faster if same else None

    def _probe_images(self) -> Tensor:
        return uniform(sample_keys(0, "onnx probe", range(2)), (3, *(self._file.size or _PROBE_SIZE)))

    def _ask_surrogate(self, x: Tensor) -> Tensor:
        assert self.surrogate is not None
        if self._surrogate_batch is None:
            return self.surrogate(x)  # type: ignore[no-any-return]
        return map_tiles(self.surrogate, x, size=self._surrogate_batch)

    def _scores(self, x: Tensor, runtime: Runtime | None = None) -> Tensor:
        """The runtime's answer to preprocessed images."""
        run = (runtime or self._runtime).run
        scores = run(x) if self._batch is None else map_tiles(run, x, size=self._batch)
        return scores.clamp_min(_LEAST_PROBABILITY).log() if self._probabilities else scores

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of ONNX Runtime; their gradient is the surrogate's."""
        x = self.preprocessing(images)
        if self.surrogate is not None and torch.is_grad_enabled() and images.requires_grad:
            surrogate = self._ask_surrogate(x)
            return with_gradient_of(surrogate, self._scores(x.detach(), self._step_runtime))
        return self._scores(x).to(images.device)

    def stand_in(self, images: Tensor) -> Tensor | None:
        """See `ForeignModel.stand_in`."""
        return None if self.surrogate is None else self._ask_surrogate(self.preprocessing(images))

    def layer_costs(self, images: Tensor) -> list[Any]:
        """Convolutions and linear layers, with the bits of the file."""
        if self.surrogate is None:
            return []
        from robustlab.deploy.inspection import layer_costs

        count = max(1, self._surrogate_batch or 1)
        x = self.preprocessing(images[:1].expand(count, -1, -1, -1))
        rows = []
        for row in layer_costs(self.surrogate, x):
            layer = self.quantized.get(row.name.removeprefix("layers."))
            weight = 32 if layer is None else layer.weight_bits
            activation = 32 if layer is None or layer.activation is None else layer.activation.bits
            size = row.weight_bytes * weight // 32
            name = row.name.removeprefix("layers.")
            rows.append(
                replace(row, name=name, kind="onnx", weight_bits=weight, activation_bits=activation, weight_bytes=size)
            )
        return rows

    def extra_repr(self) -> str:
        """Part of a model's fingerprint: the bytes of the file and the preprocessing."""
        return f"sha256={self.digest}, {self.preprocessing}"


def _close(first: Tensor, second: Tensor) -> bool:
    span = max(float(second.abs().max()), 1e-6)
    return float((first - second).abs().max()) <= _SAME * span


def network_of(translation: Translation) -> GraphNetwork:
    """The network of a translation, filled, in eval mode."""
    with torch.device("meta"):
        network = GraphNetwork(translation.spec)
    network.fill(translation.tensors)
    return network.eval()


def scheme_of(translation: Translation) -> str:
    """``float32``, or the bits most weights have, such as ``w8a8``."""
    counts: Counter[str] = Counter()
    for name, layer in translation.quantized.items():
        size = translation.tensors[f"layers.{name}.weight"].numel()
        if layer.weight_bits == 32:
            counts["float32"] += size
        else:
            counts[f"w{layer.weight_bits}a{32 if layer.activation is None else layer.activation.bits}"] += size
    for step in translation.spec.steps:
        if step.op in ("ConvInteger", "MatMulInteger"):  # weights of 8 bits, and activations quantized image by image
            weight = translation.tensors.get(f"constants.{step.inputs[1]}")
            counts["w8a8"] += 0 if weight is None else weight.numel()
    return counts.most_common(1)[0][0] if counts else "float32"


def load_onnx(path: Path, preprocessing: Preprocessing | None = None) -> nn.Module:
    """The model of an ONNX file; preprocessing as given, else as its side-car says, else none.

    Raises `ModelFileError`. Says in the log which operators leave it without a gradient.
    """
    side_car = read_side_car(path)
    chosen = preprocessing or side_car.preprocessing or Preprocessing()
    check_choice("layout", chosen.layout, LAYOUTS)
    file = read_onnx(path, chosen.layout)
    model = OnnxModel(file, chosen).eval()
    if model.unsupported:
        _log.warning(
            "model %s has no gradient: %s has no translation; attacks that need only its scores still run",
            path.name, "; ".join(model.unsupported),
        )  # fmt: skip
    names = side_car.class_names
    if names is not None:
        height, width = file.size or _PROBE_SIZE
        with torch.no_grad():
            classes = model(torch.zeros(1, 3, height, width)).shape[1]
        if classes != len(names):
            raise invalid("class_names of the side-car", f"{len(names)} names", f"{classes}, as its output has")
    info = ModelInfo(
        name=path.stem,
        architecture=f"onnx:opset{file.opset}",
        class_names=names,
        input_size=file.size,
        provenance={"file": path.name, "sha256": file.digest, "preprocessing": chosen.text},
    )
    return set_info(model, info)
