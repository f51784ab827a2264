"""What has to hold between quantizers on weights and inputs of known distributions, and on a pretrained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.algorithms.bnn import PlainSign
from robustlab.compress.algorithms.dab import AdaptiveSign
from robustlab.compress.algorithms.dorefa import LayerSign
from robustlab.compress.algorithms.lpb import TwoPlaneSign
from robustlab.compress.algorithms.lsq import StepWeight
from robustlab.compress.coders import WeightCoder
from robustlab.compress.learned import fitted_step
from robustlab.compress.observers import OBSERVERS, weight_scale
from robustlab.compress.ptq import GPTQ, METHODS
from robustlab.compress.ptq.gptq import quadratic_error, solve
from robustlab.compress.ptq.grid import nearest_codes
from robustlab.compress.ptq.reconstruction import Reconstruction
from robustlab.compress.quantizers import LearnedScaleSign, WeightBinarizer, WeightQuantizer
from robustlab.core import Tiled


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def laplace(rows: int, columns: int) -> Tensor:
    u = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    return (-u.sign() * (1 - 2 * u.abs()).log()).float()


def student(rows: int, columns: int) -> Tensor:
    """Four degrees of freedom."""
    squares = normal(4 * rows, columns, 1).square().reshape(4, rows, columns).mean(0)
    return normal(rows, columns) / squares.sqrt()


def outliers(rows: int, columns: int) -> Tensor:
    """One column of a hundred is eight times as large."""
    weight = normal(rows, columns)
    weight[:, : columns // 100] *= 8
    return weight


def uniform(rows: int, columns: int) -> Tensor:
    return 2 * torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)) - 1


WEIGHTS: dict[str, Callable[[int, int], Tensor]] = {
    "gauss": normal,
    "laplace": laplace,
    "student": student,
    "outliers": outliers,
    "shifted": lambda rows, columns: normal(rows, columns) + 0.3,
    "uniform": uniform,
}


def pretrained() -> dict[str, Tensor]:
    model = rl.load("robustlab:signs_float")
    layers = {n: m.weight.detach() for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    return {name: weight.flatten(1) for name, weight in layers.items()}


def matrices() -> dict[str, Tensor]:
    return {name: draw(64, 512) for name, draw in WEIGHTS.items()} | pretrained()


def relative(weight: Tensor, coder: WeightCoder) -> float:
    """|W - Q(W)|^2 / |W|^2."""
    with torch.no_grad():
        return float((coder(weight) - weight).square().sum() / weight.square().sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_grid_of_least_error_is_never_worse_than_another(bits: int) -> None:
    for name, weight in matrices().items():
        errors = {rule: relative(weight, WeightQuantizer(bits, rule)) for rule in ("mse", "minmax")}
        assert errors["mse"] <= errors["minmax"], name
        finer = relative(weight, WeightQuantizer(min(bits + 1, 8), "mse"))
        assert finer <= errors["mse"], name


def test_the_published_errors_of_one_and_two_bits() -> None:
    """Max 1960 for four uniform levels on a Gaussian, 1 - 2 / pi for its sign; a uniform row leaves 1/16 and 1/4."""
    rows = {name: draw(256, 1024) for name, draw in WEIGHTS.items()}
    centred = {name: w - w.mean(1, keepdim=True) for name, w in rows.items()}
    share = {name: float(centred[name].square().sum() / w.square().sum()) for name, w in rows.items()}
    signs = {name: relative(w, WeightBinarizer()) * share[name] for name, w in centred.items()}
    wanted = {"gauss": 0.3635, "laplace": 0.4985, "shifted": 0.3341, "uniform": 0.2494}
    assert {name: signs[name] for name in wanted} == pytest.approx(wanted, abs=0.004)
    assert signs["student"] == pytest.approx(0.497, abs=0.01) and signs["outliers"] == pytest.approx(0.551, abs=0.01)

    def four_levels(weight: Tensor) -> float:
        return relative(weight, StepWeight(weight, 2, fitted_step(weight, -1.5, 1.5, half=True)))

    assert four_levels(rows["gauss"]) == pytest.approx(0.1188, abs=0.004)
    assert four_levels(rows["uniform"]) == pytest.approx(1 / 16, abs=0.004)
    for name, weight in matrices().items():  # four levels around zero beat the three that have it
        if name != "outliers":
            assert four_levels(weight) < relative(weight, WeightQuantizer(2, "mse")), name


def test_a_scale_of_its_own_for_every_channel_is_never_worse() -> None:
    for name, weight in matrices().items():
        own, layer, none = (relative(weight, coder) for coder in (WeightBinarizer(), LayerSign(), PlainSign()))
        assert own <= layer * (1 + 1e-6), name
        assert own <= none * (1 + 1e-6), name


CODERS: dict[str, Callable[[Tensor], WeightCoder]] = {
    **{f"minmax {bits}": (lambda _, bits=bits: WeightQuantizer(bits, "minmax")) for bits in (2, 3, 4, 8)},  # type: ignore[misc]
    "lsq 2": lambda w: StepWeight(w, 2, fitted_step(w, -1.5, 1.5, half=True)),
    "lsq 4": lambda w: StepWeight(w, 4, fitted_step(w, -7, 7, half=False)),
    "sign, mean": lambda _: WeightBinarizer(),
    "sign, learned": LearnedScaleSign,
    "sign, layer": lambda _: LayerSign(),
    "sign": lambda _: PlainSign(),
}


@pytest.mark.parametrize("name", CODERS)
def test_what_is_quantized_once_stays_as_it_is(name: str) -> None:
    for weight in matrices().values():
        coder = CODERS[name](weight)
        with torch.no_grad():
            once = coder(weight)
            assert torch.allclose(coder(once), once, rtol=1e-5)
            assert torch.equal(coder.codes(once)[0], coder.codes(weight)[0])
            assert max(len(row.unique()) for row in once) <= coder.levels


def test_swept_damping_is_no_worse_on_inputs_that_it_has_not_seen() -> None:
    """With fewer calibration rows than columns GPTQ at the published damping does more harm than plain rounding."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(256, 256, generator=generator, dtype=torch.float64)).Q
    spread = torch.arange(1, 257, dtype=torch.float64).pow(-0.25)

    def inputs(rows: int) -> Tensor:
        return torch.randn(rows, 256, generator=generator, dtype=torch.float64) * spread @ basis

    weight = normal(64, 256)
    scale = weight_scale(weight, 3, "mse")
    x, unseen = inputs(64), inputs(4096)
    halves = torch.stack([x[0::2].T @ x[0::2], x[1::2].T @ x[1::2]])
    judged = unseen.T @ unseen

    def error(codes: Tensor) -> float:
        return quadratic_error(weight, codes, scale, judged)

    nearest = error(nearest_codes(weight, scale, 3))
    published = error(solve(weight, scale, 3, halves.sum(0), 0.01, "natural"))
    swept = error(GPTQ()._group_codes(weight, scale, 3, halves))
    assert published > 1.5 * nearest  # the regime of the published warning
    assert swept < 0.7 * published


