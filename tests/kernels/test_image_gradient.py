"""The gradient of a first convolution: torch's up to rounding, and the same bits on every processor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab.core.errors import ArgumentError
from robustlab.kernels import dispatch
from robustlab.kernels.image_gradient import image_gradient

COMPILED = [name for name in dispatch.available() if name != "reference"]
needs_kernels = pytest.mark.skipif(not COMPILED, reason="no compiled kernels")


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """channels, outputs, kernel, stride, padding, size of the images."""
    pairs = st.tuples(st.integers(1, 6), st.integers(1, 6))
    kernel, stride = draw(pairs), draw(pairs)
    padding = (draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1)))
    size = (kernel[0] + draw(st.integers(0, 9)), kernel[1] + draw(st.integers(0, 40)))
    return draw(st.integers(1, 4)), draw(st.integers(1, 5)), kernel, stride, padding, size


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(places(), st.integers(0, 2**16))
def test_it_is_the_gradient_of_torch(
    place: tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]], seed: int
) -> None:
    channels, outputs, kernel, stride, padding, size = place
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, channels, *kernel, generator=generator)
    out = torch.conv2d(images, weight.double(), stride=stride, padding=padding)
    above = torch.randn(out.shape, generator=generator)
    (expected,) = torch.autograd.grad(out, images, above.double())
    found = []
    for name in COMPILED:
        with dispatch.use_backend(name):
            found.append(image_gradient(above, weight, size, stride, padding))
    torch.testing.assert_close(found[0], expected.float(), rtol=1e-5, atol=1e-4)
    assert all(torch.equal(other, found[0]) for other in found)


@needs_kernels
def test_neither_threads_nor_other_images_change_a_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    above, weight = torch.randn(5, 8, 16, 16, generator=generator), torch.randn(8, 3, 4, 4, generator=generator)
    arguments = (weight, (32, 32), (2, 2), (1, 1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = image_gradient(above, *arguments)
        torch.set_num_threads(2)
        assert torch.equal(image_gradient(above, *arguments), alone)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(image_gradient(above[2:3], *arguments), alone[2:3])
    assert torch.equal(image_gradient(above.transpose(2, 3).contiguous().transpose(2, 3), *arguments), alone)
    assert image_gradient(above[:0], *arguments).shape == (0, 3, 32, 32)


GOOD = {
    "above": torch.zeros(2, 5, 4, 4),
    "weight": torch.zeros(5, 3, 3, 3),
    "size": (8, 8),
    "stride": (2, 2),
    "padding": (1, 1),
}


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"above": torch.zeros(2, 5, 4)}, "above"),
        ({"above": torch.zeros(2, 5, 4, 4).double()}, "above"),
        ({"above": torch.zeros(2, 5, 4, 5)}, r"above is .*\(N, 5, 4, 4\)"),
        ({"weight": torch.zeros(5, 5, 3, 3)}, "weight's channels"),
        ({"stride": (0, 2)}, r"stride \(height\)"),
        ({"padding": (1, 3)}, r"padding \(width\)"),
        ({"size": (0, 8)}, r"size \(height\)"),
    ],
)
def test_what_it_cannot_take_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, Tensor] = {**GOOD, **change}  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match=message):
        image_gradient(**arguments)  # type: ignore[arg-type]
    with dispatch.use_backend("reference"), pytest.raises(ArgumentError, match="kernels"):
        image_gradient(**GOOD)  # type: ignore[arg-type]
