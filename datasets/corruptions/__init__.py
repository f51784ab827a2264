"""Common corruptions with the constants of ImageNet-C, Tiny ImageNet-C and CIFAR-10-C."""

from robustlab.datasets.corruptions.registry import CORRUPTIONS, SEVERITIES, Corruption, corrupt
from robustlab.datasets.corruptions.tables import CIFAR_10_C, IMAGENET_C, TINY_IMAGENET_C, Table, table_for

__all__ = [
    "CIFAR_10_C",
    "CORRUPTIONS",
    "IMAGENET_C",
    "SEVERITIES",
    "TINY_IMAGENET_C",
    "Corruption",
    "Table",
    "corrupt",
    "table_for",
]
