"""Bits flipped in the deployed model: what the kernels answer then, and that nothing is left of it afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustlab as rl
from robustlab.attacks import FAULT_PARTS, Flip, RandomFlips, flipped
from robustlab.attacks.faults import Memory
from robustlab.compress import WeightScheme
from robustlab.compress.composed import TwoPlanes
from robustlab.compress.freeze import LayerScheme
from robustlab.compress.parts import Parts
from robustlab.core import ArgumentError
from robustlab.deploy import CallableModel, PackedLayer, fingerprint, optimize, simulated_twin
from robustlab.kernels import ConvGeometry, use_backend

ALL = tuple(FAULT_PARTS)


def network(weights: int, activations: int) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip
    calibration = [torch.rand(16, 3, 8, 8)]
    return rl.deploy(rl.compress(net, weights=weights, activations=activations, calibration=calibration))


MODELS = {(w, a): network(w, a) for w, a in ((2, 2), (4, 4), (8, 8))}
IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def answers(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IMAGES)  # type: ignore[no-any-return]


def state(model: nn.Module) -> list[bytes]:
    return [t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for t in model.state_dict().values()]


@given(st.sampled_from(sorted(MODELS)), st.integers(1, 40), st.integers(0, 2**20), st.sampled_from([*ALL[:5], None]))
@settings(max_examples=25, deadline=None)
def test_flips_are_run_by_the_kernels_and_undone_exactly(
    which: tuple[int, int], count: int, seed: int, part: str | None
) -> None:
    model = MODELS[which]
    parts = ALL if part is None else (part,)
    before, identity, clean = state(model), fingerprint(model), answers(model)
    flips = RandomFlips(min(count, Memory(model, parts).bits // 8), parts=parts, seed=seed).draw(model)
    assert state(model) == before
    with flipped(model, flips):
        assert fingerprint(model) != identity
        faulty = answers(model)
        with use_backend("reference"):
            assert torch.equal(answers(model).nan_to_num(), faulty.nan_to_num())
        twin = simulated_twin(model)
        assert twin is not None
        assert torch.equal(answers(twin).nan_to_num(), faulty.nan_to_num())
    assert state(model) == before
    assert fingerprint(model) == identity
    assert torch.equal(answers(model), clean)


def test_an_exception_undoes_flips_too() -> None:
    model = MODELS[4, 4]
    before, identity = state(model), fingerprint(model)
    with pytest.raises(KeyboardInterrupt), flipped(model, RandomFlips(20, parts=ALL).draw(model)):
        raise KeyboardInterrupt
    assert state(model) == before
    assert fingerprint(model) == identity


@pytest.mark.parametrize("bit", [0, 10, 22, 23, 30, 31])
def test_a_scale_flips_in_its_ieee_bits(bit: int) -> None:
    model = MODELS[8, 8]
    layer = model[0]
    assert isinstance(layer, PackedLayer)
    raw = layer.scale.clone().view(torch.int32)
    with flipped(model, [Flip("0", "scales", 3, bit)]):
        changed = layer.scale.view(torch.int32) ^ raw
        assert changed.nonzero().flatten().tolist() == [3]
        assert int(changed[3]) & 0xFFFFFFFF == 1 << bit
    assert torch.equal(layer.scale.view(torch.int32), raw)


def test_zero_points_are_whole_numbers_of_the_activations_bits() -> None:
    model = MODELS[8, 8]
    layer = model[0]
    assert isinstance(layer, PackedLayer) and layer.scheme.activation is not None
    old = layer.scheme.activation.zero_point
    with flipped(model, [Flip("0", "zero-points", 0, 6)]):
        assert layer.scheme.activation.zero_point == int(old) ^ 64
    assert layer.scheme.activation.zero_point == old


def test_what_the_kernels_refuse_is_refused_and_changes_nothing() -> None:
    model = MODELS[8, 8]
    before = state(model)
    weight = Flip("0", "weights", 0, 7)
    with (
        pytest.raises(ArgumentError, match="scale is -"),
        flipped(model, [weight, Flip("0", "activation-scales", 0, 31)]),
    ):
        pass
    assert state(model) == before
    for bad in (Flip("0", "weights", 10**6, 0), Flip("0", "weights", 0, 8), Flip("nowhere", "weights", 0, 0)):
        with pytest.raises(ArgumentError, match="allowed"), flipped(model, [bad]):
            pass
    with pytest.raises(ArgumentError, match="did you mean weights"):
        Memory(model, ("weight",))
    with pytest.raises(ArgumentError, match="parts that Linear has"):
        Memory(nn.Linear(2, 2), ("scales",))
    assert state(model) == before


def test_an_optimized_model_sees_flips_and_forgets_them() -> None:
    plain = copy.deepcopy(MODELS[4, 4])
    model = optimize(plain, (3, 8, 8))
    clean = answers(model)
    flips = RandomFlips(30, parts=ALL).draw(model)
    with flipped(model, flips):
        assert not torch.equal(answers(model), clean)
        assert torch.equal(answers(model), answers(plain))
    assert torch.equal(answers(model), clean)


def test_a_float_model_flips_in_its_float_numbers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).eval()
    before = state(model)
    memory = Memory(model, ALL)
    assert {(r.layer, r.part) for r in memory.regions} >= {("0.weight", "weights"), ("1.running_var", "floats")}
    assert memory.bits == 32 * sum(t.numel() for t in model.state_dict().values() if t.dtype == torch.float32)
    with flipped(model, RandomFlips(50, parts=ALL).draw(model)):
        assert state(model) != before
    assert state(model) == before


def test_layers_with_float_operations_around_them_are_memory_as_well() -> None:
    codes = torch.randint(0, 2, (6, 2, 3, 3), dtype=torch.int8) * 2 - 1
    packed = PackedLayer(codes, torch.rand(6) + 0.1, None, LayerScheme(1, None, ConvGeometry(groups=2)))
    tensors = {"shift": torch.zeros(4), "second_shift": torch.zeros(4), "first": torch.tensor(0.5)}
    model = nn.Sequential(TwoPlanes(packed, tensors, torch.zeros(6)))
    memory = Memory(model, ALL)
    assert {(r.layer, r.part) for r in memory.regions} == {
        ("0.layer", "weights"), ("0.layer", "scales"), ("0", "biases"),
        ("0.shift", "floats"), ("0.second_shift", "floats"), ("0.first", "floats"),
    }  # fmt: skip
    x = torch.randn(2, 4, 5, 5)
    clean = model(x)
    with flipped(model, [Flip("0.layer", "weights", 5, 0), Flip("0", "biases", 1, 30)]):
        assert bool((model(x) != clean).any())
    assert torch.equal(model(x), clean)


def test_layers_in_parts_have_the_bits_of_their_file_and_no_others() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 72, 1), nn.Conv2d(72, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    x = torch.rand(2, 3, 8, 8)
    scheme = WeightScheme("group", False)
    model = rl.deploy(
        rl.compress(net, weights=4, activations=8, first_last_bits=None, calibration=[x], weight_scheme=scheme)
    )
    part = model[1]
    assert isinstance(part, Parts) and part.zero_points is not None
    memory = Memory(model, ALL)
    sizes = {(r.layer, r.part): r.size for r in memory.regions if r.layer.startswith("1")}
    assert sum(size for (_, what), size in sizes.items() if what == "weights") == 4 * 6 * 72 * 9
    assert sizes["1", "scales"] == 32 * part.scales.numel()
    assert sizes["1.zero_points", "zero-points"] == 4 * part.zero_points.numel()
    assert not [name for name, _ in sizes if "sums" in name]
    before, clean = state(model), model(x)
    spread = Flip("1", "activation-scales", 0, 24)  # a number that all parts have
    with flipped(model, [spread, Flip("1.zero_points", "zero-points", 1, 3), *RandomFlips(40, parts=ALL).draw(model)]):
        faulty = model(x)
        assert not torch.equal(faulty, clean)
        with use_backend("reference"):
            assert torch.equal(model(x).nan_to_num(), faulty.nan_to_num())
    assert state(model) == before
    assert torch.equal(model(x), clean)


def test_bits_of_another_runtime_are_not_here() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    elsewhere = CallableModel(network, classes=3)
    elsewhere.add_module("surrogate", network)
    with pytest.raises(ArgumentError, match="robustlab convert makes one"):
        Memory(elsewhere)


def test_what_is_no_flip_is_named() -> None:
    with pytest.raises(ArgumentError, match="flip is 'a'"), flipped(nn.Linear(2, 2), ["a"]):  # type: ignore[list-item]
        pass
