"""`convert`: a quantized ONNX model on our packed kernels, where its layers map to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustlab.compress.freeze import FrozenLayer, LayerScheme
from robustlab.compress.structure import replace
from robustlab.core import Tiled, frozen
from robustlab.core.errors import ArgumentError, RobustlabError, invalid
from robustlab.deploy.foreign.onnx_model import OnnxModel
from robustlab.deploy.foreign.onnx_state import Grid, QuantizedLayer, Translation
from robustlab.deploy.foreign.preprocessing import Preprocessing
from robustlab.deploy.packed import PackedLayer
from robustlab.kernels import ActivationSpec, ConvGeometry
from robustlab.kernels.spec import weight_limits
from robustlab.models import ModelInfo, info_of, set_info
from robustlab.models.graph import GraphNetwork, GraphSpec, LayerSpec, Step
from robustlab.models.graph.spec import LAYER


@dataclass(frozen=True)
class Parity:
    """A converted model beside ONNX Runtime: images, how many get another class, and absolute differences of logits."""

    images: int
    different: int
    largest: float
    mean: float
    span: float


def convert(model: nn.Module) -> nn.Module:
    """An ONNX model as a deployed model of ours: quantized layers packed, the rest in float, preprocessing inside.

    A layer is packed where its weights have one scale per output (or one for all) and codes that are symmetric around
    their zero point, and its input has one scale, both of at most 8 bits. Others stay float and are listed in the info
    as ``left_float``. ONNX Runtime fuses and rounds in its own ways, so codes may differ by a step: see `parity`.
    Raises `ArgumentError` for another model, `RobustlabError` where operators have no translation or nothing maps.
    """
    if not isinstance(model, OnnxModel):
        raise invalid("model", type(model).__name__, "an ONNX model, from robustlab.load('model.onnx')")
    if model.translation is None:
        raise RobustlabError(f"model {model.source} cannot be converted: {'; '.join(model.unsupported)} not translated")
    translation = model.translation
    frozen_layers: dict[str, FrozenLayer] = {}
    left: list[str] = []
    for name, layer in translation.quantized.items():
        mapped = _frozen_layer(translation, name, layer)
        if mapped is None:
            left.append(name)
        else:
            frozen_layers[name] = mapped
    if not frozen_layers:
        raise RobustlabError(f"model {model.source} cannot be converted: no layer is quantized as kernels take it")
    spec, tensors = _with_preprocessing(_without_grids(translation.spec, set(frozen_layers)), model.preprocessing)
    with torch.device("meta"):
        network = GraphNetwork(spec)
    network.fill({**translation.tensors, **tensors})
    for name, frozen_layer in frozen_layers.items():
        replace(network, f"layers.{name}", PackedLayer.from_frozen(frozen_layer).eval())
    info = info_of(model)
    source = Path(model.source)
    return set_info(
        network.eval(),
        ModelInfo(
            name=info.name if info else source.stem,
            architecture="graph:onnx",
            arguments=spec.model_dump(mode="json"),
            class_names=info.class_names if info else None,
            input_size=info.input_size if info else None,
            provenance={"onnx": source.name, "sha256": model.digest, "preprocessing": model.preprocessing.text},
            left_float=tuple(f"layers.{name}" for name in left),
        ),
    )


def parity(model: nn.Module, converted: nn.Module, images: Tensor, tile: int = 64) -> Parity:
    """Compare a converted model with ONNX Runtime on images (N, 3, H, W)."""
    with frozen(model), frozen(converted), torch.no_grad():
        artefact, ours = Tiled(model, tile)(images), Tiled(converted, tile)(images)
    difference = (artefact - ours).abs()
    return Parity(
        images=len(images),
        different=int((artefact.argmax(1) != ours.argmax(1)).sum()),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        span=float(artefact.abs().max()),
    )


def _frozen_layer(translation: Translation, name: str, layer: QuantizedLayer) -> FrozenLayer | None:
    """The integer form of a layer, None where kernels have none."""
    weight, activation = layer.weight, layer.activation
    if weight is None or activation is None or weight.bits > 8 or activation.bits > 8:
        return None
    spec = translation.spec.layers[name]
    centred = _centred(weight.codes, weight.zero_point)
    low, high = weight_limits(weight.bits)
    if int(centred.min()) < low or int(centred.max()) > high:
        return None
    try:
        grid = _activation(activation)
        scheme = LayerScheme(weight.bits, grid, _geometry(spec))
        scheme.check_accumulator(math.prod(spec.shape[1:]))
        scale = torch.tensor(grid.scale, dtype=torch.float32) * weight.scale.float().expand(spec.shape[0])
        bias = translation.tensors.get(f"layers.{name}.bias")
        return FrozenLayer(centred.to(torch.int8), scale.contiguous(), bias, scheme).eval()
    except ArgumentError:
        return None


def _centred(codes: Tensor, zero_point: Tensor) -> Tensor:
    """Codes less their zero points, which go along the first axis."""
    if zero_point.numel() == 1:
        return codes - zero_point.reshape(())
    return codes - zero_point.reshape(-1, *([1] * (codes.ndim - 1)))


def _activation(grid: Grid) -> ActivationSpec:
    """The same levels with codes from 0."""
    return ActivationSpec(grid.scale, grid.zero_point - grid.low, grid.bits)


def _geometry(spec: LayerSpec) -> ConvGeometry | None:
    if spec.kind == "linear":
        return None
    return ConvGeometry(
        (spec.stride[0], spec.stride[1]),
        (spec.padding[0], spec.padding[1]),
        (spec.dilation[0], spec.dilation[1]),
        spec.groups,
    )


def _without_grids(spec: GraphSpec, packed: set[str]) -> GraphSpec:
    """Packed layers read the value in front of a grid, as they quantize it themselves; grids nobody reads are gone."""
    before = {step.outputs[0]: step.inputs[0] for step in spec.steps if step.op == "Grid" and len(step.inputs) == 1}
    steps = []
    for step in spec.steps:
        if step.op == LAYER and step.attributes["layer"] in packed and step.inputs[0] in before:
            step = step.model_copy(update={"inputs": [before[step.inputs[0]]]})
        steps.append(step)
    read = {name for step in steps for name in step.inputs} | {spec.output}
    kept = [step for step in steps if step.op != "Grid" or step.outputs[0] in read]
    return spec.model_copy(update={"steps": kept})


def _with_preprocessing(spec: GraphSpec, preprocessing: Preprocessing) -> tuple[GraphSpec, dict[str, Tensor]]:
    """The graph from images in [0, 1], and the constants that this takes."""
    steps: list[Step] = []
    tensors: dict[str, Tensor] = {}

    def add(op: str, constant: Tensor | None = None, **attributes: object) -> None:
        source = steps[-1].outputs[0] if steps else "pixels"
        inputs, number = [source], len(steps)
        if constant is not None:
            tensors[f"constants.p{number}"] = constant
            inputs.append(f"p{number}")
        steps.append(
            Step(
                op=op, name=f"preprocessing {op}", inputs=inputs, outputs=[f"pre{number}"], attributes=dict(attributes)
            )
        )

    if preprocessing.channels == "bgr":
        add("Gather", torch.tensor([2, 1, 0]), axis=1)
    if preprocessing.pixel_range != 1:
        add("Mul", torch.tensor(preprocessing.pixel_range))
    if any(preprocessing.mean):
        add("Sub", torch.tensor(preprocessing.mean).reshape(1, 3, 1, 1))
    if preprocessing.std != (1.0, 1.0, 1.0):
        add("Div", torch.tensor(preprocessing.std).reshape(1, 3, 1, 1))
    if preprocessing.layout == "nhwc":
        add("Transpose", perm=[0, 2, 3, 1])
    if not steps:
        return spec, {}
    steps[-1] = steps[-1].model_copy(update={"outputs": [spec.input]})
    constants = {
        name.removeprefix("constants."): (str(t.dtype).removeprefix("torch."), list(t.shape))
        for name, t in tensors.items()
    }
    update = {"input": "pixels", "steps": [*steps, *spec.steps], "constants": {**spec.constants, **constants}}
    return spec.model_copy(update=update), tensors
