"""What every post-training method has in common: exact codes, exact deployment, determinism, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress import TRAINED, TrainConfig, freeze
from robustlab.compress.catalogue import ALGORITHMS
from robustlab.compress.layers import CompressedConv2d, CompressedLayer
from robustlab.compress.observers import OBSERVERS
from robustlab.compress.ptq import METHODS, AdaRound, Method, QDrop, Work, correct_statistics
from robustlab.compress.ptq.grid import FixedGridQuantizer, held, hold
from robustlab.compress.ptq.reconstruction import Reconstruction
from robustlab.compress.structure import trace
from robustlab.core import Tiled
from robustlab.core.errors import ArgumentError, RobustlabError
from robustlab.deploy import fingerprint

Images = Callable[[int, int], Tensor]


def quick(name: str) -> str | Method:
    """The algorithm, with few iterations where it iterates."""
    method = METHODS.get(name)
    if isinstance(method, Reconstruction):
        return replace(method, iterations=10, batch_size=4, learning_rate=0.1)
    return name


@given(st.integers(2, 8), st.floats(-30, 30), st.integers(0, 1000))
def test_held_codes_come_back_for_any_scale(bits: int, exponent: float, seed: int) -> None:
    largest = 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-largest, largest + 1, (8, 16), generator=generator).float()
    scale = 2.0**exponent * (0.5 + torch.rand(8, generator=generator))
    layer = CompressedConv2d(nn.Conv2d(16, 8, 1), bits, bits, "minmax")
    hold(layer, codes.reshape(8, 16, 1, 1), scale)
    found, kept = held(layer)
    assert torch.equal(found.flatten(1), codes) and torch.equal(kept, scale)
    with torch.no_grad():
        assert torch.equal(layer.quantize_weight(layer.weight), layer.weight)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-42])
def test_a_scale_that_is_no_normal_number_is_refused(scale: float) -> None:
    layer = CompressedConv2d(nn.Conv2d(1, 1, 1), 4, 4, "minmax")
    with pytest.raises(RobustlabError, match="weight scale"):
        hold(layer, torch.ones(1, 1, 1, 1), torch.tensor([scale]))


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("name", (*OBSERVERS, *METHODS))
def test_deployed_equals_simulated(
    name: str, bits: int, corrected: bool, network: nn.Module, images: Images, tmp_path: Path
) -> None:
    small = rl.compress(
        network,
        weights=bits,
        activations=bits,
        algorithm=quick(name),
        statistics_correction=corrected,
        calibration=images(8, 10),
        first_last_bits=None,
    )
    layers = [m for m in small.modules() if isinstance(m, CompressedLayer)]
    assert all(m.weight_bits == m.activation_bits == bits for m in layers)
    simulated, deployed = freeze(small), rl.deploy(small)
    x = images(20, 1)
    with torch.no_grad():
        expected = Tiled(simulated, 16)(x)
        assert torch.equal(Tiled(deployed, 16)(x), expected)
        again = rl.load(rl.save(deployed, tmp_path / "m.safetensors"), factory=lambda: copy.deepcopy(network))
        assert torch.equal(Tiled(again, 16)(x), expected)
        assert torch.allclose(small(x), expected[:20], atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["gptq", "adaround", "brecq", "qdrop"])
def test_codes_are_those_that_the_method_chose(name: str, network: nn.Module, images: Images) -> None:
    small = rl.compress(network, weights=4, activations=4, algorithm=quick(name), calibration=images(8, 10))
    simulated = freeze(small)
    for path, layer in small.named_modules():
        if isinstance(layer, CompressedLayer):
            assert isinstance(layer.quantize_weight, FixedGridQuantizer)
            codes, _ = held(layer)
            assert torch.equal(simulated.get_submodule(path).get_buffer("codes").float(), codes)


@pytest.mark.parametrize("name", ["kl", "cle", "bias_correction", "gptq", "adaround", "brecq", "qdrop"])
def test_the_same_call_gives_the_same_model_whatever_the_global_generator_says(
    name: str, network: nn.Module, images: Images
) -> None:
    prints = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            state = torch.random.get_rng_state()
            small = rl.compress(
                network, weights=3, activations=3, algorithm=quick(name), calibration=images(8, 10), seed=5
            )
            assert torch.equal(torch.random.get_rng_state(), state)
        prints.append(fingerprint(rl.deploy(small)))
    assert prints[0] == prints[1]


def test_the_model_and_the_images_are_left_alone(network: nn.Module, images: Images) -> None:
    before = copy.deepcopy(network.state_dict())
    calibration = images(8, 10)
    for name in ("cle", "bias_correction", "gptq", "brecq"):
        rl.compress(
            network,
            weights=3,
            activations=3,
            algorithm=quick(name),
            calibration=calibration,
            statistics_correction=True,
        )
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert torch.equal(calibration, images(8, 10))
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_parameters_of_the_result_can_still_be_trained(network: nn.Module, images: Images) -> None:
    small = rl.compress(network, weights=4, activations=4, algorithm=quick("qdrop"), calibration=images(8, 10))
    assert all(p.requires_grad and p.grad is None for p in small.parameters())
    labels = torch.arange(16) % 5
    records = rl.qat(small, images(16, 3), labels, TrainConfig(epochs=4, batch_size=8, learning_rate=3e-3))
    assert records[-1].loss < records[0].loss
    x = images(8, 4)
    with torch.no_grad():
        assert torch.equal(rl.deploy(small)(x), freeze(small)(x))


def test_binary_layers_of_a_mixed_model_are_left_as_they_are(network: nn.Module, images: Images) -> None:
    for name in ("bias_correction", "gptq", "adaround", "brecq"):
        small = rl.compress(
            network,
            weights=4,
            activations=4,
            algorithm=quick(name),
            layers={"stages.1.conv2": (1, 1)},
            calibration=images(8, 10),
            statistics_correction=True,
        )
        kinds = {n: type(m.quantize_weight) for n, m in small.named_modules() if isinstance(m, CompressedLayer)}
        assert sum(kind is FixedGridQuantizer for kind in kinds.values()) == len(kinds) - 1
        x = images(4, 1)
        with torch.no_grad():
            assert torch.equal(rl.deploy(small)(x), freeze(small)(x))


def test_compressing_in_steps_keeps_the_codes_of_the_first(network: nn.Module, images: Images) -> None:
    first = rl.compress(
        network, weights=4, activations=4, algorithm="gptq", calibration=images(8, 10), keep_float=["head"]
    )
    second = rl.compress(first, weights=3, activations=3, algorithm=quick("brecq"), calibration=images(8, 10))
    for name, layer in first.named_modules():
        if isinstance(layer, CompressedLayer):
            again = second.get_submodule(name)
            assert isinstance(again, CompressedLayer)
            assert all(torch.equal(a, b) for a, b in zip(held(layer), held(again), strict=True))
    assert isinstance(second.get_submodule("head"), CompressedLayer)


@pytest.mark.parametrize("name", ["minmax", "gptq", "qdrop"])
def test_correcting_afterwards_is_the_same_as_at_once(
    name: str, network: nn.Module, images: Images, work: Callable[..., Work]
) -> None:
    options = {"weights": 3, "activations": 3, "algorithm": quick(name), "calibration": images(8, 10)}
    at_once = rl.compress(network, statistics_correction=True, **options)
    later = rl.compress(network, **options)
    before = fingerprint(rl.deploy(later))
    reference = work(network, 3).reference
    correct_statistics(Work(later, reference, trace(later, images(2, 0)).order, [images(8, 10)]))
    assert fingerprint(rl.deploy(later)) == fingerprint(rl.deploy(at_once)) != before


class Listener:
    """Notes the tasks and how far each came."""

    def __init__(self) -> None:
        self.tasks: list[list[object]] = []

    def start(self, task: str, total: int) -> None:
        self.tasks.append([task, total, 0, False])

    def advance(self, units: int = 1, note: str = "") -> None:
        self.tasks[-1][2] += units  # type: ignore[operator]

    def finish(self) -> None:
        self.tasks[-1][3] = True


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("mse", ["calibrate"]),
        ("bias_correction", ["calibrate", "bias correction"]),
        ("gptq", ["calibrate", "gptq"]),
        ("qdrop", ["calibrate", "qdrop"]),
    ],
)
def test_every_task_tells_how_far_it_is(name: str, tasks: list[str], network: nn.Module, images: Images) -> None:
    listener = Listener()
    rl.compress(
        network,
        weights=4,
        activations=4,
        algorithm=quick(name),
        calibration=images(4, 0),
        statistics_correction=True,
        progress=listener,
    )
    assert [task[0] for task in listener.tasks] == [*tasks, "statistics correction"]
    assert all(total == done and finished for _, total, done, finished in listener.tasks)


def test_the_registry_names_every_algorithm_with_its_source() -> None:
    assert set(METHODS) | set(OBSERVERS) | {"binary"} | set(TRAINED) == set(ALGORITHMS)
    for name, line in ALGORITHMS.items():
        assert "\n" not in line and len(line) < 120
        assert name == "binary" or name in TRAINED or "20" in line.rpartition("(")[2]
    assert all(algorithm.source for algorithm in TRAINED.values())


@pytest.mark.parametrize("name", ["binary", "lsq", "react"])
def test_statistics_are_not_corrected_of_what_is_trained(name: str) -> None:
    bits = 4 if name == "lsq" else 1
    with pytest.raises(ArgumentError, match="statistics_correction"):
        rl.compress(
            Never(),
            weights=bits,
            activations=bits,
            algorithm=name,
            statistics_correction=True,
            calibration=torch.rand(2, 3, 8, 8),
        )


class Never(nn.Module):
    """Fails as soon as it runs: bad arguments have to be refused before."""

    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "adaronud"}, "algorithm is 'adaronud'.*did you mean adaround"),
        ({"algorithm": 3}, "algorithm is 3"),
        ({"algorithm": "gptq", "weights": 1}, "weights is 1"),
        ({"algorithm": "brecq", "activations": 9}, "activations is 9"),
        ({"algorithm": AdaRound(), "weights": 1, "activations": 1}, "weights is 1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"statistics_correction": "yes"}, "statistics_correction is 'yes'"),
        (
            {"algorithm": "binary", "weights": 1, "activations": 1, "statistics_correction": True},
            "statistics_correction is True; allowed: False with algorithm binary",
        ),
        ({"algorithm": QDrop(), "calibration": torch.empty(0, 3, 8, 8)}, "calibration is 'no images'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line_before_any_work(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"weights": 4, "activations": 4, "calibration": torch.rand(2, 3, 8, 8), **change}
    with pytest.raises(ArgumentError, match=message) as caught:
        rl.compress(Never(), **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_images_of_several_sizes_are_refused_by_reconstruction(images: Images) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    batches = [images(4, 0), images(4, 1)[..., :12]]
    for name in ("gptq", "bias_correction"):
        rl.compress(model, weights=4, activations=4, algorithm=name, calibration=batches)
    with pytest.raises(RobustlabError, match="images of one size"):
        rl.compress(model, weights=4, activations=4, algorithm=quick("adaround"), calibration=batches)
