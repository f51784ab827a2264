"""Random flips and progressive bit search: ranked by exact first-order terms, measured on the kernels, repeatable."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.attacks import BitSearch, Flip, RandomFlips, flipped
from robustlab.attacks.faults import FaultCurve, FaultPoint, Memory
from robustlab.attacks.faults._gains import gains
from robustlab.attacks.faults.curve import Judge
from robustlab.compress.freeze import LayerScheme
from robustlab.core import ArgumentError
from robustlab.deploy import PackedLayer, optimize
from robustlab.kernels import ActivationSpec, ConvGeometry


class Last(nn.Module):
    """A packed layer whose outputs are the logits: everything behind it is linear."""

    def __init__(self, layer: PackedLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * 1.0).flatten(1)  # type: ignore[no-any-return]


def conv(bits: int, activation: ActivationSpec | None, geometry: ConvGeometry) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(bits)
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (6, 4 // geometry.groups, 3, 3), generator=generator).clamp(min=1 - half)
    codes = torch.where(codes < 0, -1, 1) if bits == 1 else codes
    scale, bias = torch.rand(6, generator=generator) + 0.1, torch.randn(6, generator=generator)
    layer = PackedLayer(codes.to(torch.int8), scale, bias, LayerScheme(bits, activation, geometry))
    return Last(layer), torch.randn(3, 4, 7, 6, generator=generator)


LAYERS = [
    conv(8, ActivationSpec(0.02, 100, 8), ConvGeometry(stride=(2, 1), padding=(1, 2))),
    conv(4, ActivationSpec(0.3, 7.5, 4), ConvGeometry(groups=2, dilation=(2, 1))),
    conv(1, None, ConvGeometry(padding=(1, 1), padding_value="neg_one")),
    conv(1, None, ConvGeometry(padding=(1, 1), groups=2)),
]


@pytest.mark.parametrize("index", range(len(LAYERS)))
def test_first_order_gains_are_exact_where_the_model_is_linear(index: int) -> None:
    model, x = LAYERS[index]
    direction = torch.randn(model(x).shape, generator=torch.Generator().manual_seed(5)).double()

    def objective(logits: Tensor, rows: slice) -> Tensor:
        return (logits.double() * direction[rows]).sum(1)

    memory = Memory(model, ("weights", "scales", "biases"))
    found = gains(model, memory.regions, x, objective)
    assert set(found) == set(memory.regions)
    base = float(objective(model(x), slice(None)).sum())
    for region, gain in found.items():
        for bit_index in torch.linspace(0, region.size - 1, 60).long().unique().tolist():
            element, bit = divmod(bit_index, region.bits)
            if not torch.isfinite(gain[bit_index]) or abs(gain[bit_index]) > 1e6:
                continue  # an exponent
            with flipped(model, [Flip(region.layer, region.part, element, bit)]):
                change = float(objective(model(x), slice(None)).sum()) - base
            assert change == pytest.approx(float(gain[bit_index]), rel=2e-3, abs=0.02), (region.part, element, bit)


@pytest.fixture(scope="module")
def signs() -> tuple[nn.Module, Tensor, Tensor]:
    images, labels = rl.datasets.load_dataset("signs").batch(range(48))
    return rl.load("robustlab:signs_w8a8"), images, labels


def test_one_chosen_bit_does_what_sixty_random_ones_do_not(signs: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = signs
    curve = BitSearch(3, ("scales",)).run(model, images, labels)
    assert curve.bits_to_half == 1
    assert curve.points[-1].not_finite == 0
    assert curve.stopped == "at most 0.5 of the accuracy left"
    random = RandomFlips(60, parts=("scales",)).run(model, images, labels)
    assert random.bits_to_half is None
    again = BitSearch(1, ("scales",)).draw(optimize(model), images, labels)
    assert again == curve.flips
    with flipped(model, curve.flips), torch.no_grad():
        assert float((model(images).argmax(1) == labels).double().mean()) == curve.points[-1].accuracy
    with torch.no_grad():
        assert float((model(images).argmax(1) == labels).double().mean()) == curve.clean


def test_a_few_chosen_weights_do_what_many_random_ones_do_not() -> None:
    model, images, labels = small()
    chosen = BitSearch(15).run(model, images, labels)
    assert [p.flips for p in chosen.points] == list(range(len(chosen.flips) + 1))
    assert chosen.bits_to_half is not None
    for seed in range(3):
        random = RandomFlips(10 * chosen.bits_to_half, seed=seed).run(model, images, labels)
        assert min(p.accuracy for p in random.points) > 0.9


def small() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    images, centres = torch.rand(48, 3, 6, 6), torch.rand(3, 3, 6, 6)
    labels = torch.arange(48) % 3
    images = (0.7 * images + 0.3 * centres[labels]).clamp(0, 1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return rl.deploy(rl.compress(net.eval(), weights=4, activations=8, calibration=[images])), images, labels


def test_a_target_class_draws_images_to_it() -> None:
    model, images, labels = small()
    curve = BitSearch(12, target=1, until=None).run(model, images, labels)
    assert curve.points[0].hits == 0
    assert (curve.points[-1].hits or 0) >= 0.9
    loud, sneaky = (
        BitSearch(12, target=1, source=0, stealthy=stealthy, until=None).run(model, images, labels).points[-1]
        for stealthy in (False, True)
    )
    assert (loud.hits or 0) >= 0.9
    assert (sneaky.hits or 0) >= 0.9
    assert sneaky.accuracy > loud.accuracy + 0.1
    assert sneaky.accuracy >= 0.6  # of the other two classes nearly all


def test_the_search_stops_where_nothing_helps() -> None:
    model, images, labels = small()
    wrong = (labels + 1) % 3  # already wrong everywhere: the loss only grows by what is left
    curve = BitSearch(2, ("biases",), target=0).run(model, images, wrong)
    assert len(curve.flips) <= 2
    dead = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).eval()
    with torch.no_grad():
        dead[1].weight.zero_()
        dead[1].bias.fill_(0)
    same = torch.zeros(4, 3, 6, 6)
    stuck = BitSearch(3).run(dead, same, torch.zeros(4, dtype=torch.int64))
    assert stuck.flips == ()
    assert stuck.stopped == "no flip raises the loss"


def test_random_curves_repeat_with_their_seed_and_bisect_to_the_bit() -> None:
    model, images, labels = small()
    parts = ("scales", "biases")
    one, same, other = (RandomFlips(120, parts=parts, seed=s).run(model, images, labels) for s in (1, 1, 2))
    assert one == same
    assert one.flips != other.flips
    assert len(set(one.flips)) == 120
    assert RandomFlips(50, parts=parts, seed=1).draw(model) == one.flips[:50]
    half = one.bits_to_half
    assert half is not None
    accuracy = {p.flips: p.accuracy for p in one.points}
    assert accuracy[half] <= one.clean / 2 < accuracy[half - 1]
    rated = RandomFlips(rate=0.01).draw(model)
    assert 20 < len(rated) < 90
    assert RandomFlips(rate=0.01).slug == "random-rate0.01"
    assert RandomFlips(16, parts=("scales", "biases")).slug == "random-16-scales+biases"
    assert BitSearch(8).slug == "bfa-8"


def test_answers_that_are_not_finite_are_counted_apart() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).eval()
    images, labels = torch.rand(6, 3, 6, 6), torch.zeros(6, dtype=torch.int64)
    bits = [Flip("1.weight", "weights", 0, b) for b in range(23, 31)]
    value = int(model[1].weight.detach().flatten()[0].view(torch.int32))
    infinite = [f for f in bits if not value >> f.bit & 1]
    judge = Judge(model, images, labels)
    assert judge(0).not_finite == 0
    with flipped(model, infinite):
        assert judge(8) == FaultPoint(8, 0.0, 1.0)
        with pytest.raises(ArgumentError, match="finite logits"):
            BitSearch(1).run(model, images, labels)
    # A search never breaks the model: of all bits of one weight it takes none that gives infinity.
    curve = BitSearch(4, until=None).run(model, images, labels)
    assert all(p.not_finite == 0 for p in curve.points)


def test_a_curve_is_plain_data() -> None:
    curve = FaultCurve((Flip("a", "weights", 1, 2),), (FaultPoint(0, 1.0), FaultPoint(1, 0.25)), 64, "why")
    assert curve.bits_to_half == 1
    assert json.loads(json.dumps(curve.as_dict()))["flips"] == [
        {"layer": "a", "part": "weights", "element": 1, "bit": 2}
    ]
    assert dataclasses.replace(curve, points=(FaultPoint(0, 1.0),)).bits_to_half is None


@pytest.mark.parametrize(
    "bad",
    [
        lambda: RandomFlips(0),
        lambda: RandomFlips(),
        lambda: RandomFlips(1, 0.5),
        lambda: RandomFlips(rate=2.0),
        lambda: RandomFlips(1, parts=()),
        lambda: RandomFlips(1, parts=("bits",)),
        lambda: BitSearch(0),
        lambda: BitSearch(parts=("weights", "weights")),
        lambda: BitSearch(source=1),
        lambda: BitSearch(target=1, source=1),
        lambda: BitSearch(stealthy=True),
        lambda: BitSearch(until=2.0),
        lambda: BitSearch(target=9).run(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), *_images()),
        lambda: BitSearch(target=1, source=2).run(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), *_images()),
        lambda: RandomFlips(10**6).draw(nn.Linear(2, 2)),
    ],
)
def test_bad_parameters_are_refused(bad: object) -> None:
    with pytest.raises(ArgumentError, match="allowed"):
        bad()  # type: ignore[operator]


def _images() -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
