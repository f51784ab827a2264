"""Deployed twins: every float model given is also evaluated as it would ship, quantized and on packed kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustlab.cli.foreign import check_preprocessing, load_given
from robustlab.cli.options import scheme_bits
from robustlab.compress import compress
from robustlab.core import DataError
from robustlab.core.errors import invalid
from robustlab.core.tiles import DEFAULT_TILE
from robustlab.datasets import Dataset
from robustlab.datasets.systematic import PipelineImages, parse_pipeline
from robustlab.deploy import ForeignModel, Preprocessing, deploy, is_compressed, model_name
from robustlab.evaluate.data import open_data
from robustlab.evaluate.plan import read_batch
from robustlab.evaluate.probe import check_answers
from robustlab.models import BUNDLED

DEFAULT_SCHEME = "w8a8"
CALIBRATION_IMAGES = 512
_BATCH = 128


def calibration_batches(
    data: str,
    models: Sequence[nn.Module],
    image_size: int | None,
    count: int = CALIBRATION_IMAGES,
    pipeline: str | None = None,
) -> list[Tensor]:
    """Up to `count` images of a data set's training split, evenly spread over it; from its files through a pipeline.

    Raises `DataError` without one, and for images of one class alone, whose ranges would not be those of the others.
    """
    training = open_data(data, models, split="train", image_size=image_size)
    if pipeline is not None:
        training = PipelineImages(training, parse_pipeline(pipeline))
    count = min(count, len(training))
    chosen = [index * len(training) // count for index in range(count)]
    batches = [training.batch(chosen[start : start + _BATCH]) for start in range(0, count, _BATCH)]
    check_classes("calibration images", training, torch.cat([labels for _, labels in batches]))
    return [images for images, _ in batches]


def check_classes(what: str, data: Dataset, labels: Tensor) -> None:
    """Raise `DataError` where all labels (N,) of images of `data` are the same."""
    if len(labels.unique()) == 1:
        name = data.class_names[int(labels[0])]
        raise DataError(
            f"the {len(labels)} {what} of {data.name} are all of class {name}; allowed: at least two classes"
        )


def _wanted(schemes: Sequence[str] | None, all_float: bool) -> list[str]:
    if schemes is None:
        return [DEFAULT_SCHEME] if all_float else []
    chosen = list(dict.fromkeys(schemes))
    if "none" in chosen:
        if len(chosen) > 1:
            raise invalid("--compress", ", ".join(chosen), "none alone, or schemes such as w8a8")
        return []
    return chosen


def with_twins(
    specs: Sequence[str],
    schemes: Sequence[str] | None,
    data: str,
    say: Callable[[str], None],
    image_size: int | None = None,
    pipeline: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> tuple[dict[str, nn.Module | str], Dataset]:
    """(models by name, each float one followed by its twins such as ``resnet-w8a8``; the data set that fits them).

    `schemes` None is the default: a w8a8 twin if all models are float and the data has images to calibrate with;
    `say` is told when it has not. `pipeline` is what the images to calibrate with go through. Raises `RobustlabError`
    for bad models, schemes or data.
    """
    for scheme in schemes or ():
        if scheme != "none":
            scheme_bits(scheme)
    specs = list(specs) or [f"robustlab:{name}" for name in BUNDLED]
    check_preprocessing(preprocessing, specs)
    loaded: dict[str, tuple[str, nn.Module]] = {}
    for spec in specs:
        if specs.count(spec) > 1:
            raise invalid("--model", spec, "each model once")
        model = load_given(spec, preprocessing)
        name = model_name(model) if model_name(model) not in loaded else spec
        loaded[name] = (spec, model)
    modules = [model for _, model in loaded.values()]
    tested = open_data(data, modules, image_size=image_size)
    images, _ = read_batch(tested, [0])
    for name, (_, model) in loaded.items():
        check_answers(name, model, images, tested, DEFAULT_TILE)
    floats = [name for name, (_, model) in loaded.items() if not is_compressed(model)]
    wanted = _wanted(schemes, len(floats) == len(loaded))
    if wanted and not floats:
        raise invalid("--compress", ", ".join(wanted), "none, as every --model is compressed already")
    if pipeline is not None and not wanted:
        raise invalid("--calibrate-through", pipeline, "nothing where no model is compressed")
    batches: list[Tensor] = []
    if wanted:
        try:
            batches = calibration_batches(data, modules, image_size, pipeline=pipeline)
        except DataError as error:
            if schemes is not None or pipeline is not None:
                raise
            say(f"no {DEFAULT_SCHEME} twin: {tested.name} has no images to calibrate with ({error})")
            wanted = []
    models: dict[str, nn.Module | str] = {}
    for name, (spec, model) in loaded.items():
        models[name] = model if isinstance(model, ForeignModel) else spec
        for scheme in wanted if name in floats else ():
            weights, activations = scheme_bits(scheme)
            say(f"compressing {name} to {scheme} with {sum(map(len, batches))} training images")
            models[f"{name}-{scheme}"] = deploy(
                compress(model, weights=weights, activations=activations, calibration=batches)
            )
    return models, tested
