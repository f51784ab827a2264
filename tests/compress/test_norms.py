"""Batch norms get the averages of what the finished model puts out, and nothing else of it changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress import reestimate_batch_norms
from robustlab.core.errors import ArgumentError, RobustlabError
from robustlab.models import build


def images(count: int = 24) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def network(architecture: str = "robustlab:signs_resnet", **arguments: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(architecture, {"classes": 3, "widths": [4, 8], **arguments})


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_float_model_gets_what_torchs_own_re_estimation_gives() -> None:
    model, reference = network(blocks=[1, 1]), network(blocks=[1, 1])
    assert reestimate_batch_norms(model, images(), batch_size=8) == len(norms(model))
    torch.optim.swa_utils.update_bn(images().split(8), reference)
    for mine, other in zip(norms(model), norms(reference), strict=True):
        torch.testing.assert_close(mine.running_mean, other.running_mean)
        torch.testing.assert_close(mine.running_var, other.running_var)


def test_batches_differ_by_one_at_most_and_bytes_are_images() -> None:
    whole, uneven = network(blocks=[1, 1]), network(blocks=[1, 1])
    codes = (images(25) * 255).round().to(torch.uint8)
    reestimate_batch_norms(whole, codes.float() / 255, batch_size=9)
    reestimate_batch_norms(uneven, codes, batch_size=12)  # two batches: 13 and 12, not 12, 12 and 1
    sizes: list[int] = []
    uneven.stem.register_forward_hook(lambda _m, _i, output: sizes.append(len(output)))
    reestimate_batch_norms(uneven, codes, batch_size=12)
    assert sizes == [13, 12]
    for mine, other in zip(norms(whole), norms(uneven), strict=True):
        assert torch.equal(mine.running_mean, other.running_mean)  # type: ignore[arg-type]
        assert torch.equal(mine.running_var, other.running_var)  # type: ignore[arg-type]


def test_statistics_are_those_of_the_quantized_layer_and_the_rest_stays() -> None:
    float_model = network("robustlab:cifar_bireal", steps=[1, 1])
    model = rl.compress(float_model, weights=1, activations=1, algorithm="recu", calibration=images(8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    inputs: list[Tensor] = []
    model.body[0].conv.register_forward_hook(lambda _m, _i, output: inputs.append(output.detach()))
    reestimate_batch_norms(model, images())
    norm = model.body[0].bn
    torch.testing.assert_close(norm.running_mean, inputs[0].mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, inputs[0].var(dim=(0, 2, 3)))
    assert norm.momentum == 0.1 and [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == ("running" not in name), name


def test_compress_fits_norms_to_signs_and_leaves_those_of_more_bits_alone() -> None:
    float_model = network("robustlab:cifar_bireal", steps=[1, 1])
    kept = {name: value for name, value in float_model.state_dict().items() if "running" in name}
    options = {"calibration": images().split(12), "algorithm": "lsq"}
    quantized = rl.compress(float_model, weights=4, activations=4, **options).state_dict()  # type: ignore[arg-type]
    assert all(torch.equal(quantized[name], value) for name, value in kept.items())
    options["algorithm"] = "react"
    binary = rl.compress(float_model, weights=1, activations=1, **options)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    binary.body[1].bn.register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
    with torch.no_grad():
        binary(images()[:12])
    deviation = seen[0].std(dim=(0, 2, 3)) / binary.body[1].bn.weight.detach().abs()
    torch.testing.assert_close(deviation, torch.ones(8), rtol=0.05, atol=0.05)


def test_a_model_without_running_statistics_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert reestimate_batch_norms(model, images()) == 0


def test_bad_images_are_refused_and_a_failure_leaves_the_model() -> None:
    model = network(blocks=[1, 1])
    for wrong in (images()[0], images().double(), images()[:1], images() * 2):
        with pytest.raises(ArgumentError, match="images"):
            reestimate_batch_norms(model, wrong)
    with pytest.raises(ArgumentError, match="batch_size"):
        reestimate_batch_norms(model, images(), batch_size=1)
    with torch.no_grad():
        model.stem.weight[0, 0, 0, 0] = float("inf")
    before = [norm.running_mean.clone() for norm in norms(model)]  # type: ignore[union-attr]
    with pytest.raises(RobustlabError, match="NaN or infinite"):
        reestimate_batch_norms(model, images())
    for norm, mean in zip(norms(model), before, strict=True):
        assert torch.equal(norm.running_mean, mean)  # type: ignore[arg-type]
        assert norm.momentum == 0.1 and not norm.training
