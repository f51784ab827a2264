"""Evaluations of models that give less than a gradient, and of models shown the wrong thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import robustlab as rl
from robustlab.deploy import ForeignModel, Preprocessing
from robustlab.evaluate.suspicion import alternatives, suspect
from robustlab.report.view import build_view

WEIGHT = torch.eye(3)


def scores(x: Tensor) -> Tensor:
    return 20 * x.mean((2, 3)) @ WEIGHT


class Coloured:
    """Images of one of three colours."""

    name, class_names, image_size, fingerprint = "coloured", ("red", "green", "blue"), (4, 4), "1c"

    def __len__(self) -> int:
        return 24

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        labels = torch.tensor([i % 3 for i in indices])
        images = torch.full((len(labels), 3, 4, 4), 0.4)
        images[torch.arange(len(labels)), labels] = 0.6
        return images, labels


@pytest.mark.parametrize("suite", ["autoattack", "robustmq"])
def test_suites_leave_out_what_needs_more_than_scores(
    tmp_path: Path, suite: str, caplog: pytest.LogCaptureFixture
) -> None:
    data: Any = Coloured()
    model = rl.CallableModel(scores, 3, name="scored")
    results = rl.evaluate(model, data, suite, out=tmp_path, tile=8, efficiency=False, limit=8)
    assert {row["condition"] for row in results.cells if row["status"] == "done"} == {"clean"}
    left = [row["condition"] for row in results.run["left_out"]]
    assert len(left) == len(results.cells) - 1 and all(row["needs"] == "gradient" for row in results.run["left_out"])
    said = next(r.getMessage() for r in caplog.records if "left out" in r.getMessage())
    assert all(key in said for key in left)
    assert said.endswith(f"no attack of {suite} applies, square5000-linf-8of255 does")


def test_what_a_model_gives_too_little_for_is_left_out_and_said(tmp_path: Path) -> None:
    models = {
        "scored": rl.CallableModel(scores, 3),
        "labelled": rl.CallableModel(lambda x: scores(x).argmax(1), 3, access="labels"),
    }
    conditions = ["clean", "pgd2-linf-8of255", "square5-linf-64of255"]
    data: Any = Coloured()
    results = rl.evaluate(models, data, conditions, out=tmp_path, tile=8, efficiency=False)
    status = {(row["model"], row["condition"]): row["status"] for row in results.cells}
    assert status["scored", "pgd2-linf-8of255"] == status["labelled", "square5-linf-64of255"] == "not_attacked"
    assert status["scored", "square5-linf-64of255"] == "done"
    left = json.loads((tmp_path / "results.json").read_text())["run"]["left_out"]
    assert [(row["model"], row["needs"], row["gives"]) for row in left] == [
        ("scored", "gradient", "scores"),
        ("labelled", "gradient", "labels"),
        ("labelled", "scores", "labels"),
    ]
    page = tmp_path / "report.html"
    results.report(page)
    assert "labelled gives labels, and scores are needed by square5-linf-64of255" in page.read_text()
    columns = {str(column.header): list(column.cells) for column in results.table().columns}
    shown = {name: [cell == "left out" for cell in columns[name][:3]] for name in models}
    assert shown == {"scored": [False, True, False], "labelled": [False, True, True]}
    assert not results.table().caption
    view = build_view(results)
    worst = {row.name: row.worst.condition if row.worst else None for row in view.models}
    assert worst == {"scored": "square5-linf-64of255", "labelled": None}


def test_faults_of_bits_that_are_elsewhere_are_left_out(tmp_path: Path) -> None:
    here = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
    models = {"here": here.eval(), "elsewhere": rl.CallableModel(scores, 3)}
    conditions = ["clean", "faults-random-2"]
    data: Any = Coloured()
    results = rl.evaluate(models, data, conditions, out=tmp_path, tile=8, efficiency=False)
    status = {(row["model"], row["condition"]): row["status"] for row in results.cells}
    assert status["here", conditions[1]] == "done" and status["elsewhere", conditions[1]] == "not_attacked"
    assert results.run["left_out"] == [
        {"model": "elsewhere", "condition": conditions[1], "needs": "bits", "gives": "scores"}
    ]


class _Shown(ForeignModel):
    """Right only for images that are shown as `wanted` says."""

    def __init__(self, given: Preprocessing, wanted: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = given
        self.wanted = wanted

    def forward(self, images: Tensor) -> Tensor:
        right = scores(images)
        return right if self.preprocessing == self.wanted else right.flip(1) * torch.tensor([1.0, -1.0, 1.0])


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_a_wrong_preprocessing_is_suspected_and_the_right_one_named(channels: str) -> None:
    images, labels = Coloured().batch(range(24))
    given = Preprocessing()
    wanted = next(o for o in alternatives(given) if o.channels == channels and o.pixel_range == 255 and any(o.mean))
    model = _Shown(given, wanted)
    suspicion = suspect(model, images, labels)
    assert suspicion is not None and suspicion.better == wanted
    assert f"--channels {channels} --pixel-range 255 --mean 123.675" in suspicion.text.replace("103.53", "123.675")
    assert model.preprocessing == given
    assert suspect(_Shown(wanted, wanted), images, labels) is None
    hopeless = suspect(_Shown(given, Preprocessing((9, 9, 9))), images, labels)
    assert hopeless is not None and hopeless.better is None and "no usual preprocessing" in hopeless.text
