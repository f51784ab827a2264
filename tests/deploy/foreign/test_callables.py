"""Python functions as models that give scores, or only labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import robustlab as rl
from robustlab.core import ArgumentError, RobustlabError, Tiled
from robustlab.core.access import access_of, gives
from robustlab.deploy import fingerprint

WEIGHT = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def scores(x: Tensor) -> Tensor:
    return x.mean((2, 3)) @ WEIGHT


def labels(x: np.ndarray) -> np.ndarray:
    answer: np.ndarray = scores(torch.from_numpy(x)).argmax(1).numpy()
    return answer


def test_scores_and_labels_are_handed_on() -> None:
    by_score = rl.CallableModel(scores, 4)
    by_label = rl.CallableModel(labels, 4, access="labels", arrays="numpy")
    assert torch.equal(by_score(IMAGES), scores(IMAGES))
    assert torch.equal(by_label(IMAGES).argmax(1), scores(IMAGES).argmax(1))
    assert torch.equal(by_label(IMAGES).sum(1), torch.ones(6))
    assert (access_of(by_score), access_of(by_label)) == ("scores", "labels")
    assert gives(by_score, "labels") and not gives(by_label, "scores")


def test_an_attack_that_needs_more_says_so_before_it_asks() -> None:
    asked: list[int] = []

    def counting(x: Tensor) -> Tensor:
        asked.append(len(x))
        return scores(x)

    truth = scores(IMAGES).argmax(1)
    model = rl.CallableModel(counting, 4)
    for attack, victim, need in (
        (rl.attacks.PGD(rl.Linf(0.1)), model, "gradient"),
        (rl.attacks.Square(rl.Linf(0.1), steps=5), rl.CallableModel(labels, 4, access="labels"), "scores"),
    ):
        with pytest.raises(ArgumentError, match=f"gives {need}, which {type(attack).__name__} needs"):
            attack(Tiled(victim, 4), IMAGES, truth)
    assert asked == []
    assert rl.attacks.Square(rl.Linf(0.1), steps=5)(model, IMAGES, truth).shape == IMAGES.shape


@pytest.mark.parametrize(
    ("answer", "access", "found"),
    [
        (torch.zeros(6, 3), "scores", r"\(6, 3\)"),
        (torch.zeros(6, 4, dtype=torch.int64), "scores", "int64"),
        ([1, 2], "scores", "list"),
        (torch.zeros(6), "labels", "float32"),
        (torch.full((6,), 4), "labels", "from 4 to 4"),
        (torch.zeros(5, dtype=torch.int64), "labels", r"\(5,\)"),
    ],
)
def test_other_answers_are_refused(answer: Any, access: Any, found: str) -> None:
    with pytest.raises(RobustlabError, match=found):
        rl.CallableModel(lambda x: answer, 4, access=access)(IMAGES)


def test_what_runs_elsewhere_is_neither_compressed_nor_saved(tmp_path: Path) -> None:
    model = rl.CallableModel(scores, 4)
    with pytest.raises(ArgumentError, match="a model that torch runs"):
        rl.compress(model, weights=8, activations=8, calibration=IMAGES)
    with pytest.raises(ArgumentError, match="a deployed model"):
        rl.save(model, tmp_path / "m.safetensors")


def test_only_a_named_identity_is_the_same_model_again() -> None:
    first, second = (rl.CallableModel(scores, 4) for _ in range(2))
    assert fingerprint(first) == fingerprint(first) != fingerprint(second)
    first, second = (rl.CallableModel(scores, 4, identity="v1") for _ in range(2))
    assert fingerprint(first) == fingerprint(second)


@pytest.mark.parametrize(
    "arguments", [{"function": 3}, {"classes": 1}, {"access": "gradient"}, {"arrays": "jax"}, {"identity": ""}]
)
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        rl.CallableModel(**{"function": scores, "classes": 4, **arguments})
