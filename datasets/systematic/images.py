"""A data set as another pipeline would show it: to calibrate with, or to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from robustlab.core.errors import invalid
from robustlab.datasets.base import Dataset
from robustlab.datasets.files import file_source, lossless
from robustlab.datasets.systematic.decoders import DECODERS
from robustlab.datasets.systematic.pipeline import Pipeline, describe_versions, develop


def inapplicable(pipeline: Pipeline, data: Dataset) -> str | None:
    """Why `pipeline` cannot run, or means nothing, on `data`: a missing library, no files, no JPEG files. Else None."""
    absent = pipeline.missing()
    if absent is not None:
        return absent
    source = file_source(data)
    if source is None:
        return None if pipeline.decoder == "pillow" else f"{data.name} has no files, so decoders do not apply"
    if DECODERS[pipeline.decoder].jpeg_only and not source.jpeg:
        return f"decoder {pipeline.decoder} takes JPEG files only, and {data.name} has others"
    return None


class PipelineImages:
    """`data` with its files decoded and resized by `pipeline`; arrays without files are resized losslessly.

    A deployment mismatch is a pair of these: one to train or calibrate with, one to deploy with. Raises `ArgumentError`
    where the pipeline cannot run on the data.
    """

    def __init__(self, data: Dataset, pipeline: Pipeline) -> None:
        reason = inapplicable(pipeline, data)
        if reason is not None:
            raise invalid("pipeline", pipeline.key, f"what runs here: {reason}")
        self._data, self._pipeline = data, pipeline
        self.name = f"{data.name}/{pipeline.key}"
        self.class_names = data.class_names
        self.image_size = data.image_size
        text = "\n".join([data.fingerprint, pipeline.key, describe_versions(pipeline.versions())])
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 3, H, W) in [0, 1] and labels int64 (N,)."""
        images, labels = self._data.batch(indices)
        rows = [int(i) for i in indices]
        return pipeline_images(self._data, self._pipeline, rows, images), labels


def pipeline_images(data: Dataset, pipeline: Pipeline, indices: Sequence[int], images: Tensor) -> Tensor:
    """float32 (N, 3, H, W): files `indices` through `pipeline`, or, where there are none, `images` (N, 3, H, W)."""
    source = file_source(data)
    contents = lossless(images) if source is None else source.files(indices)
    size = (int(data.image_size[0]), int(data.image_size[1]))
    found = develop(contents, pipeline, size, lambda row: f"image {indices[row]} of {data.name}")
    return found.to(torch.float32)
