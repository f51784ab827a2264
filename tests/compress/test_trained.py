"""Every trained algorithm on a small network: compress, train, resume, freeze, deploy, save, load, refuse."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress import TRAINED, TrainConfig, check_model, deployability, freeze, qat
from robustlab.compress.algorithms.lsq import StepInput, StepWeight
from robustlab.compress.checking import check_layer
from robustlab.compress.composed import Composed
from robustlab.compress.compress import calibrate
from robustlab.compress.freeze import FrozenLayer
from robustlab.compress.layers import CompressedConv2d, CompressedLayer
from robustlab.core.errors import ArgumentError, ModelFileError, RobustlabError
from robustlab.deploy import PackedLayer, deploy, fingerprint, load, optimize, save, simulated_twin, stored_bytes
from robustlab.deploy.file import read_model_file
from robustlab.kernels import binary_conv2d, mapped_conv2d, per_sample_conv2d

CASES = [
    *((name, 1) for name, algorithm in TRAINED.items() if algorithm.binary),
    *((name, bits) for name, algorithm in TRAINED.items() if algorithm.multibit for bits in (2, 4, 8)),
]


class Small(nn.Module):
    """Stem, a dilated grouped convolution, a depthwise one, an uneven one with bias, and two linear layers."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, 1, 2, dilation=2, groups=2, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.uneven = nn.Conv2d(12, 10, (3, 2), (2, 1), (1, 0))
        self.fc = nn.Linear(10, 10)
        self.head = nn.Linear(10, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.hardtanh(self.bn(self.stem(images * 4 - 2)))
        x = F.hardtanh(self.bn1(self.grouped(x)))
        x = F.hardtanh(self.bn2(self.depthwise(x)) + F.relu(x))
        x = self.uneven(x).mean(dim=(2, 3))
        logits: Tensor = self.head(F.hardtanh(self.fc(x)) + x)
        return logits


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def problem(count: int = 48) -> tuple[Tensor, Tensor]:
    """A bright square on the left or on the right, and which."""
    labels = torch.arange(count) % 2
    images = pictures(count) * 0.3
    for index, label in enumerate(labels.tolist()):
        images[index, :, 4:10, 1 + 8 * label : 6 + 8 * label] += 0.5
    return (images * 255).round().clamp(0, 255).to(torch.uint8), labels


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@lru_cache
def network() -> nn.Module:
    """Random weights, and statistics that matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Small().train()
        with torch.no_grad():
            for _ in range(2):
                model(problem(16)[0].float() / 255)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
    return model.eval()


def made(name: str, bits: int) -> nn.Module:
    calibration = problem(16)[0].float() / 255
    return rl.compress(network(), weights=bits, activations=bits, algorithm=name, calibration=calibration)


@lru_cache
def trained(name: str, bits: int) -> nn.Module:
    """One epoch: steps, shifts and norms have moved, and schedules have ended."""
    model = made(name, bits)
    qat(model, *problem(), TrainConfig(1, batch_size=16, learning_rate=1e-2, warmup_epochs=0.0))
    return model


def layers(model: nn.Module) -> dict[str, CompressedLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, CompressedLayer)}


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_deployed_equals_simulated_and_survives_its_file(name: str, bits: int, tmp_path: Path) -> None:
    model = trained(name, bits)
    before = copy.deepcopy(model.state_dict())
    factorable = TRAINED[name].deployability == "X"
    frozen = freeze(model, factorable=factorable)
    deployed = deploy(model, factorable=factorable)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert sum(isinstance(m, PackedLayer) for m in deployed.modules()) == 6
    loaded = load(save(deployed, tmp_path / "m.safetensors"), factory=Small)
    twin = simulated_twin(loaded)
    assert twin is not None
    images = torch.cat([pictures(5, 3), torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.5)])
    with torch.no_grad():
        wanted = frozen(images)
        assert torch.isfinite(wanted).all() and len(wanted.unique()) > 2
        for other in (deployed, loaded, twin, optimize(deployed, images)):
            assert torch.equal(other(images), wanted)
    assert fingerprint(loaded) == fingerprint(deployed)
    kinds = {type(m).__name__ for m in frozen.modules() if isinstance(m, Composed)}
    expected = {"react": {"Shifted"}, "xnor": {"SampleScaled"}, "xnor++": {"Mapped"}, "lpb": {"TwoPlanes"}}
    assert kinds == {**expected, "dab": {"Adaptive", "Shifted"}}.get(name, set())


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_every_layer_keeps_the_contract(name: str, bits: int) -> None:
    model = trained(name, bits)
    factorable = TRAINED[name].deployability == "X"
    reports = check_model(model, pictures(4, 5), factorable=factorable)
    assert [r.name for r in reports] == ["stem", "grouped", "depthwise", "uneven", "fc", "head"]
    inner = [r for r in reports if r.name not in ("stem", "head")]
    kind = TRAINED[name].deployability
    assert {r.kind for r in inner[:-1]} == {"P" if factorable else kind}
    assert all(2 <= r.levels <= 2**bits for r in inner)
    deployed = deploy(model, factorable=factorable)
    total = sum(r.payload_bytes + r.scale_bytes + r.side_bytes for r in reports)
    rest = sum(m.scale.nbytes + m.shift.nbytes for m in deployed.modules() if type(m).__name__ == "Affine")
    assert stored_bytes(deployed) == total + rest  # what is reported is what the file holds
    for r in inner:
        assert r.payload_bytes == bits * (
            len(getattr(network(), r.name).weight) * math.ceil(getattr(network(), r.name).weight[0].numel() / 8)
        )


def test_the_classes_are_reported_and_say_why() -> None:
    for name in ("xnor", "xnor++", "lpb", "dab"):
        found = {entry.name: entry.kind for entry in deployability(trained(name, 1))}
        assert found.pop("stem") == found.pop("head") == "P"
        assert {found[layer] for layer in ("grouped", "depthwise", "uneven")} == {TRAINED[name].deployability}
    start = deployability(made("fda", 1))
    assert {e.kind for e in start} == {"P", "X"}
    assert "noise" in next(e.reason for e in start if e.name == "grouped")
    assert {e.kind for e in deployability(trained("fda", 1))} == {"P"}
    with pytest.raises(ArgumentError, match="compressed model"):
        deployability(network())


def test_what_cannot_be_deployed_is_refused_by_layer_or_replaced_when_asked() -> None:
    with pytest.raises(RobustlabError, match=r"layer grouped cannot .* noise has weight 0\.1; allowed: 0"):
        deploy(made("fda", 1))
    assert sum(isinstance(m, PackedLayer) for m in deploy(made("fda", 1), factorable=True).modules()) == 6
    with pytest.raises(RobustlabError, match=r"layer \w+ cannot .* offset is -\d.* steps; allowed: a whole number"):
        deploy(trained("lsq+free", 4))
    model = trained("lsq+free", 4)
    with torch.no_grad():
        assert (deploy(model, factorable=True)(pictures(4)) - model(pictures(4))).abs().max() > 0


def test_a_layer_that_breaks_its_promise_is_found() -> None:
    model = copy.deepcopy(trained("lsq", 4))
    layer = layers(model)["grouped"]
    x = torch.randn(2, 8, 8, 8)
    assert check_layer("grouped", layer, x).levels <= 15

    class TooMany(StepWeight):
        levels = 3  # type: ignore[assignment]

    class PerWeight(StepWeight):
        def forward(self, weight: Tensor) -> Tensor:
            return super().forward(weight) * (1 + 0.01 * torch.arange(weight.numel()).reshape(weight.shape))

    class Random(StepWeight):
        def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
            codes, scale = super().codes(weight)
            return codes, scale * (1 + 0.1 * torch.rand(()))

    class Biased(StepInput):
        def quantize(self, x: Tensor) -> Tensor:
            return super().quantize(x + 0.01)

    for kind, word in ((TooMany, "levels"), (PerWeight, "one scale per output"), (Random, "twice")):
        broken = copy.deepcopy(layer)
        broken.quantize_weight.__class__ = kind
        with pytest.raises(RobustlabError, match=f"layer grouped breaks the contract: .*{word}"):
            check_layer("grouped", broken, x)
    broken = copy.deepcopy(layer)
    broken.quantize_input.__class__ = Biased
    with pytest.raises(RobustlabError, match="fake-quantized inputs"):
        check_layer("grouped", broken, x)
    liar = copy.deepcopy(layers(trained("xnor", 1))["grouped"])
    liar._algorithm = TRAINED["bireal"]
    with pytest.raises(RobustlabError, match="claims the class P and is S"):
        check_layer("grouped", liar, x)


@pytest.mark.parametrize(
    ("name", "bits"), [("lsq", 2), ("lsq+", 4), ("pact", 4), ("fda", 1), ("irnet", 1), ("xnor++", 1)]
)
def test_a_resumed_training_equals_an_uninterrupted_one(name: str, bits: int, tmp_path: Path) -> None:
    images, labels = problem()
    config = TrainConfig(3, batch_size=16, learning_rate=5e-3)
    whole, cut, resumed = made(name, bits), made(name, bits), made(name, bits)
    before = copy.deepcopy(whole.state_dict())
    qat(whole, images, labels, config)
    calls = 0

    def interrupting(batch: Tensor, _generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return batch

    path = tmp_path / "state.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        qat(cut, images, labels, config, augment=interrupting, checkpoint=path)
    records = qat(resumed, images, labels, config, augment=lambda batch, _generator: batch, checkpoint=path)
    assert [r.epoch for r in records] == [1, 2, 3]
    moved = set()
    for (key, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
        if not torch.equal(a, before[key]):
            moved.add(key.rpartition(".")[2])
    learns = {"lsq": {"gain"}, "lsq+": {"gain", "slide"}, "pact": {"gain"}, "fda": {"alpha", "terms", "inward"}}
    assert moved >= {**learns, "irnet": {"slope"}, "xnor++": {"gain", "rows_factor", "columns_factor"}}[name]


@pytest.mark.parametrize("name", ["lsq", "pact", "react"])
def test_training_learns(name: str) -> None:
    bits = 1 if TRAINED[name].binary else 2
    images, labels = problem()
    model = made(name, bits)
    records = qat(model, images, labels, TrainConfig(20, batch_size=16, learning_rate=1e-2))
    assert records[-1].loss < 0.8 * records[0].loss
    with torch.no_grad():
        right = deploy(model)(images.float() / 255).argmax(1) == labels
    assert right.float().mean() > 0.9


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_every_algorithm_trains_in_reduced_precision(name: str, bits: int) -> None:
    model = made(name, bits)
    config = TrainConfig(2, batch_size=16, learning_rate=1e-3, precision="bfloat16")  # fda's noise is on in the first
    losses = [record.loss for record in qat(model, *problem(), config)]
    reference = [record.loss for record in qat(made(name, bits), *problem(), replace(config, precision="float32"))]
    assert losses == pytest.approx(reference, rel=0.1)


def test_plain_binary_is_trained_as_bireal_is() -> None:
    answers = []
    for name in ("binary", "bireal"):
        model = made(name, 1)
        qat(model, *problem(), TrainConfig(2, batch_size=16, learning_rate=1e-2))
        answers.append(deploy(model)(pictures(4)))
    assert torch.equal(*answers)


def test_weight_decay_reaches_the_clipping_levels_of_pact_and_not_the_steps_of_lsq() -> None:
    images, labels = problem(16)
    for name, shrinks in (("pact", True), ("lsq", False)):
        plain, decayed = made(name, 4), made(name, 4)
        for model, decay in ((plain, 0.0), (decayed, 0.5)):
            config = TrainConfig(1, batch_size=16, learning_rate=1e-2, warmup_epochs=0.0, weight_decay=decay)
            qat(model, images, labels, config)
        ratios = [
            float(b.quantize_input.gain.detach() / a.quantize_input.gain.detach())
            for a, b in ((layers(plain)[key], layers(decayed)[key]) for key in ("grouped", "fc"))
        ]
        assert all(ratio < 0.999 for ratio in ratios) if shrinks else ratios == [1.0, 1.0]


def test_the_ends_and_the_norms_are_treated_as_each_algorithm_says() -> None:
    for name, algorithm in TRAINED.items():
        model = made(name, 1 if algorithm.binary else 4)
        of = {key: layer.algorithm for key, layer in layers(model).items()}
        assert (of["stem"] is not None) == (of["head"] is not None) == algorithm.ends
        assert all(of[key] is not None for key in ("grouped", "depthwise", "uneven", "fc"))
        kept = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        assert kept == (3 if algorithm.ends else 2)
    mixed = rl.compress(
        network(), weights=1, activations=1, algorithm="react", calibration=pictures(4), layers={"uneven": (4, 3)}
    )
    uneven = layers(mixed)["uneven"]
    assert uneven.algorithm is None and (uneven.weight_bits, uneven.activation_bits) == (4, 3)
    assert layers(mixed)["grouped"].algorithm is not None


def test_plain_algorithms_are_what_they_were() -> None:
    binary, bireal = made("binary", 1), made("bireal", 1)
    with torch.no_grad():
        assert torch.equal(binary(pictures(4)), bireal(pictures(4)))
    assert all(layer.algorithm is None and layer.scale_output is None for layer in layers(binary).values())


BAD = [
    ({"algorithm": "lsqq"}, "did you mean lsq"),
    ({"algorithm": "react"}, "1 for both with algorithm react"),
    ({"algorithm": "lsq", "weights": 1, "activations": 1}, "2 to 8 with algorithm lsq"),
    ({"algorithm": "dorefa", "weights": 1}, "1 for both or a whole number from 2 to 8 with algorithm dorefa"),
    ({"algorithm": "lsq", "weights": True}, "weights, activations"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_bad_arguments_are_refused_in_one_line_before_any_work(change: dict[str, object], words: str) -> None:
    class Unused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    arguments: dict[str, object] = {"weights": 4, "activations": 4, "calibration": pictures(2), **change}
    with pytest.raises(ArgumentError, match=words) as caught:
        rl.compress(Unused(), **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_algorithm_of_ones_own_is_what_its_name_would_be() -> None:
    calibration = problem(16)[0].float() / 255
    options = {"weights": 4, "activations": 4, "calibration": calibration}
    own = replace(TRAINED["lsq"], name="mine")
    model = rl.compress(network(), algorithm=own, **options)
    assert {entry.algorithm for entry in deployability(model)} == {"mine"}
    assert fingerprint(deploy(model)) == fingerprint(deploy(made("lsq", 4)))
    with pytest.raises(ArgumentError, match="statistics_correction is True; allowed: False with algorithm mine"):
        rl.compress(network(), algorithm=own, statistics_correction=True, **options)
    with pytest.raises(ArgumentError, match=r"weights, activations is \(1, 1\); .* with algorithm mine"):
        rl.compress(network(), algorithm=own, **{**options, "weights": 1, "activations": 1})


def test_an_output_map_keeps_to_its_size() -> None:
    deployed = deploy(trained("xnor++", 1))
    with pytest.raises(RobustlabError, match="output map"):
        deployed(torch.rand(1, 3, 20, 16))
    with pytest.raises(RobustlabError, match="output map"):
        trained("xnor++", 1)(torch.rand(1, 3, 20, 16))


def test_a_file_with_a_wrong_composition_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from robustlab.core.digest import tensors_digest

    path = save(deploy(trained("react", 1)), tmp_path / "m.safetensors")
    file = read_model_file(path)
    text = file.metadata.canonical()
    tensors = dict(file.tensors)

    def written(text: str, tensors: dict[str, Tensor]) -> Path:
        header = {"format": "robustlab", "schema": "1", "robustlab": text, "sha256": tensors_digest(tensors, text)}
        save_file(tensors, tmp_path / "altered.safetensors", header)
        return tmp_path / "altered.safetensors"

    short = {**tensors, "grouped.shift": tensors["grouped.shift"][:-1].clone()}
    infinite = {**tensors, "grouped.shift": tensors["grouped.shift"] + float("inf")}
    missing = {key: value for key, value in tensors.items() if key != "grouped.shift"}
    for changed, word in (
        (short, "shift is torch.float32"),
        (infinite, "NaN or infinity"),
        (missing, "lacks its shift"),
    ):
        with pytest.raises(ModelFileError, match=f"layer grouped.*{word}"):
            load(written(text, changed), factory=Small)
    with pytest.raises(ModelFileError, match="composition"):
        load(written(text.replace('"shift"', '"magic"'), tensors), factory=Small)
    with pytest.raises(ModelFileError, match="lacks its gain"):
        load(written(text.replace('"composition":"shift"', '"composition":"adaptive"', 1), tensors), factory=Small)


def test_gradients_reach_the_input_of_every_deployed_kind() -> None:
    for name in ("react", "xnor", "xnor++", "lpb", "dab"):
        images = pictures(2).requires_grad_(True)
        deploy(trained(name, 1))(images)[:, 0].sum().backward()
        assert images.grad is not None
        assert torch.isfinite(images.grad).all() and bool((images.grad != 0).any())


def test_frozen_layers_stay_inside_their_composition() -> None:
    frozen = freeze(trained("xnor", 1))
    composed = [m for m in frozen.modules() if isinstance(m, Composed)]
    assert all(isinstance(m.layer, FrozenLayer) and m.layer.bias is None for m in composed)
    uneven = frozen.get_submodule("uneven")
    assert isinstance(uneven, Composed) and uneven.bias is not None
    assert isinstance(layers(trained("xnor", 1))["uneven"], CompressedConv2d)


def test_factors_around_a_packed_layer_equal_the_fused_kernels() -> None:
    """A layer with a factor per sample, or per position, gives what the one-call kernels define, bit for bit."""
    x = torch.randn(3, 12, 7, 7)
    sample, mapped = (deploy(trained(name, 1)).get_submodule("depthwise") for name in ("xnor", "xnor++"))
    assert isinstance(sample, Composed) and isinstance(mapped, Composed)
    with torch.no_grad():
        packed = sample.layer
        factor = x.abs().mean((1, 2, 3))
        wanted = per_sample_conv2d(x, packed.weight(), packed.scale, factor, None, packed.scheme.geometry)
        assert torch.equal(sample(x), wanted)
        packed, maps = mapped.layer, (mapped.get_buffer("rows_factor")[:7], mapped.get_buffer("columns_factor")[:7])
        wanted = mapped_conv2d(x, packed.weight(), (packed.scale, *maps), None, packed.scheme.geometry)
        plain = binary_conv2d(x, packed.weight(), packed.scale, None, packed.scheme.geometry)
        assert torch.equal(plain * (maps[0][:, None] * maps[1]), wanted)
        assert mapped.bias is None and len(mapped.get_buffer("rows_factor")) == 8


def test_calibrating_again_starts_the_steps_again() -> None:
    for name in ("lsq", "lsq+", "pact"):
        model = copy.deepcopy(trained(name, 4))
        before = layers(model)["grouped"].quantize_input.spec()
        calibrate(model, [4 * problem(16)[0].float() / 1024])
        again, start = (layers(m)["grouped"].quantize_input.spec() for m in (model, made(name, 4)))
        assert again is not None and start is not None and before is not None
        assert again.scale != before.scale
        gain = layers(model)["grouped"].quantize_input.get_parameter("gain")
        assert float(gain.detach()) == 1.0


def test_a_step_that_is_lost_is_refused_by_layer() -> None:
    for name in ("lsq", "lsq+", "pact"):
        model = copy.deepcopy(trained(name, 4))
        with torch.no_grad():
            layers(model)["fc"].quantize_input.get_parameter("gain").fill_(float("nan"))
        with pytest.raises(RobustlabError, match="layer fc"):
            freeze(model)


def test_shifts_fold_into_the_programs_of_an_optimized_model() -> None:
    model = copy.deepcopy(trained("react", 1))
    with torch.no_grad():
        for name in ("grouped", "depthwise", "uneven", "fc"):
            layers(model)[name].quantize_input.get_parameter("shift").uniform_(-0.6, 0.6)
    deployed = deploy(model)
    optimized = optimize(deployed, pictures(4))
    with torch.no_grad():
        assert torch.equal(optimized(pictures(4, 7)), deployed(pictures(4, 7)))
    report = optimized.report()
    assert report.reason is None  # a plan that gave other numbers would have been dropped
    assert sum(len(segment.layers) for segment in report.segments) == 6
    assert not any("front" in name or "layer" in name for name, _ in report.in_torch)


@pytest.mark.parametrize("name", ["react", "xnor", "xnor++", "lpb", "dab"])
def test_what_is_composed_agrees_with_the_simulation_where_values_are_exactly_zero(name: str) -> None:
    layer = copy.deepcopy(layers(trained(name, 1))["uneven"])
    with torch.no_grad():
        for key, parameter in layer.quantize_input.named_parameters():
            parameter.fill_(1.0 if key in ("first", "gain") else 0.0)
    x = torch.randint(-2, 3, (2, 12, 8, 8)).float()  # zeros, and -1 and 1 that leave zeros behind one plane of signs
    assert check_layer("uneven", layer, x).kind == TRAINED[name].deployability
    assert check_layer("uneven", layer, torch.zeros_like(x)).error <= 1e-5
