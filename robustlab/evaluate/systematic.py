"""Conditions between the file and the model: pipelines of decoding and resizing, and platforms that share pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from robustlab.core.errors import check_choice, check_int
from robustlab.datasets import Dataset
from robustlab.datasets.files import lossless
from robustlab.datasets.systematic.images import inapplicable, pipeline_images
from robustlab.datasets.systematic.pipeline import (
    Pipeline,
    describe_versions,
    develop,
    is_pipeline_key,
    parse_pipeline,
)
from robustlab.datasets.systematic.platforms import PLATFORMS, SEVERITIES, SMALLEST, share
from robustlab.evaluate.shown import Shown, inside_box, nobody

PLATFORM_KEY = re.compile(r"platform-([a-z0-9]+)-([0-9]+)")


@dataclass(frozen=True)
class PipelineCondition:
    """The files of the samples through a pipeline of `robustlab.datasets.systematic`."""

    pipeline: Pipeline

    version = 1
    depends_on_model = False
    adversarial = False
    needs_gradient = False

    @property
    def key(self) -> str:
        """The pipeline's key, such as ``ffmpeg-rgb-pillow.bilinear-square``."""
        return self.pipeline.key

    @property
    def parameters(self) -> str:
        """The pipeline, and the versions of its libraries: another version is another result."""
        return f"{self.pipeline.key} {describe_versions(self.pipeline.versions())}"

    def unavailable(self, data: Dataset) -> str | None:
        """See `robustlab.evaluate.sampling.Restricted`."""
        return inapplicable(self.pipeline, data)

    def libraries(self) -> dict[str, str]:
        """See `robustlab.evaluate.sampling.Restricted`."""
        return self.pipeline.versions()

    def show_samples(self, data: Dataset, ids: Sequence[int], images: Tensor) -> Shown:
        """See `robustlab.evaluate.sampling.SampleCondition`."""
        return Shown(pipeline_images(data, self.pipeline, ids, images).to(images.device), nobody(images))

    def show(self, images: Tensor, labels: Tensor, keys: Tensor, model: nn.Module | None) -> Shown:
        """Of images whose files are not at hand: they are resized as if they had been stored without loss."""
        height, width = images.shape[2:]
        return Shown(develop(lossless(images), self.pipeline, (height, width)).to(images.device), nobody(images))

    def contains(self, shown: Tensor, images: Tensor) -> Tensor:
        """See `Condition.contains`."""
        return inside_box(shown)


@dataclass(frozen=True)
class PlatformCondition:
    """The images as they come back from a platform of `robustlab.datasets.systematic`, at severity 1 to 5."""

    name: str
    severity: int

    depends_on_model = False
    adversarial = False
    needs_gradient = False

    def __post_init__(self) -> None:
        check_choice("platform", self.name, PLATFORMS)
        check_int("severity", self.severity, SEVERITIES[0], SEVERITIES[-1])

    @property
    def key(self) -> str:
        """Such as ``platform-webp-3``."""
        return f"platform-{self.name}-{self.severity}"

    @property
    def version(self) -> int:
        """The platform's version."""
        return PLATFORMS[self.name].version

    @property
    def parameters(self) -> str:
        """Name, severity and the versions of the codecs."""
        return f"{self.name}/{self.severity} {describe_versions(self.libraries())}"

    def unavailable(self, data: Dataset) -> str | None:
        """See `robustlab.evaluate.sampling.Restricted`."""
        if min(data.image_size) < SMALLEST:
            return f"images of {data.name} are smaller than {SMALLEST} pixels"
        return PLATFORMS[self.name].missing()

    def libraries(self) -> dict[str, str]:
        """See `robustlab.evaluate.sampling.Restricted`."""
        return PLATFORMS[self.name].versions()

    def show(self, images: Tensor, labels: Tensor, keys: Tensor, model: nn.Module | None) -> Shown:
        """See `Condition.show`."""
        return Shown(share(images, self.name, self.severity), nobody(images))

    def contains(self, shown: Tensor, images: Tensor) -> Tensor:
        """See `Condition.contains`."""
        return inside_box(shown)


def parse_systematic(key: str) -> PipelineCondition | PlatformCondition | None:
    """The condition of a pipeline's or a platform's key; None for a key of another kind.

    Raises `ArgumentError` for a key of the kind whose parts are unknown.
    """
    if is_pipeline_key(key):
        return PipelineCondition(parse_pipeline(key))
    match = PLATFORM_KEY.fullmatch(key)
    return PlatformCondition(match.group(1), int(match.group(2))) if match else None
