"""Signs behind a ReLU are always +1: `compress` says so, and only then."""

from __future__ import annotations

import logging

import pytest
import torch

import robustlab as rl
from robustlab.models import build


def warnings_of(caplog: pytest.LogCaptureFixture, architecture: str, arguments: dict[str, object], name: str) -> str:
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(architecture, {"classes": 3, **arguments})
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="robustlab.compress"):
        rl.compress(model, weights=1, activations=1, algorithm=name, calibration=images.split(4))
    return caplog.text


RELU = ("robustlab:signs_resnet", {"widths": [4, 8], "blocks": [1, 1]})


@pytest.mark.parametrize("algorithm", ["binary", "bnn", "xnor", "dorefa", "bireal", "xnor++", "recu", "fda", "irnet"])
def test_plain_signs_behind_a_relu_are_named(algorithm: str, caplog: pytest.LogCaptureFixture) -> None:
    text = warnings_of(caplog, *RELU, algorithm)
    assert "stages.0.conv1, stages.0.conv2, stages.1.conv1 and 2 more" in text
    assert "never negative" in text and "Hardtanh or PReLU" in text and "react" in text


@pytest.mark.parametrize("algorithm", ["react", "lpb", "dab"])
def test_learned_thresholds_are_not(algorithm: str, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, *RELU, algorithm) == ""


def test_a_network_with_two_sided_inputs_is_not(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, "robustlab:cifar_bireal", {"widths": [4, 8], "steps": [1, 2]}, "bnn") == ""


def test_layers_of_more_bits_are_not(caplog: pytest.LogCaptureFixture) -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.WARNING, logger="robustlab.compress"):
        rl.compress(build(RELU[0], {"classes": 3, **RELU[1]}), weights=2, activations=2, calibration=images)
    assert caplog.text == ""
