"""Numbers for people, names of conditions, and the Pareto front."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlab.report import format as f
from robustlab.report.view import pareto_front


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f.bytes_text(0), "0 B"),
        (f.bytes_text(999), "999 B"),
        (f.bytes_text(999_999), "1.00 MB"),
        (f.bytes_text(73_214), "73.2 kB"),
        (f.macs_text(20_412_345), "20.4 MMAC"),
        (f.bit_operations_text(1.3056e9), "1.31 GBOP"),
        (f.milliseconds_text(3.2149), "3.21 ms"),
        (f.milliseconds_text(0.92), "920 µs"),
        (f.milliseconds_text(1500), "1.50 s"),
        (f.rate_text(1534.4), "1\u202f530"),
        (f.rate_text(97.25), "97.2"),
        (f.seconds_text(125), "2 min 05 s"),
        (f.seconds_text(3725), "1 h 02 min"),
        (f.percent_text(0.97449), "97.4"),
        (f.percent_text(None), f.MISSING),
        (f.bytes_text(float("nan")), f.MISSING),
        (f.count_text(21500), "21\u202f500"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("key", "kind", "title"),
    [
        ("clean", "clean", "clean"),
        ("pgd20-linf-8of255", "attack", "PGD-20 ℓ∞ 8/255"),
        ("fgsm-l2-0.5", "attack", "FGSM ℓ2 0.5"),
        ("pgd5-linf-8of255-step2of255-nostart", "attack", "PGD-5 ℓ∞ 8/255, step 2/255, no random start"),
        ("apgdt100-linf-1e-05-uint8", "attack", "APGD-T-100 ℓ∞ 1e-05, 8-bit images"),
        ("autoattack-l2-0.5", "attack", "AutoAttack ℓ2 0.5"),
        ("ddn100-l2", "attack", "DDN-100 ℓ2"),
        ("jpeg-compression-3", "corruption", "jpeg compression 3"),
        ("opencv-nearest", "other", "opencv nearest"),
    ],
)
def test_conditions_in_words(key: str, kind: str, title: str) -> None:
    assert (f.condition_kind(key), f.condition_title(key)) == (kind, title)


numbers = st.floats(0, 100, allow_nan=False)
points = st.lists(st.tuples(numbers, numbers), max_size=12)


@given(points)
def test_the_front_is_exactly_the_points_that_none_beats(cloud: list[tuple[float, float]]) -> None:
    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    expected = {i for i, p in enumerate(cloud) if not any(beats(q, p) for q in cloud)}
    front = pareto_front(cloud)
    assert set(front) == expected
    assert [cloud[i][0] for i in front] == sorted(cloud[i][0] for i in front)


@given(st.floats(0, 1e15))
def test_a_number_never_needs_more_than_four_digits(value: float) -> None:
    digits = f.bytes_text(value).split()[0].replace(".", "").lstrip("0")
    assert len(digits) <= 6 if value < 1 or value >= 1e15 * 0.99 else len(digits) <= 4


def test_a_long_name_keeps_both_ends() -> None:
    from robustlab.report.format import short_name

    assert short_name("signs_w8a8_adv") == "signs_w8a8_adv"
    shown = short_name("a" * 50 + "-w4a4")
    assert len(shown) == 28
    assert shown.startswith("aaaa") and shown.endswith("-w4a4")
