"""The CIFAR-10 ResNet-20 of ROBUSTLAB_DATA, quantized after training."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.ptq import GPTQ, AdaRound, Method, QDrop
from robustlab.core import Tiled

REAL = Path(os.environ.get("ROBUSTLAB_DATA") or Path(__file__).parents[4] / "shared" / "data")
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="ROBUSTLAB_DATA names no folder of real data")


def images(name: str, count: int) -> Tensor:
    with np.load(REAL / "cifar10" / name) as arrays:
        x = torch.from_numpy(arrays["x"][:count])
    return (x.permute(0, 3, 1, 2).float() / 255).contiguous()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTLAB_DATA", str(REAL))
        return rl.load("robustlab:cifar_resnet20").eval()


def divergence(model: nn.Module, reference: nn.Module, x: Tensor) -> tuple[float, float]:
    """(KL divergence of the predictions, share of equal ones)."""
    with torch.no_grad():
        found, wanted = Tiled(rl.deploy(model))(x), Tiled(reference)(x)
    kl = nn.functional.kl_div(found.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)
    return float(kl), float((found.argmax(1) == wanted.argmax(1)).float().mean())


def test_minmax_takes_less_than_five_seconds_and_eight_bits_agree_with_float(resnet: nn.Module) -> None:
    start = time.process_time()
    small = rl.compress(
        resnet, weights=8, activations=8, algorithm="minmax", calibration=list(images("train4000.npz", 256).split(64))
    )
    assert time.process_time() - start < 5
    kl, agreement = divergence(small, resnet, images("test1000.npz", 256))
    assert kl < 0.005 and agreement >= 0.98


def test_gptq_and_the_correction_bring_four_bits_closer_to_float(resnet: nn.Module) -> None:
    x, judged = images("train4000.npz", 64), images("test1000.npz", 256)
    options = {"weights": 4, "activations": 4, "calibration": x}
    plain, _ = divergence(rl.compress(resnet, algorithm="mse", **options), resnet, judged)
    better, agreement = divergence(rl.compress(resnet, algorithm="gptq", **options), resnet, judged)
    assert better < 0.7 * plain and agreement > 0.93
    corrected, _ = divergence(
        rl.compress(resnet, algorithm="mse", statistics_correction=True, **options), resnet, judged
    )
    assert corrected < 0.8 * plain


@pytest.mark.slow
@pytest.mark.parametrize("method", [AdaRound(iterations=100), QDrop(iterations=200)])
def test_learned_rounding_beats_gptq_at_three_bits(method: Method, resnet: nn.Module) -> None:
    x, judged = list(images("train4000.npz", 256).split(64)), images("test1000.npz", 1000)
    options = {"weights": 3, "activations": 3, "calibration": x}
    gptq, _ = divergence(rl.compress(resnet, algorithm=GPTQ(), **options), resnet, judged)
    learned, agreement = divergence(rl.compress(resnet, algorithm=method, **options), resnet, judged)
    assert learned < gptq and agreement > 0.9
