"""Costs, scores, and `allocate` from a model to the bits of its layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress import Spec, compress_with
from robustlab.compress.allocation import Bits, Problem, Variants, allocation_spec, make_variants
from robustlab.compress.weight_grid import WeightScheme
from robustlab.core import ArgumentError
from robustlab.core.keys import sample_keys, uniform
from robustlab.deploy import stored_bytes
from robustlab.evaluate.allocation import allocate, byte_costs, latency_costs, make_score, score_conditions
from robustlab.evaluate.allocation.costs import settled
from robustlab.models import build

CHOICES: tuple[Bits, ...] = ((2, 2), (3, 3), (4, 4), (8, 8))
COUNT = 32


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A few layers, not trained."""
    made = build("robustlab:signs_resnet", {"classes": 6, "widths": [4, 8], "blocks": [1, 1]})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
        made.head.bias.zero_()  # type: ignore[union-attr,operator]  # torch drew it from its global state
    return made.eval()


@pytest.fixture(scope="module")
def data(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Images, and the model's own answers to them."""
    images = uniform(sample_keys(0, "test", range(COUNT)), (3, 16, 16))
    with torch.no_grad():
        return images, model(images).argmax(1)


@pytest.fixture(scope="module")
def variants(model: nn.Module, data: tuple[Tensor, Tensor]) -> Variants:
    return make_variants(model, data[0], CHOICES, finish=rl.deploy)


@pytest.mark.parametrize("scheme", [WeightScheme(), WeightScheme("tensor", symmetric=False)])
def test_bytes_are_those_of_the_file(scheme: WeightScheme, model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    spec = Spec(weight_scheme=scheme)
    costs = byte_costs(make_variants(model, data[0], ((2, 2), (3, 3), (8, 8)), spec, finish=rl.deploy))
    problem = Problem(costs.layers, {n: dict.fromkeys(v, 0.0) for n, v in costs.layers.items()}, costs.fixed)
    allocations = [problem.random(problem.cost(problem.uniforms()[3, 3]), seed) for seed in range(2)]
    for allocation in (*problem.uniforms().values(), *allocations):
        deployed = rl.deploy(compress_with(model, allocation_spec(model, allocation, spec), calibration=data[0]))
        assert problem.cost(allocation) == stored_bytes(deployed)


def test_bytes_hold_the_biases_of_a_statistics_correction(data: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(864, 4)
    ).eval()
    spec = Spec(statistics_correction=True)
    costs = byte_costs(make_variants(model, data[0], ((2, 2), (4, 4)), spec, finish=rl.deploy))
    problem = Problem(costs.layers, {n: dict.fromkeys(v, 0.0) for n, v in costs.layers.items()}, costs.fixed)
    for allocation in problem.uniforms().values():
        deployed = rl.deploy(compress_with(model, allocation_spec(model, allocation, spec), calibration=data[0]))
        assert problem.cost(allocation) == stored_bytes(deployed)


def test_a_choice_has_the_widest_time_unless_rounds_agree() -> None:
    slow, fast, noisy = [3e-6] * 8, [1e-6] * 8, [1e-6, 4e-6] * 4
    assert settled({(2, 2): fast, (4, 4): noisy, (8, 8): slow}) == {(2, 2): 1000, (4, 4): 3000, (8, 8): 3000}
    assert settled({(2, 2): slow, (8, 8): fast}) == {(2, 2): 3000, (8, 8): 1000}
    assert settled({(8, 8): [1.0000001e-6] * 3}) == {(8, 8): 1001}


def test_times_are_of_every_choice_and_add_up_to_the_widest_network(
    data: tuple[Tensor, Tensor], variants: Variants
) -> None:
    costs = latency_costs(variants, data[0], rounds=3)
    assert costs.unit == "ns"
    assert {n: list(v) for n, v in costs.layers.items()} == {n: list(v) for n, v in variants.layers.items()}
    assert all(value > 0 for layer in costs.layers.values() for value in layer.values())
    problem = Problem(costs.layers, {n: dict.fromkeys(v, 0.0) for n, v in costs.layers.items()}, costs.fixed, "ns")
    assert 1_000 < problem.cost(problem.uniforms()[8, 8]) < 10**9


@pytest.mark.parametrize("score", ["clean", "corruption", "pgd", "contrast-5,fgsm-linf-2of255"])
def test_a_score_is_zero_for_the_float_model_and_not_for_others(
    score: str, model: nn.Module, data: tuple[Tensor, Tensor], variants: Variants
) -> None:
    judge = make_score(score, model, *data)
    assert judge(model) == pytest.approx(0, abs=1e-12)
    coarse, fine = (judge(variants.networks[bits]) for bits in ((2, 2), (8, 8)))
    assert coarse > fine > 0
    again = make_score(score, model, *data)
    assert torch.equal(judge.images, again.images) and judge(variants.networks[2, 2]) == coarse
    assert score == "clean" or not torch.equal(judge.images, data[0])


def test_conditions_take_turns(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    images, labels = data
    mixed = make_score("clean,brightness-3", model, images, labels)
    bright = make_score(["brightness-3"], model, images, labels)
    assert mixed.conditions == ("clean", "brightness-3")
    assert torch.equal(mixed.images[0::2], images[0::2])
    assert torch.equal(mixed.images[1::2], bright.images[1::2])


def test_a_kl_by_hand() -> None:
    def constant(row: list[float]) -> nn.Module:
        class Constant(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return torch.tensor(row).log().expand(len(images), -1)

        return Constant()

    judge = make_score("clean", constant([0.5, 0.5]), torch.zeros(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64))
    half = torch.tensor(0.5)
    expected = float(0.5 * (half / 0.25).log() + 0.5 * (half / 0.75).log())
    assert judge(constant([0.25, 0.75])) == pytest.approx(expected, rel=1e-6)


def test_unknown_scores_are_refused() -> None:
    for score in ("cleen", "pgd20-linf", ""):
        with pytest.raises(ArgumentError, match="allowed"):
            score_conditions(score)


def test_allocate(model: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "kept.json"

    def run(budget: str, ledger: Path | None) -> object:
        return allocate(model, [data[0]], *data, budget=budget, choices=CHOICES, ledger=ledger)

    found = allocate(model, [data[0]], *data, budget="3bits", choices=CHOICES, ledger=path)
    assert found.uniform is not None and found.uniform[0] == (3, 3)
    assert found.cost <= found.budget == found.uniform[1]
    assert found.predicted <= found.uniform[2]
    assert found.joint < found.uniform[3], "on the images it was made for, at equal bytes"
    assert found.retimed is None
    assert run("3bits", path) == found, "from the file"
    path.unlink()
    assert run("3bits", path) == found, "measured anew"
    wider = run("4.5bits", path)
    assert found.predicted > wider.predicted  # type: ignore[attr-defined]
    with pytest.raises(ArgumentError, match=r"budget is 100 bytes; allowed: at least \d+ bytes"):
        run("100B", path)


def test_latency_is_retimed(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    found = allocate(model, [data[0]], *data, budget="1x", cost="latency", choices=((4, 4), (8, 8)), spec=Spec(seed=1))
    assert found.retimed is not None and 1_000 < found.retimed < 10**9
    assert found.cost <= found.budget


def test_bad_arguments_are_refused_before_work(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    for arguments, said in (
        ({"budget": "much"}, "budget is 'much'"),
        ({"budget": "4bits", "cost": "energy"}, "cost is 'energy'"),
        ({"budget": "4bits", "score": "cleen"}, "score is 'cleen'"),
        ({"budget": "300us"}, "a size, as 140kB"),
    ):
        with pytest.raises(ArgumentError, match=said):
            allocate(model, [data[0]], *data, **arguments)  # type: ignore[arg-type]