def shapes() -> dict[str, Tensor]:
    """Inputs (8, 16, 12, 12): the distributions, and three kinds of offset."""
    drawn = {name: draw(8 * 16, 144).reshape(8, 16, 12, 12) for name, draw in WEIGHTS.items()}
    gauss = drawn["gauss"]
    drawn["channel offsets"] = gauss + 2 * normal(1, 16, 3).reshape(1, 16, 1, 1)
    drawn["brightness"] = gauss + 2 * normal(8, 1, 4).reshape(8, 1, 1, 1)
    return drawn


def test_a_second_plane_never_errs_more_than_one() -> None:
    for name, x in shapes().items():
        planes = TwoPlaneSign(16, rows=False)
        planes.start(x)
        one = x.abs().mean() * torch.where(x < 0, -1.0, 1.0)
        with torch.no_grad():
            assert (planes(x) - x).square().sum() < (one - x).square().sum(), name


def entropy(signs: Tensor) -> float:
    """Bits per sign, of every image, the least of them."""
    share = (signs > 0).double().flatten(1).mean(1)
    bits = -(share * share.log2() + (1 - share) * (1 - share).log2()).nan_to_num(0)
    return float(bits.min())


def test_adaptive_thresholds_keep_the_entropy_of_signs_at_one_bit() -> None:
    """And reconstruct images of any brightness better than thresholds that are the same for all of them."""
    x = normal(64, 16 * 144).reshape(64, 16, 12, 12) + normal(64, 1, 4).reshape(64, 1, 1, 1)
    adaptive, fixed = AdaptiveSign(16), AdaptiveSign(16)
    with torch.no_grad():
        adaptive.gain.fill_(1.0)
        fixed.offset.copy_(x.mean((0, 2, 3)))  # the best that does not see the sample
        assert entropy(adaptive(x)) > 0.995 and entropy(fixed(x)) < 0.8

        def error(coder: AdaptiveSign) -> float:
            threshold = (coder.gain.reshape(1, -1, 1, 1) * x.mean((2, 3), keepdim=True)) + coder.offset.reshape(
                -1, 1, 1
            )
            u = x - threshold
            scale = u.abs().mean((1, 2, 3), keepdim=True)
            return float((threshold + scale * coder(x).sign() - x).square().sum() / x.square().sum())

        assert error(adaptive) < 0.7 * error(fixed) and error(adaptive) < 0.7 * error(AdaptiveSign(16))


SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def signs() -> tuple[nn.Module, Tensor, Tensor]:
    """(the bundled float model, calibration images, test images)."""
    train, test = (rl.datasets.load_dataset("signs", split=split) for split in ("train", "test"))
    return rl.load("robustlab:signs_float"), train.batch(range(48))[0], test.batch(range(64))[0]


@pytest.mark.parametrize("bits", [3, 2])
@pytest.mark.parametrize("name", [*OBSERVERS, *(pytest.param(name, marks=SLOW) for name in METHODS)])
def test_statistics_correction_lowers_the_divergence_at_few_bits(
    name: str, bits: int, signs: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, calibration, images = signs
    method = METHODS.get(name, name)
    if isinstance(method, Reconstruction):
        method = replace(method, iterations=10, batch_size=16)

    def divergence(corrected: bool) -> float:
        small = rl.compress(
            model, weights=bits, activations=bits, algorithm=method, calibration=calibration,
            statistics_correction=corrected,
        )  # fmt: skip
        with torch.no_grad():
            found, wanted = (Tiled(m)(images).log_softmax(1) for m in (rl.deploy(small), model))
        return float(F.kl_div(found, wanted, reduction="batchmean", log_target=True))

    assert divergence(True) < divergence(False)
