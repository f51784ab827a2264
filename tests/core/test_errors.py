"""Argument checks: one line that names the argument, the value and what is allowed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.core import ArgumentError, DataError, ModelFileError, RobustlabError, StoreError
from robustlab.core.errors import check_choice, check_images, check_int, check_labels, check_number, invalid


def test_every_error_is_one_of_ours() -> None:
    for kind in (ArgumentError, DataError, ModelFileError, StoreError):
        assert issubclass(kind, RobustlabError)
    assert issubclass(ArgumentError, ValueError)


@settings(deadline=None)
@given(st.text(), st.one_of(st.text(), st.lists(st.integers(), max_size=200), st.floats()))
def test_one_short_line(argument: str, value: object) -> None:
    message = str(invalid("name", value, "something"))
    assert "\n" not in message and len(message) < 200
    assert message.startswith("name is ") and message.endswith("; allowed: something")


def test_choice_suggests() -> None:
    assert check_choice("metric", "ap50", ["ap50", "asr"]) == "ap50"
    with pytest.raises(ArgumentError, match=r"metric is 'ap5'; allowed: ap50, asr \(did you mean ap50\?\)"):
        check_choice("metric", "ap5", ["ap50", "asr"])
    with pytest.raises(ArgumentError) as raised:
        check_choice("metric", "zzz", ["ap50"])
    assert "did you mean" not in str(raised.value)


def test_of_many_choices_the_nearest_are_named() -> None:
    names = [f"resnet{depth}" for depth in range(1000)]
    with pytest.raises(ArgumentError) as caught:
        check_choice("architecture", "resnt50", names)
    assert "allowed: 1000 names, such as " in str(caught.value) and "did you mean resnet50?" in str(caught.value)
    assert len(str(caught.value)) < 200
    with pytest.raises(ArgumentError, match="such as resnet0, resnet1,"):
        check_choice("architecture", "%", names)


@pytest.mark.parametrize("bad", [0, 11, 2.0, True, None, "3", math.nan])
def test_int(bad: object) -> None:
    assert check_int("n", 1, 1, 10) == 1 and check_int("n", 10, 1, 10) == 10
    with pytest.raises(ArgumentError, match=r"n is .* from 1 to 10"):
        check_int("n", bad, 1, 10)


@pytest.mark.parametrize("bad", [0.0, -1, 2.1, math.nan, math.inf, True, None, "1"])
def test_number(bad: object) -> None:
    assert check_number("x", 2, 0, 2, open_low=True) == 2.0
    with pytest.raises(ArgumentError, match=r"x is .* > 0 and <= 2"):
        check_number("x", bad, 0, 2, open_low=True)
    assert check_number("x", 0, 0) == 0.0


@pytest.mark.parametrize(
    "bad",
    [
        None,
        torch.rand(3, 4, 4),
        torch.rand(1, 3, 4, 4).double(),
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
        torch.full((1, 3, 4, 4), 1.001),
        torch.full((1, 3, 4, 4), -1e-4),
        torch.full((1, 3, 4, 4), math.nan),
        torch.rand(1, 3, 4, 4) * 255,
    ],
)
def test_images(bad: object) -> None:
    with pytest.raises(ArgumentError, match="images is"):
        check_images(bad)
    partly = torch.zeros(2, 3, 4, 4)
    assert check_images(partly) is partly
    partly[1, 2, 3, 3] = math.nan
    with pytest.raises(ArgumentError):
        check_images(partly)
    assert len(check_images(torch.zeros(0, 3, 4, 4))) == 0


@pytest.mark.parametrize("bad", [None, [0, 1], torch.zeros(2), torch.zeros(3, dtype=torch.int64),
                                 torch.tensor([0, 5]), torch.tensor([-1, 0])])  # fmt: skip
def test_labels(bad: object) -> None:
    assert check_labels(torch.tensor([0, 4]), 2, 5).tolist() == [0, 4]
    with pytest.raises(ArgumentError, match="labels is"):
        check_labels(bad, 2, 5)
