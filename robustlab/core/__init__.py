"""Ground floor: errors, keyed randomness, threat-model balls, pinned sub-gradients, tiles and progress."""

from robustlab.core.balls import L0, L1, L2, Ball, Linf
from robustlab.core.errors import ArgumentError, DataError, ModelFileError, RobustlabError, StoreError
from robustlab.core.frozen import frozen
from robustlab.core.lattice import Lattice
from robustlab.core.progress import Progress, SilentProgress
from robustlab.core.tiles import Tiled, map_tiles

__all__ = [
    "L0",
    "L1",
    "L2",
    "ArgumentError",
    "Ball",
    "DataError",
    "Lattice",
    "Linf",
    "ModelFileError",
    "Progress",
    "RobustlabError",
    "SilentProgress",
    "StoreError",
    "Tiled",
    "frozen",
    "map_tiles",
]
