"""Data sets by name."""

from __future__ import annotations

from robustlab.core.errors import check_choice, invalid
from robustlab.datasets.arrays import SOURCES, ArrayImages
from robustlab.datasets.base import SPLITS, Dataset
from robustlab.datasets.cifar10 import Cifar10
from robustlab.datasets.imagefolder import ImageFolder
from robustlab.datasets.imagenet import IMAGENET_NAMES, ImageNetSample
from robustlab.datasets.signs import Signs

DATASETS: dict[str, str] = {
    "signs": "procedural traffic signs, 24 classes, 3x64x64; made on the fly, nothing to download",
    "cifar10": "CIFAR-10, 10 classes, 3x32x32, from ROBUSTLAB_DATA, ROBUSTLAB_CIFAR10 or ./data",
    "gtsrb": "German traffic signs, 43 classes, 3x32x32, from ROBUSTLAB_DATA",
    "mnist": "MNIST digits, 10 classes, 3x28x28 (three equal channels), from ROBUSTLAB_DATA",
    "imagenet1000": "ImageNet, one 224x224 JPEG file for each of 1000 classes, from ROBUSTLAB_DATA",
    "imagenet-originals": "ImageNet, 125 of the original JPEG files, from ROBUSTLAB_DATA",
    "imagefolder": "imagefolder:PATH, a folder with one sub-folder of images per class, resized to 224 by default",
}


def load_dataset(spec: str, *, split: str = "test", image_size: int | None = None) -> Dataset:
    """Open a data set by its name in `DATASETS`, or ``"imagefolder:PATH"``.

    `split` is ``"test"`` or ``"train"`` (images to train or calibrate with). `image_size` is the side of the square
    images of an `imagefolder` or of ImageNet; the others have one size, and only that is allowed. Raises
    `ArgumentError` for an unknown name, split or size, and `DataError` if the data is missing or malformed.
    """
    name, colon, path = spec.partition(":")
    if not (name == "imagefolder" and colon and path):
        check_choice("data", spec, [*(key for key in DATASETS if key != "imagefolder"), "imagefolder:PATH"])
    check_choice("split", split, SPLITS)
    if name == "imagefolder":
        if path == "PATH":
            raise invalid("data", spec, "imagefolder:PATH with the path of a folder")
        return ImageFolder(path, split, image_size=image_size)
    if name in IMAGENET_NAMES:
        return ImageNetSample(name, split, image_size=image_size)
    dataset = _open(name, split)
    if image_size is not None and dataset.image_size != (image_size, image_size):
        raise invalid("image_size", image_size, f"{dataset.image_size[0]} for {name}")
    return dataset


def _open(name: str, split: str) -> Dataset:
    if name in SOURCES:
        return ArrayImages(name, split)
    return Signs(split) if name == "signs" else Cifar10(split)
