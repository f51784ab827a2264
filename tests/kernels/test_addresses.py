"""Where bits of weights lie: a flip changes one weight by its bit's worth, and the kernels run what is then there."""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import sys
from math import prod
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab import kernels
from robustlab.core import ArgumentError
from robustlab.kernels.addresses import sum_addresses


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


grid = _load("grid")


@st.composite
def weights(draw: st.DrawFn) -> kernels.PackedWeight:
    bits, groups = draw(st.integers(1, 8)), draw(st.sampled_from([1, 1, 2, 17]))
    channels, each = draw(st.sampled_from([1, 3, 8, 33])), draw(st.sampled_from([1, 1, 2, 16, 17]))
    shape = (each * groups, channels, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, shape, generator=generator).clamp(min=1 - half).to(torch.int8)
    if bits == 1:
        codes = torch.randint(0, 2, shape, generator=generator).to(torch.int8) * 2 - 1
    activation_bits = draw(st.sampled_from([0, 2, 8] if bits == 1 else [2, 8]))
    return kernels.pack_weight(codes, bits, groups, activation_bits=activation_bits, lines=draw(st.booleans()))


@given(weights(), st.data())
@settings(max_examples=40, deadline=None)
def test_a_flip_changes_one_weight_by_what_its_bit_is_worth(weight: kernels.PackedWeight, data: st.DataObject) -> None:
    before, codes = weight.data.clone(), kernels.unpack_weight(weight).to(torch.int32)
    element, bit = data.draw(st.integers(0, codes.numel() - 1)), data.draw(st.integers(0, weight.bits - 1))
    old = int(codes.flatten()[element])
    kernels.flip_bit(weight, element, bit)
    after = kernels.unpack_weight(weight).to(torch.int32)
    expected = codes.clone()
    unsigned = (old % 2**weight.bits) ^ (1 << bit)
    expected.view(-1)[element] = -old if weight.bits == 1 else unsigned - 2**weight.bits * (unsigned >> weight.bits - 1)
    assert torch.equal(after, expected)
    assert (weight.data != before).sum() >= 1
    if weight.form.kind != "signs":  # the sums are those of the codes that are there now
        values = (after - 1) // 2 if weight.bits == 1 else after
        where = sum_addresses(weight.form, torch.arange(weight.shape[0]))
        assert torch.equal(weight.data.view(torch.int32)[where].long(), values.flatten(1).sum(1))
    kernels.flip_bit(weight, element, bit)
    assert torch.equal(weight.data, before)


@given(weights())
@settings(max_examples=25, deadline=None)
def test_addresses_are_all_bits_of_the_weights_and_no_padding(weight: kernels.PackedWeight) -> None:
    count, bits = prod(weight.shape), weight.bits
    elements, places = torch.arange(count).repeat_interleave(bits), torch.arange(bits).repeat(count)
    addresses = kernels.bit_addresses(weight.form, elements, places)
    assert len(addresses.unique()) == count * bits
    assert int(addresses.max()) < 8 * weight.form.code_bytes
    stored = (weight.data[addresses // 8].int() >> (addresses % 8)) & 1
    codes = kernels.unpack_weight(weight).flatten().repeat_interleave(bits).int()
    wanted = (codes < 0).int() if bits == 1 else (codes >> places) & 1
    assert torch.equal(stored, wanted)
    # Every other bit of the codes is padding, which is zero.
    assert int(((weight.data[: weight.form.code_bytes, None].int() >> torch.arange(8)) & 1).sum()) == int(stored.sum())


@pytest.mark.parametrize("number", range(24))
def test_kernels_on_flipped_bits_equal_an_independent_convolution(number: int) -> None:
    case = grid.make_case(1000 + 31 * number)
    weight, draw = case.weight(), random.Random(number)
    for _ in range(5):
        kernels.flip_bit(weight, draw.randrange(prod(weight.shape)), draw.randrange(weight.bits))
    if weight.bits > 1:  # and the code that only a fault gives
        row = kernels.unpack_weight(weight).flatten()
        top = weight.bits - 1
        for bit in range(weight.bits):
            if (int(row[0]) >> bit & 1) != (bit == top):
                kernels.flip_bit(weight, 0, bit)
        assert int(kernels.unpack_weight(weight).flatten()[0]) == -(2**top)
    flipped = dataclasses.replace(case, codes=kernels.unpack_weight(weight))
    right = flipped.expected()
    for backend in kernels.available():
        with kernels.use_backend(backend):
            found = case.run(weight)
        assert torch.equal(found[0], right[0]), (backend, case)
        assert torch.equal(found[1], right[1]), (backend, case)


def test_what_is_not_there_is_refused() -> None:
    weight = kernels.pack_weight(torch.ones(4, 3, 1, 1, dtype=torch.int8), 4, activation_bits=4)
    for element, bit in ((12, 0), (-1, 0), (0, 4), (0, -1)):
        with pytest.raises(ArgumentError, match="allowed: a whole number"):
            kernels.flip_bit(weight, element, bit)
    with pytest.raises(ArgumentError, match=r"elements is .*allowed: \[0, 11\]"):
        kernels.bit_addresses(weight.form, torch.tensor([12]), torch.tensor([0]))
