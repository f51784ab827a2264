"""Procedurally rendered traffic signs: nothing to download, nothing to store, the same everywhere."""

from robustlab.datasets.signs.dataset import Signs
from robustlab.datasets.signs.difficulty import DEFAULT, Difficulty
from robustlab.datasets.signs.render import label, render
from robustlab.datasets.signs.templates import CLASS_NAMES

__all__ = ["CLASS_NAMES", "DEFAULT", "Difficulty", "Signs", "label", "render"]
