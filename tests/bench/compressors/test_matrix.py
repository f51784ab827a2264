"""Every algorithm at every bit-width of the matrix, on a small network: what is deployed is what was simulated."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.bench.compressors.cells import DEFAULT_SCHEMES, Job, Scheme, jobs, method_of
from robustlab.bench.compressors.making import make
from robustlab.compress import TRAINED
from robustlab.compress.catalogue import ALGORITHMS
from robustlab.compress.ptq import METHODS
from robustlab.core.errors import ArgumentError
from robustlab.core.progress import SilentProgress
from robustlab.deploy import PackedLayer, fingerprint, optimize, stored_bytes, stored_parts
from robustlab.deploy.file import read_model_file

Images = Callable[[int, int], Tensor]
STEPS = 5


def made(job: Job, network: nn.Module, images: Images):  # type: ignore[no-untyped-def]
    batches = [images(8, 10), images(8, 11)]
    return make(job, network, batches, iterations=STEPS, seed=0, progress=SilentProgress())


def test_the_matrix_has_every_algorithm_at_every_scheme_it_takes() -> None:
    plan = jobs(None, None)
    assert {job.algorithm for job in plan} == set(ALGORITHMS)
    for name in ALGORITHMS:
        binary = name == "binary" or (name in TRAINED and TRAINED[name].binary)
        multibit = name != "binary" and (name not in TRAINED or TRAINED[name].multibit)
        wanted = [s for s in DEFAULT_SCHEMES if (binary if s == Scheme(1, 1) else multibit)]
        assert [job.scheme for job in plan if job.algorithm == name] == wanted
    assert all(
        ("corrected" in job.states) == (job.algorithm not in TRAINED and job.algorithm != "binary") for job in plan
    )


@pytest.mark.parametrize("job", jobs(None, None), ids=lambda job: f"{job.algorithm}-{job.scheme}")
def test_deployed_equals_simulated(job: Job, network: nn.Module, images: Images) -> None:
    """The contract of every layer is checked as well, by `make`."""
    x = torch.cat([images(6, 20), torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)])
    states = []
    for found in made(job, network, images):
        states.append(found.state)
        layers = [m for m in found.deployed.modules() if isinstance(m, PackedLayer)]
        assert len(layers) == 7
        with torch.no_grad():
            wanted = found.simulated(x)
            assert torch.isfinite(wanted).all() and len(wanted.unique()) > 4
            assert torch.equal(found.deployed(x), wanted)
            assert torch.equal(optimize(found.deployed)(x), wanted)
        inner = {f"w{m.scheme.weight_bits}a{m.scheme.activation_bits}" for m in layers[1:-1]}
        assert inner == {str(job.scheme)}
        assert bool(found.replaced) == (job.algorithm in ("lsq+free", "fda"))
    assert tuple(states) == job.states


@pytest.mark.parametrize("name", ["mse", "react", "xnor++", "lpb"])
def test_the_parts_of_the_bytes_are_those_of_the_file(
    name: str, network: nn.Module, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = Job(name, Scheme(4, 4) if name == "mse" else Scheme(1, 1))
    deployed = next(iter(made(job, network, images))).deployed
    parts = stored_parts(deployed)
    file = read_model_file(rl.save(deployed, tmp_path_factory.mktemp("file") / "m.safetensors"))
    assert parts.total == stored_bytes(deployed)
    assert parts.total == sum(t.nbytes for key, t in file.tensors.items() if key != "selftest.logits")
    weights = {n: m.weight for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    bits = {n: 8 if n in ("stem", "head") else job.scheme.weights for n in weights}
    assert parts.weights == sum(w.numel() for w in weights.values())
    assert parts.payload == sum(bits[n] * len(w) * math.ceil(w[0].numel() / 8) for n, w in weights.items())
    assert parts.scales == 4 * sum(map(len, weights.values()))
    norms = {"stem": 8, "grouped": 12, "conv1": 12}  # of layers without a bias: folded into one
    biases = sum(len(w) for n, w in weights.items() if n not in norms)
    if name == "mse":
        assert parts.side == 4 * (biases + sum(norms.values()))
    if name == "react":  # only the first layer, which is not binary, has its norm folded; then shifts of all inputs
        assert parts.side == 4 * (biases + norms["stem"] + 8 + 12 + 12 + 12 + 12)
    assert parts.bits_per_weight == pytest.approx(8 * (parts.total - parts.rest) / parts.weights)


@pytest.mark.parametrize("name", METHODS)
def test_correcting_what_is_there_is_correcting_at_once(name: str, network: nn.Module, images: Images) -> None:
    job = Job(name, Scheme(3, 3))
    _, found = made(job, network, images)
    wanted = rl.compress(
        network,
        weights=3,
        activations=3,
        algorithm=method_of(name, STEPS),
        calibration=[images(8, 10), images(8, 11)],
        statistics_correction=True,
    )
    assert fingerprint(found.deployed) == fingerprint(rl.deploy(wanted))


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_gives_the_same_bytes(name: str, network: nn.Module, images: Images) -> None:
    job = next(job for job in jobs([name], None))
    first, second = (fingerprint(next(iter(made(job, network, images))).deployed) for _ in range(2))
    assert first == second


def test_an_algorithm_without_a_cell_and_impossible_bits_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"bits is 'w4a4'; allowed: some that algorithm react takes: 1 for both"):
        jobs(["react"], [Scheme(4, 4)])
    with pytest.raises(ArgumentError, match=r"algorithm is 'gtpq'; allowed: .*did you mean gptq"):
        jobs(["gtpq"], None)
    for weights, activations in ((0, 4), (9, 8), (1, 4), (4, 1), (True, True)):
        with pytest.raises(ArgumentError, match="allowed: w2a2 to w8a8 such as w4a8, or w1a1"):
            Scheme(weights, activations)
    assert [str(job.scheme) for job in jobs(["mse", "react"], [Scheme(4, 4), Scheme(1, 1)])] == ["w4a4", "w1a1"]
