"""Boxes follow what the corruptions do to pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from robustlab.core import ArgumentError
from robustlab.core.keys import sample_keys
from robustlab.datasets.corruptions import CORRUPTIONS, corrupt, moved_boxes
from robustlab.datasets.corruptions.tables import table_for


def lit(box: list[int], height: int, width: int) -> torch.Tensor:
    """A white box in a black image."""
    left, top, right, bottom = box
    image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    image[:, :, top:bottom, left:right] = 255
    return image


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """Sides of any aspect, and a box of at least 10 pixels."""
    height, width = draw(st.integers(40, 90)), draw(st.integers(40, 140))
    left, top = draw(st.integers(0, width // 2)), draw(st.integers(0, height // 2))
    return height, width, [left, top, draw(st.integers(left + 10, width)), draw(st.integers(top + 10, height))]


@settings(max_examples=20, deadline=None)
@given(scene=scenes(), severity=st.integers(1, 5), seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", ["elastic_transform", "glass_blur"])
def test_a_box_is_where_its_pixels_are_seen(
    name: str, scene: tuple[int, int, list[int]], severity: int, seed: int
) -> None:
    height, width, box = scene
    keys = sample_keys(seed, "box", [0])
    image = lit(box, height, width)
    (moved,), (seen,) = moved_boxes([torch.tensor([box], dtype=torch.float64)], name, severity, keys, (height, width))
    if name == "glass_blur":
        # Before anything is blurred.
        source = CORRUPTIONS[name].draw(keys, (height, width), severity, table_for(height, width))["source"]
        bright = image[0, 0].reshape(-1)[source[0]].reshape(height, width) > 0
        slack = 0
    else:
        # What is mirrored at the border is no part of the box: look where nothing is mirrored.
        assume(min(box) >= 8 and box[2] <= width - 8 and box[3] <= height - 8)
        corruption, constants = CORRUPTIONS[name], table_for(height, width)
        assert corruption.sources is not None
        draws = corruption.draw(keys, (height, width), severity, constants)
        x, y = corruption.sources(draws, (height, width), severity, constants)[0]
        direct = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        bright = (corrupt(image, name, severity, keys)[0, 0] > 127) & direct
        slack = 1
    rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
    found = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=torch.float64)
    assert bool(seen) and float((moved - found).abs().max()) <= slack


@settings(max_examples=15, deadline=None)
@given(scene=scenes(), severity=st.integers(1, 5), seed=st.integers(0, 1000), name=st.sampled_from(sorted(CORRUPTIONS)))
def test_boxes_stay_valid(name: str, scene: tuple[int, int, list[int]], severity: int, seed: int) -> None:
    height, width, box = scene
    if name == "frost":
        name = "frost_procedural"
    boxes = [torch.tensor([box, [0, 0, width, height]]).float(), torch.zeros(0, 4), torch.tensor([box]).float()]
    keys = sample_keys(seed, "box", range(3))
    moved, seen = moved_boxes(boxes, name, severity, keys, (height, width))
    assert [m.shape for m in moved] == [b.shape for b in boxes] and moved[0].dtype == torch.float32
    for rows, some in zip(moved, seen, strict=True):
        left, top, right, bottom = rows[some].unbind(1)
        assert bool(((left >= 0) & (left < right) & (right <= width)).all())
        assert bool(((top >= 0) & (top < bottom) & (bottom <= height)).all())
        assert not rows[~some].any()
    if not CORRUPTIONS[name].moves:
        assert all(torch.equal(a, b) for a, b in zip(moved, boxes, strict=True))
    alone, _ = moved_boxes(boxes[2:], name, severity, keys[2:], (height, width))
    assert torch.equal(alone[0], moved[2])


def test_a_turned_image_turns_its_box() -> None:
    """An affine map of known effect: everything 6 pixels to the right and 4 down."""
    draws = {"affine": torch.tensor([[[1.0, 0, -6], [0, 1, -4]]]).double(), "field": torch.zeros(1, 2, 40, 60)}
    sources = CORRUPTIONS["elastic_transform"].sources
    assert sources is not None
    x, y = sources(draws, (40, 60), 1, table_for(40, 60))[0]
    assert (float(x[14, 26]), float(y[14, 26])) == (20, 10)


@pytest.mark.parametrize(
    "box", [[5.0, 5, 5, 9], [-1.0, 0, 4, 4], [0.0, 0, 61, 4], [0.0, 0, 4, 41], [0.0, 0, float("nan"), 4]]
)
def test_boxes_outside_the_image_are_refused(box: list[float]) -> None:
    with pytest.raises(ArgumentError, match="boxes is"):
        moved_boxes([torch.tensor([box])], "snow", 1, sample_keys(0, "b", [0]), (40, 60))


def test_other_bad_input() -> None:
    keys, good = sample_keys(0, "b", [0]), torch.tensor([[0.0, 0, 4, 4]])
    with pytest.raises(ArgumentError, match="keys is"):
        moved_boxes([good, good], "snow", 1, keys, (40, 60))
    with pytest.raises(ArgumentError, match=r"boxes is .*int64 of shape"):
        moved_boxes([good.long()], "snow", 1, keys, (40, 60))
    with pytest.raises(ArgumentError, match="size is 8"):
        moved_boxes([good], "glass_blur", 1, keys, (8, 60))
    with pytest.raises(ArgumentError, match="did you mean snow"):
        moved_boxes([good], "snows", 1, keys, (40, 60))
