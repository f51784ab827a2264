"""The same draws through the package and through the oracle, for the tests and for the parity table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from robustlab.datasets.corruptions import CORRUPTIONS, elastic, fog, glass, snow, spatter
from robustlab.datasets.corruptions._filters import zoom_crop

_spec = importlib.util.spec_from_file_location("corruption_oracle", Path(__file__).with_name("corruption_oracle.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)


def batched(array):
    return torch.from_numpy(np.ascontiguousarray(array)).unsqueeze(0)


def planes(image):
    """uint8 (1, 3, H, W) of uint8 (H, W, 3)."""
    return batched(image.transpose(2, 0, 1))


def channels_last(array):
    return array.transpose(1, 2, 0)


def draws_for(name, image, severity, table, rng):
    """(what the oracle is given, what the package's `apply` is given) of the same random numbers from `rng`."""
    size = image.shape[:2]
    c = getattr(table, name)[severity - 1]
    if name in ("gaussian_noise", "speckle_noise"):
        noise = rng.standard_normal((*size, 3)).astype(np.float32)
        return (noise.astype(np.float64),), {"noise": batched(noise.transpose(2, 0, 1))}
    if name in ("shot_noise", "impulse_noise"):
        words = rng.integers(-(2**31), 2**31, (*size, 3), dtype=np.int64).astype(np.int32)
        return (words,), {"words": batched(words.transpose(2, 0, 1))}
    if name == "glass_blur":
        reach, passes = int(c[1]), int(c[2])
        moves = rng.integers(-reach, reach, (passes, 2, size[0] - 2 * reach, size[1] - 2 * reach)).astype(np.int8)
        return (moves,), {"source": glass.glass_source(batched(moves), size, reach)}
    if name == "motion_blur":
        angle = float(rng.uniform(-45, 45))
        return (angle,), {"angle": torch.tensor([angle], dtype=torch.float64)}
    if name == "snow":
        noise, angle = rng.standard_normal(size), float(rng.uniform(-135, -45))
        rows, columns = zoom_crop(size, c[2])
        top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
        middle = batched(noise[top : top + rows, left : left + columns])
        layer = snow.flakes(middle, torch.tensor([angle], dtype=torch.float64), size, severity, table)
        return (noise, angle), {"flakes": layer}
    if name == "frost":
        texture = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        return (texture,), {"layer": planes(texture)}
    if name == "fog":
        side = fog.map_side(size, table)
        noise = rng.uniform(-1, 1, side * side - 1)
        at = iter(noise)
        layer = oracle.plasma(lambda shape: np.array([next(at) for _ in range(shape[0] * shape[1])]).reshape(shape),
                              side, c[1])  # fmt: skip
        ours = fog.plasma(batched(noise), side, c[1])
        return (layer[: size[0], : size[1]],), {"layer": ours[:, : size[0], : size[1]]}
    if name == "spatter":
        noise = rng.standard_normal(size)
        layer = spatter.drops(batched(noise), severity, table).unsqueeze(1)
        return (oracle.spatter_layer(noise, c),), {"layer": layer}
    if name == "elastic_transform":
        amplitude, sigma, jitter = (min(1.0, min(size) / table.elastic_side) * v for v in c)
        corners, fields = rng.uniform(-jitter, jitter, (3, 2)), rng.uniform(-1, 1, (2, *size))
        field = elastic.smooth(batched(fields), sigma) * amplitude if amplitude else torch.zeros(1, 2, *size).double()
        return (corners, fields), {"affine": elastic.affine_map(batched(corners), size), "field": field}
    return (), {}


def zoom_factors(table, severity):
    # The published ranges, as np.arange makes them of their ends.
    ends = {"ImageNet-C": (1.11, 1.16, 1.21, 1.26, 1.31)}.get(table.benchmark, (1.06, 1.11, 1.16, 1.21, 1.26))
    return np.arange(1, ends[severity - 1], table.zoom_blur[severity - 1][0])


def pair(name, image, severity, table, rng):
    """uint8 (H, W, 3) twice: the package's result and the oracle's."""
    c = getattr(table, name)[severity - 1]
    if name == "elastic_transform":
        c = tuple(min(1.0, min(image.shape[:2]) / table.elastic_side) * v for v in c)
    if name == "zoom_blur":
        c = zoom_factors(table, severity)
    given, draws = draws_for(name, image, severity, table, rng)
    ours = CORRUPTIONS[name].apply(planes(image), draws, severity, table)[0].numpy().transpose(1, 2, 0)
    return ours, getattr(oracle, name)(image, *given, c)
