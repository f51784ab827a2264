"""8-bit balls: every shown image is an 8-bit one inside the ball, near the iterate, and survives a PNG file."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from robustlab.core import L1, L2, ArgumentError, Ball, Lattice, Linf
from robustlab.core.balls import parse_ball
from robustlab.core.keys import sample_keys
from robustlab.core.lattice import on_lattice


def images(seed: int, count: int = 3, size: int = 4) -> Tensor:
    levels = torch.randint(-40, 296, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return levels.clamp(0, 255).to(torch.uint8).float() / 255


def through_png(image: Tensor) -> Tensor:
    """Saved with rounding, as everybody saves; decoded as everybody decodes."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    decoded = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    return torch.from_numpy(decoded.copy()).permute(2, 0, 1).float() / 255


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from([Linf, L2, L1]),
    levels=st.one_of(st.just(0.0), st.integers(1, 600), st.floats(0.01, 3000)),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-3, 0.02, 1.0, 1e4]),
)
def test_shown_is_an_8_bit_image_of_the_ball(kind: type[Ball], levels: float, seed: int, scale: float) -> None:
    origin, inner = images(seed), kind(levels / 255)
    ball = Lattice(inner)
    noise = torch.randn(origin.shape, generator=torch.Generator().manual_seed(seed + 1))
    x = ball.project(origin + scale * noise, origin)
    shown = ball.shown(x, origin)
    assert inner.contains(shown, origin).all() and on_lattice(shown).all() and ball.contains(shown, origin).all()
    moved = (shown.double() * 255).round() - (origin.double() * 255).round()
    reach = {
        "linf": moved.abs().amax(),
        "l2": moved.flatten(1).norm(dim=1).amax(),
        "l1": moved.abs().flatten(1).sum(1).amax(),
    }
    assert float(reach[ball.norm_name]) <= levels * (1 + 1e-6) + 1e-6  # The ball of whole numbers.
    assert ((shown - x).abs() <= (1 + 1e-4) / 255).all()
    assert torch.equal(ball.shown(shown, origin), shown)
    assert torch.equal(through_png(shown[0]), shown[0])
    start = ball.shown(ball.random_start(origin, sample_keys(seed, "start", range(3))), origin)
    assert ball.contains(start, origin).all()


def test_linf_goes_to_the_nearest_level_of_the_ball() -> None:
    origin = torch.tensor([0, 10, 250, 255]).float().reshape(1, 1, 1, 4) / 255
    ball = Lattice(Linf(8 / 255))
    x = torch.tensor([7.6, 4.4, 255.0, 246.6]).reshape(1, 1, 1, 4) / 255
    assert torch.equal((ball.shown(x, origin) * 255).round().flatten(), torch.tensor([8.0, 4.0, 255.0, 247.0]))
    ball = Lattice(Linf(2.7 / 255))  # 2.7 levels hold two.
    x = ball.project(origin + 1, origin)
    assert torch.equal((ball.shown(x, origin) * 255).round().flatten(), torch.tensor([2.0, 12.0, 252.0, 255.0]))


def test_roundings_that_lengthen_are_taken_back_cheapest_first() -> None:
    origin = torch.full((1, 1, 1, 4), 100 / 255)
    step = torch.tensor([2.6, 1.9, -3.7, 0.2])
    x = origin + step.reshape(1, 1, 1, 4) / 255
    assert _levels(Lattice(L1(9.0 / 255)).shown(x, origin)) == [103, 102, 96, 100]
    assert _levels(Lattice(L1(8.4 / 255)).shown(x, origin)) == [102, 102, 96, 100]  # 2.6 costs least.
    assert _levels(Lattice(L2(math.sqrt(29) / 255)).shown(x, origin)) == [103, 102, 96, 100]
    assert _levels(Lattice(L2(math.sqrt(28.9) / 255)).shown(x, origin)) == [102, 102, 96, 100]


def _levels(image: Tensor) -> list[int]:
    return [int(v) for v in (image * 255).round().flatten()]


def test_only_8_bit_images_are_centres() -> None:
    Lattice(Linf(0.1)).check_origin(images(0))
    bad = images(0)
    bad[1, 0, 0, 0] = 0.123
    with pytest.raises(ArgumentError, match=r"^images\[1\] is .*0\.123.*k / 255"):
        Lattice(Linf(0.1)).check_origin(bad)
    Linf(0.1).check_origin(bad)
    assert on_lattice(bad).tolist() == [True, False, True]
    bad[2, 0, 0, 0] = math.nan
    assert on_lattice(bad).tolist() == [True, False, False]
    assert Linf(0.1).shown(bad, bad) is bad


@pytest.mark.parametrize("text", ["linf-8of255-uint8", "l2-0.5-uint8", "l1-12-uint8", "linf-uint8"])
def test_slugs(text: str) -> None:
    ball = parse_ball(text)
    assert isinstance(ball, Lattice) and ball.slug == text
    assert ball == Lattice(parse_ball(text.removesuffix("-uint8")))
    assert ball != Lattice(Linf(9 / 255)) and hash(ball) == hash(parse_ball(text))
    assert repr(ball).startswith("Lattice(inner=")


@pytest.mark.parametrize("inner", [0.1, None, Lattice(Linf(0.1))])
def test_bad_inner(inner: object) -> None:
    with pytest.raises(ArgumentError, match=r"^inner is "):
        Lattice(inner)  # type: ignore[arg-type]
