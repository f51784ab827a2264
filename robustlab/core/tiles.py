"""Fixed-shape tiles: the last bits of a float network depend on the batch size, so it only ever sees one.

A tile is `size` samples; the last one is filled by repeating its last sample, and the filling is cut off again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from robustlab.core.errors import check_int

DEFAULT_TILE = 64


def tiles(count: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each tile over `count` samples."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


def pad_rows(x: Tensor, size: int) -> Tensor:
    """Repeat the last row of x (n, ...) until it has `size` rows; n must be in [1, size]."""
    if len(x) == size:
        return x
    return torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])


def map_tiles(function: Callable[..., Tensor], *batches: Tensor, size: int) -> Tensor:
    """Apply `function` to aligned batches (N, ...) tile by tile and join the results; N must be at least 1."""
    results = []
    for start, stop in tiles(len(batches[0]), size):
        padded = [pad_rows(batch[start:stop], size) for batch in batches]
        results.append(function(*padded)[: stop - start])
    return results[0] if len(results) == 1 else torch.cat(results)


class Tiled(nn.Module):
    """Wrap a model so that it is only called with batches of exactly `tile` samples.

    The model is handed copies: whatever it does to its input, the caller's images stay as they are.

    Shape: images (N, 3, H, W), any N >= 1, -> logits (N, K).
    """

    def __init__(self, model: nn.Module, tile: int = DEFAULT_TILE) -> None:
        super().__init__()
        self.model = model
        self.tile = check_int("tile", tile, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`, computed tile by tile."""
        return map_tiles(self._ask, images, size=self.tile)

    def _ask(self, tile: Tensor) -> Tensor:
        # A full tile is a view of the caller's images: a model that writes into its input gets a copy of its own.
        logits: Tensor = self.model(tile.clone())
        return logits
