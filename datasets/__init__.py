"""Data sets and corruptions: labelled images that are made, read or decoded on demand."""

from robustlab.datasets.arrays import ArrayImages
from robustlab.datasets.base import SPLITS, Dataset
from robustlab.datasets.cifar10 import Cifar10
from robustlab.datasets.imagefolder import ImageFolder
from robustlab.datasets.imagenet import ImageNetSample
from robustlab.datasets.registry import DATASETS, load_dataset
from robustlab.datasets.signs import Signs

__all__ = [
    "DATASETS",
    "SPLITS",
    "ArrayImages",
    "Cifar10",
    "Dataset",
    "ImageFolder",
    "ImageNetSample",
    "Signs",
    "load_dataset",
]
