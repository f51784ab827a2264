"""GPTQ against the published step written out with NumPy, and the inequalities it has to keep."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress.layers import CompressedConv2d, CompressedLinear
from robustlab.compress.observers import weight_scale
from robustlab.compress.ptq import GPTQ, Work
from robustlab.compress.ptq.capture import collect
from robustlab.compress.ptq.gptq import columns_of, quadratic_error, solve
from robustlab.compress.ptq.grid import held, nearest_codes
from robustlab.core.errors import ArgumentError


def correlated(rows: int, columns: int, decay: float, seed: int) -> Tensor:
    """Inputs whose covariance has the eigenvalues k^-decay, float64 (rows, columns)."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64)).Q
    spread = torch.arange(1, columns + 1, dtype=torch.float64).pow(-decay / 2)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) * spread @ basis


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 8), st.sampled_from([0.001, 0.1, 1.0]), st.sampled_from(["natural", "diagonal"]), st.integers(0, 99)
)
def test_inputs_that_are_not_correlated_leave_plain_rounding(bits: int, damping: float, order: str, seed: int) -> None:
    weight = torch.randn(6, 140, generator=torch.Generator().manual_seed(seed))
    scale = weight_scale(weight, bits, "mse")
    hessian = 3.0 * torch.eye(140, dtype=torch.float64)
    assert torch.equal(solve(weight, scale, bits, hessian, damping, order), nearest_codes(weight, scale, bits))


@pytest.mark.parametrize("order", ["natural", "diagonal"])
@pytest.mark.parametrize("size", [5, 150])
def test_codes_equal_those_of_the_step_by_step_formula(order: str, size: int) -> None:
    """w_F -= (w_j - q) / [H_F^-1]_jj * [H_F^-1]_j,: with the inverse of what is left taken anew for every column."""
    x = correlated(400, size, 1.0, 3) * torch.linspace(0.5, 2, size, dtype=torch.float64)
    weight = torch.randn(4, size, generator=torch.Generator().manual_seed(1))
    scale = weight_scale(weight, 3, "minmax")
    hessian = (x.T @ x).numpy()
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(size)
    columns = list(range(size)) if order == "natural" else list(np.argsort(-np.diag(hessian), kind="stable"))
    rest, steps = weight.double().numpy().copy(), scale.double().numpy()
    expected = np.zeros_like(rest)
    for position, j in enumerate(columns):
        left = columns[position:]
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        expected[:, j] = np.clip(np.rint(rest[:, j] / steps), -3, 3)
        error = (rest[:, j] - expected[:, j] * steps) / inverse[0, 0]
        rest[:, left] -= error[:, None] * inverse[0][None]
    found = solve(weight, scale, 3, torch.from_numpy(hessian), 0.01, order)
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("order", ["natural", "diagonal"])
@pytest.mark.parametrize("decay", [0.5, 1.0, 1.5])
def test_correlated_inputs_are_rounded_with_less_error(decay: float, order: str) -> None:
    x, held_out = correlated(2048, 256, decay, 0), correlated(2048, 256, decay, 0).flip(0)
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(5))
    scale = weight_scale(weight, 3, "mse")
    hessian = x.T @ x
    plain = quadratic_error(weight, nearest_codes(weight, scale, 3), scale, hessian)
    found = quadratic_error(weight, solve(weight, scale, 3, hessian, 0.01, order), scale, hessian)
    assert found < {0.5: 0.95, 1.0: 0.6, 1.5: 0.3}[decay] * plain
    assert quadratic_error(weight, nearest_codes(weight, scale, 3), scale, held_out.T @ held_out) == pytest.approx(
        plain
    )


