"""Common corruptions with the constants of ImageNet-C, Tiny ImageNet-C and CIFAR-10-C."""

from robustlab.datasets.corruptions.boxes import moved_boxes
from robustlab.datasets.corruptions.registry import (
    COMMON,
    CORRUPTIONS,
    HELD_OUT,
    SEVERITIES,
    Corruption,
    corrupt,
    find,
    resolve,
)
from robustlab.datasets.corruptions.tables import (
    CIFAR_10_C,
    IMAGENET_C,
    TABLES,
    TINY_IMAGENET_C,
    Table,
    table_for,
)

__all__ = [
    "CIFAR_10_C",
    "COMMON",
    "CORRUPTIONS",
    "HELD_OUT",
    "IMAGENET_C",
    "SEVERITIES",
    "TABLES",
    "TINY_IMAGENET_C",
    "Corruption",
    "Table",
    "corrupt",
    "find",
    "moved_boxes",
    "resolve",
    "table_for",
]
