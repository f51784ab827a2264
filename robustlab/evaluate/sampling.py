"""What more than images a condition may need or say: the samples themselves, and where it cannot be had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from robustlab.datasets import Dataset
from robustlab.evaluate.conditions import Condition
from robustlab.evaluate.shown import Shown


@runtime_checkable
class SampleCondition(Protocol):
    """A condition that works on the samples of a data set, such as their files, rather than on their images."""

    def show_samples(self, data: Dataset, ids: Sequence[int], images: Tensor) -> Shown:
        """Make what is shown of samples `ids` of `data`, in place of their clean `images` (N, 3, H, W)."""


@runtime_checkable
class Restricted(Protocol):
    """A condition that cannot be had everywhere."""

    def unavailable(self, data: Dataset) -> str | None:
        """Why it cannot run here, or means nothing on this data set; None where it can."""

    def libraries(self) -> dict[str, str]:
        """Names and versions of what its results depend on."""


def show_to_all(
    condition: Condition, data: Dataset, ids: Sequence[int], images: Tensor, labels: Tensor, keys: Tensor
) -> Shown:
    """What a condition that does not depend on the model makes of samples `ids` of `data`."""
    if isinstance(condition, SampleCondition):
        return condition.show_samples(data, ids, images)
    return condition.show(images, labels, keys, None)