def test_a_silent_input_is_rounded_to_nearest_and_harms_nobody() -> None:
    x = correlated(300, 12, 1.0, 2)
    x[:, 4] = 0
    weight = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    scale = weight_scale(weight, 4, "minmax")
    codes = solve(weight, scale, 4, x.T @ x, 0.01, "natural")
    assert torch.equal(codes[:, 4], nearest_codes(weight, scale, 4)[:, 4])
    rest = [i for i in range(12) if i != 4]
    # The damping is a share of the mean diagonal, which the silent column lowers by 11 / 12.
    without = solve(weight[:, rest], scale, 4, (x.T @ x)[rest][:, rest], 0.01 * 11 / 12, "natural")
    assert torch.equal(codes[:, rest], without)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2),
        nn.Conv2d(4, 8, (1, 3), padding=(2, 0), groups=4),
        nn.Conv2d(4, 5, 2),
    ],
)
def test_im2col_rows_times_weights_are_the_convolution(layer: nn.Conv2d) -> None:
    small = CompressedConv2d(layer, 4, 4, "minmax")
    x = torch.rand(3, 4, 9, 7, generator=torch.Generator().manual_seed(0))
    rows = columns_of(small, x)
    weight = small.weight.detach().flatten(1).reshape(layer.groups, -1, rows.shape[-1])
    with torch.no_grad():
        expected = F.conv2d(x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    found = (rows @ weight.transpose(1, 2)).reshape(layer.groups, 3, *expected.shape[2:], -1)
    assert torch.allclose(found.permute(1, 0, 4, 2, 3).flatten(1, 2), expected, atol=1e-5)


def test_im2col_of_tokens_is_the_tokens() -> None:
    small = CompressedLinear(nn.Linear(5, 2), 4, 4, "minmax")
    assert columns_of(small, torch.zeros(3, 7, 5)).shape == (1, 21, 5)


def test_no_layer_ends_with_more_calibration_error_than_plain_rounding(
    network: nn.Module, work: Callable[..., Work]
) -> None:
    """Every layer on the inputs it was rounded for: those behind the layers before it, rounded already."""
    job = work(network, 3)
    weights = {name: layer.weight.detach().clone() for name, layer, _ in job.layers()}
    GPTQ().apply(job)
    better = 0
    for name, layer, quantizer in job.layers():
        codes, scale = held(layer)
        inputs, _ = collect(job.model, job.batches, name, inputs=True, outputs=False)
        x = columns_of(layer, quantizer(inputs))[0].double()
        flat = weights[name].flatten(1)
        found = quadratic_error(flat, codes.flatten(1), scale, x.T @ x)
        plain = quadratic_error(flat, nearest_codes(flat, scale, 3), scale, x.T @ x)
        assert found <= plain * (1 + 1e-6)
        better += found < 0.9 * plain
    assert better >= 4


def test_depthwise_layers_are_rounded_group_by_group(images: Callable[..., Tensor]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, groups=8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 4),
        )
    x = images(32, 1)
    with torch.no_grad():
        wanted = model(images(32, 2))
        errors = {
            name: float(
                (rl.compress(model, weights=3, activations=8, calibration=x, algorithm=name)(images(32, 2)) - wanted)
                .square()
                .mean()
            )
            for name in ("mse", "gptq")
        }
    assert errors["gptq"] < errors["mse"]


def test_a_layer_of_576_inputs_and_64_outputs_takes_less_than_ten_seconds(images: Callable[..., Tensor]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
    start = time.process_time()
    rl.compress(model, weights=4, activations=4, calibration=images(32, 0), algorithm=GPTQ())
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"damping": ()}, "damping"),
        ({"damping": (0.0,)}, "damping"),
        ({"damping": (1e308,)}, "damping"),
        ({"damping": 0.01}, "damping"),
        ({"order": "random"}, "order"),
        ({"observer": "magic"}, "observer"),
    ],
)
def test_bad_hyper_parameters_are_refused(arguments: dict[str, object], word: str) -> None:
    with pytest.raises(ArgumentError, match=word):
        GPTQ(**arguments)  # type: ignore[arg-type]
