"""Packed weights: both layouts are lossless, hold their real bit-width and refuse what they cannot hold."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlab import kernels
from robustlab.core import ArgumentError


def random_codes(shape: tuple[int, int, int, int], bits: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if bits == 1:
        return (2 * torch.randint(0, 2, shape, generator=generator) - 1).to(torch.int8)
    limit = 2 ** (bits - 1) - 1
    return torch.randint(-limit, limit + 1, shape, generator=generator).to(torch.int8)


@st.composite
def forms(draw: st.DrawFn) -> kernels.WeightForm:
    bits, groups = draw(st.integers(1, 8)), draw(st.sampled_from([1, 1, 2, 3, 17]))
    channels = draw(st.sampled_from([1, 1, 3, 8, 16, 31, 32, 33, 70]))
    outputs = draw(st.sampled_from([1, 1, 2, 15, 16, 17, 40])) * groups
    return kernels.WeightForm(
        (outputs, channels, draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        bits,
        groups,
        draw(st.sampled_from([0, 1, 2, 4, 8] if bits == 1 else [1, 2, 4, 8])),
        draw(st.booleans()),
    )


@given(forms(), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_both_layouts_are_lossless(form: kernels.WeightForm, seed: int) -> None:
    codes = random_codes(form.shape, form.bits, seed)
    packed = kernels.pack_weight(codes, form.bits, form.groups, activation_bits=form.activation_bits, lines=form.lines)
    assert packed.form == form
    assert torch.equal(kernels.unpack_weight(packed), codes)
    planes = kernels.weight_planes(codes, form.bits)
    assert torch.equal(kernels.from_planes(planes, form.bits, form.shape), codes)


def test_prepacked_weights_take_their_real_width() -> None:
    """All but one sum for each output, which zero points need."""
    shape = (64, 64, 3, 3)
    for bits in range(1, 9):
        for activation_bits in [0, 1, 2, 8] if bits == 1 else [1, 2, 8]:
            packed = kernels.pack_weight(random_codes(shape, bits), bits, activation_bits=activation_bits)
            sums = 0 if activation_bits == 0 else 4 * 64
            assert packed.data.numel() == bits * 64 * 64 * 9 // 8 + sums


def test_small_channel_counts_share_words() -> None:
    """A line of three taps with 16 channels takes two words, not three."""
    packed = kernels.pack_weight(random_codes((16, 16, 3, 3), 1), 1)
    assert packed.data.numel() == 3 * 2 * 64
    packed = kernels.pack_weight(random_codes((16, 8, 3, 3), 1), 1)
    assert packed.data.numel() == 3 * 1 * 64


def test_canonical_planes_are_those_of_the_format() -> None:
    # O = 1, C = 2, kh = 1, kw = 5: order (kw, C), so the fifth pixel starts at bit 8
    codes = torch.tensor([[[[1, -1, 1, 1, -1]], [[1, 1, -1, 1, 1]]]], dtype=torch.int8)
    assert kernels.weight_planes(codes, 1).tolist() == [[[0b00100100, 0b01]]]
    codes = torch.tensor([[[[3, -3, 0, -1, 1]]]], dtype=torch.int8)
    assert kernels.weight_planes(codes, 3).tolist() == [[[0b11011]], [[0b01001]], [[0b01010]]]


def test_packed_weight_copies() -> None:
    packed = kernels.pack_weight(random_codes((5, 3, 3, 3), 4), 4, activation_bits=4)
    other = copy.deepcopy(packed)
    assert other.data is not packed.data
    assert torch.equal(kernels.unpack_weight(other), kernels.unpack_weight(packed))


@pytest.mark.parametrize(
    ("codes", "bits"),
    [
        (torch.zeros(1, 1, 1, 1, dtype=torch.int8), 1),
        (torch.full((1, 1, 1, 1), 2, dtype=torch.int8), 1),
        (torch.full((1, 1, 1, 1), -8, dtype=torch.int8), 4),
        (torch.full((1, 1, 1, 1), -128, dtype=torch.int8), 8),
        (torch.ones(1, 1, 1, 1), 4),
        (torch.ones(1, 1, dtype=torch.int8), 4),
        (torch.ones(0, 1, 1, 1, dtype=torch.int8), 4),
        (torch.ones(1, 1, 1, 1, dtype=torch.int8), 9),
    ],
)
def test_bad_codes_are_refused(codes: Tensor, bits: int) -> None:
    with pytest.raises(ArgumentError):
        kernels.pack_weight(codes, bits, activation_bits=0 if bits == 1 else 8)
    with pytest.raises(ArgumentError):
        kernels.weight_planes(codes, bits)


def test_bad_planes_are_refused() -> None:
    shape = (2, 3, 1, 1)
    planes = kernels.weight_planes(random_codes(shape, 4), 4)
    with pytest.raises(ArgumentError, match="behind the last weight"):
        kernels.from_planes(planes | 0x80, 4, shape)
    with pytest.raises(ArgumentError, match="uint8 of shape"):
        kernels.from_planes(planes[:3], 4, shape)
    with pytest.raises(ArgumentError, match="uint8 of shape"):
        kernels.from_planes(planes.to(torch.int32), 4, shape)
    lowest = torch.tensor([[[0]], [[0]], [[0]], [[1]]], dtype=torch.uint8)  # -8 is not symmetric
    with pytest.raises(ArgumentError, match=r"\[-7, 7\]"):
        kernels.from_planes(lowest, 4, (1, 1, 1, 1))


def test_parts_of_a_packed_weight_must_fit() -> None:
    packed = kernels.pack_weight(random_codes((4, 2, 3, 3), 2), 2, activation_bits=2)
    with pytest.raises(ArgumentError, match="data"):
        kernels.PackedWeight(packed.data[:-1], packed.form)
    for change in (
        {"groups": 3},
        {"activation_bits": 0},
        {"bits": 9},
        {"zero_point": 0.25},
        {"lines": 1},
        {"shape": (4, 2, 3)},
    ):
        with pytest.raises(ArgumentError):
            dataclasses.replace(packed.form, **change)  # type: ignore[arg-type]
