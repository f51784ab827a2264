"""Tiles: the model sees one batch size only, and nothing of the filling comes back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.core import ArgumentError, Tiled, map_tiles
from robustlab.core.tiles import pad_rows, tiles


class Recorder(nn.Module):
    """Twice its input, and a list of the batch sizes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return x.flatten(1) * 2


@settings(deadline=None)
@given(count=st.integers(1, 40), size=st.integers(1, 9))
def test_only_full_tiles_and_every_sample_once(count: int, size: int) -> None:
    network = Recorder()
    x = torch.arange(count * 2, dtype=torch.float32).reshape(count, 1, 1, 2)
    assert torch.equal(Tiled(network, size)(x), x.flatten(1) * 2)
    assert network.sizes == [size] * -(-count // size)
    spans = list(tiles(count, size))
    assert [i for start, stop in spans for i in range(start, stop)] == list(range(count))


def test_several_batches_stay_aligned() -> None:
    a, b = torch.arange(7.0), torch.arange(7.0) * 10
    assert torch.equal(map_tiles(lambda x, y: x + y, a, b, size=3), a * 11)


def test_padding_repeats_the_last_row() -> None:
    assert pad_rows(torch.tensor([[1], [2]]), 4).tolist() == [[1], [2], [2], [2]]
    full = torch.tensor([[1], [2]])
    assert pad_rows(full, 2) is full


@pytest.mark.parametrize("tile", [0, -1, 1.5, True])
def test_bad_tile(tile: object) -> None:
    with pytest.raises(ArgumentError, match="tile is"):
        Tiled(Recorder(), tile)  # type: ignore[arg-type]


class Powers(nn.Module):
    """Writes into what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.pow_(4).flatten(1)


@pytest.mark.parametrize("count", [4, 8, 7])
def test_a_model_cannot_change_the_images(count: int) -> None:
    images = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    assert torch.equal(Tiled(Powers(), 4)(images), before.pow(4).flatten(1))
    assert torch.equal(images, before)
