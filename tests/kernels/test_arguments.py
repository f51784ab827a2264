"""Bad arguments are refused before any work; the operators keep torch's rules; a backend can be forced."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustlab import kernels
from robustlab.core import ArgumentError
from robustlab.kernels import ActivationSpec, ConvGeometry
from robustlab.kernels.ops import flat_form

BINARY_CODES = torch.ones(6, 4, 3, 3, dtype=torch.int8)
BINARY = kernels.pack_weight(torch.ones(6, 4, 3, 3, dtype=torch.int8), 1)
QUANT = kernels.pack_weight(torch.ones(6, 4, 3, 3, dtype=torch.int8), 4, activation_bits=4)
POINT = kernels.pack_weight(torch.ones(6, 4, 1, 1, dtype=torch.int8), 1)
POINT4 = kernels.pack_weight(torch.ones(6, 4, 1, 1, dtype=torch.int8), 1, activation_bits=4)
GROUPED = kernels.pack_weight(torch.ones(6, 2, 3, 3, dtype=torch.int8), 4, groups=2, activation_bits=4)
SPEC = ActivationSpec(0.1, 3, 4)
PLAIN = ConvGeometry()
X = torch.zeros(2, 4, 5, 5)
S = torch.ones(6)

BAD: dict[str, Callable[[], object]] = {
    "channels": lambda: kernels.binary_conv2d(torch.zeros(2, 5, 5, 5), BINARY, S, None, PLAIN),
    "rank": lambda: kernels.binary_conv2d(torch.zeros(4, 5, 5), BINARY, S, None, PLAIN),
    "dtype": lambda: kernels.binary_conv2d(X.double(), BINARY, S, None, PLAIN),
    "image smaller than the kernel": lambda: kernels.binary_conv2d(torch.zeros(2, 4, 2, 5), BINARY, S, None, PLAIN),
    "empty image": lambda: kernels.binary_conv2d(torch.zeros(2, 4, 0, 5), BINARY, S, None, PLAIN),
    "scale length": lambda: kernels.binary_conv2d(X, BINARY, torch.ones(5), None, PLAIN),
    "scale dtype": lambda: kernels.binary_conv2d(X, BINARY, S.double(), None, PLAIN),
    "bias length": lambda: kernels.binary_conv2d(X, BINARY, S, torch.ones(7), PLAIN),
    "bits of a binary layer": lambda: kernels.binary_conv2d(X, QUANT, S, None, PLAIN),
    "groups": lambda: kernels.quant_conv2d(X, GROUPED, SPEC, S, None, PLAIN),
    "weights packed for other activations": lambda: kernels.quant_conv2d(
        X, QUANT, ActivationSpec(0.1, 3, 5), S, None, PLAIN
    ),
    "weights packed for another dilation": lambda: kernels.binary_conv2d(
        X, BINARY, S, None, ConvGeometry(dilation=(1, 2))
    ),
    "padding value": lambda: kernels.quant_conv2d(X, QUANT, SPEC, S, None, ConvGeometry(padding_value="one")),
    "linear width": lambda: kernels.binary_linear(torch.zeros(2, 5), POINT, S, None),
    "linear kernel": lambda: kernels.binary_linear(torch.zeros(2, 4), BINARY, S, None),
    "linear scalar": lambda: kernels.binary_linear(torch.tensor(1.0), POINT, S, None),
    "stride": lambda: ConvGeometry(stride=(0, 1)),
    "padding": lambda: ConvGeometry(padding=(0, -1)),
    "dilation": lambda: ConvGeometry(dilation=(1,)),  # type: ignore[arg-type]
    "unknown padding value": lambda: ConvGeometry(padding_value="reflect"),
    "scale": lambda: ActivationSpec(0.0, 0, 8),
    "scale not finite": lambda: ActivationSpec(float("nan"), 0, 8),
    "scale that is zero in float32": lambda: ActivationSpec(1e-50, 0, 8),
    "zero point": lambda: ActivationSpec(1.0, 16, 4),
    "bits": lambda: ActivationSpec(1.0, 0, 9),
    "backend": lambda: kernels.use_backend("cuda").__enter__(),
    "half precision": lambda: kernels.binary_conv2d(X.half(), BINARY, S, None, PLAIN),
    "codes of weights that were packed for signs": lambda: kernels.quant_conv2d(X, BINARY, SPEC, S, None, PLAIN),
    "no scale": lambda: kernels.binary_conv2d(X, BINARY, None, None, PLAIN),  # type: ignore[arg-type]
    "a scale without data": lambda: kernels.binary_conv2d(X, BINARY, S.to("meta"), None, PLAIN),
    "a bias without data": lambda: kernels.binary_linear(torch.zeros(2, 4), POINT, S, S.to("meta")),
    "no tensor": lambda: kernels.binary_conv2d([0.0], BINARY, S, None, PLAIN),  # type: ignore[arg-type]
    "weights that are not packed": lambda: kernels.binary_conv2d(X, X, S, None, PLAIN),  # type: ignore[arg-type]
    "no geometry": lambda: kernels.binary_conv2d_acc(X, BINARY, None),  # type: ignore[arg-type]
    "no activation": lambda: kernels.quant_conv2d_acc(X, QUANT, None, PLAIN),  # type: ignore[arg-type]
    "huge padding": lambda: kernels.binary_conv2d_acc(X, BINARY, ConvGeometry(padding=(2**31 - 1, 0))),
    "groups that do not divide the outputs": lambda: kernels.pack_weight(BINARY_CODES, 1, groups=4),
    "groups that do not divide the channels": lambda: kernels.quant_conv2d(
        torch.zeros(2, 5, 5, 5), GROUPED, SPEC, S, None, ConvGeometry(groups=2)
    ),
    "half-integer weights of 8 bits with groups": lambda: kernels.pack_weight(
        BINARY_CODES, 8, groups=2, activation_bits=8, zero_point=-0.5
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("backend", kernels.available())
def test_bad_arguments(name: str, backend: str) -> None:
    with kernels.use_backend(backend), pytest.raises(ArgumentError) as error:
        BAD[name]()
    assert "\n" not in str(error.value)
    assert "allowed" in str(error.value)


def test_accumulator_overflow_is_refused() -> None:
    taps = 2**31 // (255 * 127) + 1
    weight = kernels.pack_weight(torch.ones(1, taps, 1, 1, dtype=torch.int8), 8, activation_bits=8)
    with pytest.raises(ArgumentError, match=r"2\^31"):
        kernels.quant_linear(torch.zeros(1, taps), weight, ActivationSpec(1.0, 0, 8), torch.ones(1), None)


def test_operators_check_flat_arguments() -> None:
    place, form = [1, 1, 0, 0, 1, 1, 1, 0], list(flat_form(BINARY.form))
    with pytest.raises(ArgumentError):
        torch.ops.robustlab.binary_conv2d_acc(X, BINARY.data[:-4], form, place)
    with pytest.raises(ArgumentError):
        torch.ops.robustlab.binary_conv2d_acc(X, BINARY.data, form[:4], place)
    with pytest.raises(ArgumentError):
        torch.ops.robustlab.binary_conv2d_acc(X, BINARY.data, form, place[1:])
    with pytest.raises(ArgumentError):
        torch.ops.robustlab.binary_conv2d_acc(X, BINARY.data, form, [*place[:7], 5])


def flat(weight: kernels.PackedWeight) -> list[int]:
    return list(flat_form(weight.form))


SAMPLES: dict[str, tuple[object, ...]] = {
    "binary_conv2d": (X, BINARY.data, flat(BINARY), S, S, [1, 1, 1, 1, 1, 1, 1, 0]),
    "binary_conv2d_acc": (X, BINARY.data, flat(BINARY), [2, 1, 0, 1, 2, 1, 1, 2]),
    "quant_conv2d": (X, QUANT.data, flat(QUANT), 0.1, 3.0, S, None, [1, 1, 1, 1, 1, 1, 1, 0]),
    "quant_conv2d_acc": (X, QUANT.data, flat(QUANT), 0.1, 2.5, [1, 1, 1, 1, 1, 1, 1, 0]),
    "binary_linear": (torch.zeros(2, 3, 4), POINT.data, flat(POINT), S, None),
    "quant_linear": (torch.zeros(2, 3, 4), POINT4.data, flat(POINT4), 0.1, 3.0, S, S),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("backend", kernels.available())
def test_opcheck(name: str, backend: str) -> None:
    with kernels.use_backend(backend):
        operator = getattr(torch.ops.robustlab, name).default
        torch.library.opcheck(operator, SAMPLES[name], test_utils=("test_schema", "test_faketensor"))


def test_every_operator_is_sampled() -> None:
    from robustlab.kernels.ops import SCHEMAS

    assert set(SAMPLES) == set(SCHEMAS)


def run_with(value: str) -> subprocess.CompletedProcess[str]:
    code = "from robustlab import kernels; print(kernels.backend())"
    environment = {**os.environ, "ROBUSTLAB_KERNELS": value}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd="/", capture_output=True, text=True, check=False
    )


def test_environment_variable_forces_a_backend() -> None:
    assert run_with("reference").stdout.strip() == "reference"
    refused = run_with("fast")
    assert refused.returncode != 0
    assert "ROBUSTLAB_KERNELS is 'fast'; allowed: reference" in refused.stderr


def test_info_names_the_backend() -> None:
    info = kernels.info()
    assert info["backend"] == kernels.backend()
    assert info["available"] == list(kernels.available())
    with kernels.use_backend("reference"):
        assert kernels.info()["backend"] == "reference"


def test_weights_stay_as_they_are() -> None:
    before: Tensor = QUANT.data.clone()
    kernels.quant_conv2d(X, QUANT, SPEC, S, None, PLAIN)
    assert torch.equal(QUANT.data, before)
