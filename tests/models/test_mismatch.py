"""Mismatches of the deployed model: one thing changes, in a copy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustlab.core.errors import ArgumentError
from robustlab.models import build, info_of, set_info
from robustlab.models.blocks import Normalized
from robustlab.models.info import ModelInfo
from robustlab.models.mismatch import (
    with_ceil_mode,
    with_channels_last,
    with_normalization,
    with_symmetric_padding,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(3, 4, 3, 2),
        nn.MaxPool2d(2, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    model = Normalized(inner, (0.5,) * 3, (0.5,) * 3).eval()
    return set_info(model, ModelInfo(name="net", architecture="robustlab:net"))


def test_each_changes_what_it_says_and_leaves_the_original() -> None:
    model, images = network(), torch.rand(2, 3, 18, 18)
    inner = model.get_submodule("network")
    assert isinstance(inner, nn.Sequential)
    before = model(images)
    other = with_normalization(model, (0.4,) * 3, (0.2,) * 3)
    assert torch.allclose(other(images), inner((images - 0.4) / 0.2))
    padded = with_symmetric_padding(model)
    x = torch.nn.functional.pad((images - 0.5) / 0.5, (1, 1, 1, 1))
    assert torch.allclose(padded(images), inner[1:](x)) and not torch.allclose(padded(images), before)
    ceil = with_ceil_mode(model, True)
    seen: list[torch.Size] = []
    ceil.get_submodule("network.2").register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    ceil(images)
    assert seen[0][-2:] == (5, 5)  # of 9 x 9; rounded down it is 4 x 4
    last = with_channels_last(model)
    assert torch.allclose(last(images), before, atol=1e-6)
    assert torch.equal(model(images), before)
    names = [info.name for m in (other, padded, ceil, last) if (info := info_of(m)) is not None]
    assert names == ["net+normalization", "net+symmetric", "net+ceil", "net+channels-last"]
    infos = [info_of(m) for m in (other, last)]
    assert all(info is not None and info.architecture == f"custom:{info.name}" for info in infos)


def test_where_there_is_nothing_to_change_it_says_so() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 2, 1))
    for change in (
        lambda: with_normalization(plain, (0.5,) * 3, (0.5,) * 3),
        lambda: with_ceil_mode(plain, True),
        lambda: with_ceil_mode(network(), False),
        lambda: with_symmetric_padding(plain),
    ):
        with pytest.raises(ArgumentError, match="model is"):
            change()


def test_mobilenet_keeps_its_sizes() -> None:
    model = build("robustlab:mobilenet_v2_same", {"classes": 3})
    assert with_symmetric_padding(model)(torch.rand(1, 3, 64, 64)).shape == (1, 3)
