"""Models that round are attacked for what they are, and the results say by which gradient."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.core.keys import sample_keys, uniform
from robustlab.evaluate.differentiable import OWN, STRAIGHT, differentiable


def _codes(x: Tensor) -> Tensor:
    return (x * 16).round().to(torch.uint8).float() / 16


ROUNDINGS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "none": (lambda x: x, "exact"),
    "round": (lambda x: torch.round(x * 16) / 16, STRAIGHT),
    "cast": (_codes, STRAIGHT),
    "sign": (lambda x: torch.sign(x - 0.5) / 8, STRAIGHT),
    "compared": (lambda x: (x > 0.5).float() / 8, STRAIGHT),
    "estimated": (lambda x: x + (torch.round(x * 16) / 16 - x).detach(), OWN),
    "faked": (lambda x: torch.fake_quantize_per_tensor_affine(x, 1 / 16, 0, 0, 16), OWN),
    "wrapped": (lambda x: x - torch.floor(x - 0.5) / 64, OWN),
    "gated": (lambda x: x * (x > 0.1), "exact"),
    "cut": (lambda x: x.detach(), "none"),
}


class Rounded(nn.Module):
    """Linear in what a function makes of its images."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 48, generator=torch.Generator().manual_seed(2)))
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images).flatten(1) @ self.weight.T


class Labelled:
    """Images that the network without rounding gets right."""

    name, class_names, image_size, fingerprint = "labelled", ("a", "b", "c"), (4, 4), "1d"

    def __len__(self) -> int:
        return 24

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        images = uniform(sample_keys(5, "labelled", list(indices)), (3, 4, 4))
        with torch.no_grad():
            return images, Rounded(lambda x: x)(images).argmax(1)


@pytest.mark.parametrize("name", ROUNDINGS)
def test_the_gradient_of_a_model_that_rounds_is_found_and_named(name: str) -> None:
    function, kind = ROUNDINGS[name]
    model = Rounded(function)
    images, _ = Labelled().batch(range(8))
    found = differentiable(name, model, images, 8)
    assert found.gradient == kind
    assert torch.equal(found.model(images), model(images))
    assert (found.model is model) == (kind != STRAIGHT)
    assert model.weight.requires_grad and model.training


def test_a_plain_round_is_evaluated_as_its_straight_through_twin_is(tmp_path: Path) -> None:
    function = ROUNDINGS["round"][0]
    models = {"round": Rounded(function), "twin": Rounded(lambda x: x + (function(x) - x).detach())}
    data: Any = Labelled()
    results = rl.evaluate(models, data, ["clean", "pgd10-linf-32of255"], out=tmp_path, tile=8, efficiency=False)
    attacked = {name: results.cell(name, "pgd10-linf-32of255") for name in models}
    assert attacked["round"]["accuracy"] == attacked["twin"]["accuracy"] < results.cell("round", "clean")["accuracy"]
    assert (attacked["round"]["gradient"], attacked["twin"]["gradient"]) == (STRAIGHT, OWN)
    described = json.loads((tmp_path / "results.json").read_text())["run"]["configuration"]["models"]
    assert described["round"]["gradient"] == STRAIGHT
