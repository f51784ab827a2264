"""The data set that fits the models: opened at their image size, its classes numbered as they number them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from robustlab.core.errors import invalid
from robustlab.datasets import Dataset, load_dataset
from robustlab.datasets.relabel import Relabelled
from robustlab.deploy import class_names, input_size


def open_data(
    data: Dataset | str, models: Sequence[nn.Module], *, split: str = "test", image_size: int | None = None
) -> Dataset:
    """Open `data`, or check the object; raise `RobustlabError` for anything that is no data set.

    An ``imagefolder`` or a sample of ImageNet is resized to `image_size`, by default to the size that all models were
    made for if there is one. Where a model names the same classes in another order, as folders sorted by name will have
    it, or more classes than the data has images of, labels follow the model.
    """
    if isinstance(data, str):
        sizes = {size for size in map(input_size, models) if size is not None}
        if image_size is None and data.startswith(("imagefolder:", "imagenet")) and len(sizes) == 1:
            height, width = next(iter(sizes))
            image_size = height if height == width else None
        dataset = load_dataset(data, split=split, image_size=image_size)
    else:
        dataset = check_dataset(data)
    for names in map(class_names, models):
        if names is not None and names != tuple(dataset.class_names) and set(names) >= set(dataset.class_names):
            return Relabelled(dataset, names)
    return dataset


def check_dataset(data: object) -> Dataset:
    """Return an object with the members of `Dataset`, their types checked; raise `ArgumentError` for anything else."""
    members = ("name", "class_names", "image_size", "fingerprint", "batch", "__len__")
    missing = [name for name in members if not hasattr(data, name)]
    if missing:
        raise invalid("data", data, f"the name of a data set, or an object with {', '.join(missing)}")
    dataset = cast(Dataset, data)
    for member in ("name", "fingerprint"):
        value = getattr(dataset, member)
        if not isinstance(value, str) or not value:
            raise invalid(f"{member} of the data set", value, "a string that is not empty")
    names, size = dataset.class_names, dataset.image_size
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise invalid(f"class_names of {dataset.name}", names, "a tuple of at least one string")
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(type(side) is int and side > 0 for side in size)
    ):
        raise invalid(f"image_size of {dataset.name}", size, "a pair (height, width) of whole numbers >= 1")
    return dataset
