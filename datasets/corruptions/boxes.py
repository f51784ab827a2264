"""Bounding boxes of corrupted images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustlab.core import keys as _keys
from robustlab.core.errors import check_choice, check_int, invalid
from robustlab.datasets.corruptions import original
from robustlab.datasets.corruptions.registry import SEVERITIES, find, resolve
from robustlab.datasets.corruptions.tables import TABLES, table_for

_ALLOWED = "floats (K, 4): left, top, right, bottom in pixels, 0 <= left < right <= W and 0 <= top < bottom <= H"


def moved_boxes(
    boxes: Sequence[Tensor], name: str, severity: int, keys: Tensor, size: tuple[int, int], table: str | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Where the boxes of N images are after `corrupt` with the same name, severity, keys and table.

    `boxes[i]`: floats (K, 4) of image i, each left, top, right, bottom in pixels, counted from the image's edge: pixel
    x reaches from x to x + 1. `size`: (H, W), of any aspect. Returns the boxes in the same form, and for each image
    bool (K,): False where nothing of the box is left in sight (its row is then 0).

    Elastic transform and glass blur move pixels: a box becomes the smallest one that holds all pixels whose content
    comes from inside it, in whole pixels. All other corruptions leave boxes as they are, also motion and zoom blur:
    they smear content, but most of its weight stays in its place.

    Raises `ArgumentError` for what `corrupt` refuses, for boxes of another form or outside the image, and for the
    elastic transform and glass blur of imagecorruptions, which do not tell their draws.
    """
    corruption = find(resolve(name))
    check_int("severity", severity, SEVERITIES[0], SEVERITIES[-1])
    _keys.check_keys(keys, len(boxes))
    height, width = (check_int("size", side, corruption.smallest) for side in size)
    for rows in boxes:
        _check(rows, height, width)
    constants = table_for(height, width) if table is None else TABLES[check_choice("table", table, TABLES)]
    if name in [original.PREFIX + mover for mover in ("elastic_transform", "glass_blur")]:
        raise invalid("corruption", name, "one of this package: imagecorruptions does not tell where it moves pixels")
    if corruption.sources is None:
        return [rows.clone() for rows in boxes], [torch.ones(len(rows), dtype=torch.bool) for rows in boxes]
    moved, seen = [], []
    for rows, key in zip(boxes, keys.split(1), strict=True):
        draws = corruption.draw(key, (height, width), severity, constants)
        x, y = corruption.sources(draws, (height, width), severity, constants)[0] + 0.5
        left, top, right, bottom = (edge.reshape(-1, 1, 1) for edge in rows.to(torch.float64).unbind(1))
        inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        (left, right), (top, bottom) = (_ends(inside.any(dim)) for dim in (1, 2))
        found = inside.flatten(1).any(1)
        moved.append((torch.stack([left, top, right, bottom], dim=1) * found.unsqueeze(1)).to(rows.dtype))
        seen.append(found)
    return moved, seen


def _ends(line: Tensor) -> tuple[Tensor, Tensor]:
    """int64 (K,): the first place that is True in each row of bool (K, L), and the one after the last."""
    return line.to(torch.uint8).argmax(1), line.shape[1] - line.flip(1).to(torch.uint8).argmax(1)


def _check(rows: object, height: int, width: int) -> None:
    if not (isinstance(rows, Tensor) and rows.ndim == 2 and rows.shape[1] == 4 and rows.is_floating_point()):
        shown = f"{rows.dtype} of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else rows
        raise invalid("boxes", shown, _ALLOWED)
    low, high = rows[:, :2], rows[:, 2:]
    good = (low >= 0) & (low < high) & (high <= torch.tensor([width, height], device=rows.device))
    if not bool(good.all()):
        raise invalid("boxes", rows[~good.all(1)][0].tolist(), f"{_ALLOWED}, for H = {height} and W = {width}")
