"""Weights with several scales in a row or zero points of their own: sums of parts are what their integers say."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robustlab.compress import TrainConfig, WeightScheme, check_model, compress, deployability, freeze, qat
from robustlab.compress.freeze import FrozenLayer
from robustlab.compress.layers import CompressedConv2d, CompressedLayer
from robustlab.compress.parts import Parts
from robustlab.compress.ptq import GPTQ
from robustlab.compress.weight_grid import GridQuantizer
from robustlab.core.digest import tensors_digest
from robustlab.core.errors import ArgumentError, ModelFileError
from robustlab.deploy import deploy, fingerprint, layer_costs, load, optimize, save, simulated_twin, stored_bytes
from robustlab.kernels import available, use_backend

SCHEMES = {
    "affine tensor": WeightScheme("tensor", False),
    "affine": WeightScheme("channel", False),
    "groups": WeightScheme("group"),
    "affine groups": WeightScheme("group", False),
    "wide groups": WeightScheme("group", False, 128),
}


class Wide(nn.Module):
    """Rows of more than 64 input channels, that do not divide; groups, depthwise, stride, dilation; linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 144, 3, padding=1)
        self.grouped = nn.Conv2d(144, 32, (3, 2), padding=(1, 0), groups=2, stride=(1, 2))
        self.depthwise = nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=32, bias=False)
        self.out = nn.Conv2d(32, 144, 1)
        self.fc = nn.Linear(144, 65)
        self.head = nn.Linear(65, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.stem(x).relu()).relu()
        x = self.out(self.depthwise(x)).relu().mean((2, 3))
        logits: Tensor = self.head(self.fc(x).relu())
        return logits


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@lru_cache
def network() -> nn.Module:
    model = Wide()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.normal_(0.3 * spread, spread, generator=generator)
    return model.eval()


@lru_cache
def made(name: str, bits: int, algorithm: str = "minmax") -> nn.Module:
    scheme = SCHEMES[name]
    return compress(
        network(),
        weights=bits,
        activations=5,
        first_last_bits=None,
        calibration=pictures(4),
        algorithm=algorithm,
        weight_scheme=scheme,
    )


CASES = [(name, bits) for name in SCHEMES for bits in (2, 5, 8)]


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_deployed_equals_simulated_and_survives_its_file(name: str, bits: int, tmp_path: Path) -> None:
    model = made(name, bits)
    frozen, deployed = freeze(model), deploy(model)
    path = save(deployed, tmp_path / "m.safetensors")
    loaded = load(path, factory=Wide)
    twin = simulated_twin(loaded)
    assert twin is not None
    images = torch.cat([pictures(5, 3), torch.zeros(1, 3, 8, 8)])
    with torch.no_grad():
        wanted = frozen(images)
        assert torch.isfinite(wanted).all() and len(wanted.unique()) > 2
        for other in (deployed, loaded, twin, optimize(deployed, images)):
            assert torch.equal(other(images), wanted)
        for backend in available():
            with use_backend(backend):
                assert torch.equal(deployed(images), wanted), backend
    assert fingerprint(loaded) == fingerprint(deployed)
    with safe_open(path, "pt") as file:
        written = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    size = sum(tensor.nbytes for key, tensor in written.items() if key != "selftest.logits")
    reports = check_model(model, pictures(4))
    assert size == stored_bytes(deployed) == sum(r.payload_bytes + r.scale_bytes + r.side_bytes for r in reports)
    assert [r.kind for r in reports] == [entry.kind for entry in deployability(model)]
    assert "G" in {r.kind for r in reports} or name == "affine tensor"
    costs = layer_costs(deployed, pictures(2))
    assert [cost.name for cost in costs] == [r.name for r in reports]
    assert [cost.weight_bytes for cost in costs] == [r.payload_bytes for r in reports]
    before = layer_costs(model, pictures(2))
    assert [(c.macs, c.weight_bits) for c in costs] == [(c.macs, c.weight_bits) for c in before]


def by_definition(layer: CompressedLayer, x: Tensor) -> Tensor:
    """The layer in whole numbers, part by part, from its quantizers alone; float64 holds every sum exactly."""
    quantizer = layer.quantize_weight
    assert isinstance(quantizer, GridQuantizer)
    grid, spec = quantizer.grid(layer.weight), layer.quantize_input.spec()
    assert spec is not None
    inputs = (layer.quantize_input(x) / spec.scale).round().double()
    levels = grid.codes(layer.weight).double() - grid.spread(grid.zero_point, layer.weight).double()
    y = torch.zeros(())
    groups = layer.groups if isinstance(layer, CompressedConv2d) else 1
    width = layer.weight.shape[1]
    for k in range(grid.scale.shape[1]):
        start, end = k * grid.size, min(width, (k + 1) * grid.size)
        channels = [g * width + c for g in range(groups) for c in range(start, end)]
        step = torch.tensor(spec.scale) * grid.scale[:, k]
        if isinstance(layer, CompressedConv2d):
            place = (layer.stride, layer.padding, layer.dilation, layer.groups)
            part = F.conv2d(inputs[:, channels], levels[:, start:end], None, *place).float() * step[:, None, None]
        else:
            part = F.linear(inputs[..., channels], levels[:, start:end]).float() * step
        y = part if k == 0 else y + part
    if layer.bias is None:
        return y
    return y + (layer.bias if layer.weight.ndim == 2 else layer.bias[:, None, None])


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_every_layer_is_what_its_integers_say(name: str, bits: int) -> None:
    model, deployed = made(name, bits), deploy(made(name, bits))
    seen: dict[str, Tensor] = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, CompressedLayer)}
    generator = torch.Generator().manual_seed(bits)
    for label, layer in layers.items():
        width = layer.weight.shape[1] * (layer.groups if isinstance(layer, CompressedConv2d) else 1)
        shape = (2, width) if layer.weight.ndim == 2 else (2, width, 6, 5)
        x = torch.randn(shape, generator=generator)
        with torch.no_grad():
            seen[label] = deployed.get_submodule(label)(x)
            assert torch.equal(seen[label], by_definition(layer, x)), label
    assert len(seen) == 6


def test_parts_are_words_and_grids_that_need_none_are_plain() -> None:
    fc = freeze(made("wide groups", 5)).get_submodule("fc")
    assert isinstance(fc, Parts) and fc.scales.shape == (2, 65) and fc.size == 128
    assert [part.codes.shape for part in fc.layers if isinstance(part, FrozenLayer)] == [(65, 128), (65, 16)]
    plain = freeze(made("groups", 5))
    kinds = {name: type(plain.get_submodule(name)) for name in ("stem", "grouped", "depthwise", "out", "fc", "head")}
    assert kinds.pop("grouped") is kinds.pop("fc") is kinds.pop("head") is Parts  # 72, 144 and 65 channels
    assert set(kinds.values()) == {FrozenLayer}
    whole = freeze(made("affine tensor", 5)).get_submodule("fc")
    assert isinstance(whole, FrozenLayer) and whole.scheme.weight_zero_point != 0 and len(whole.scale.unique()) == 1


@pytest.mark.parametrize("algorithm", ["mse", "bias_correction", "cle"])
def test_corrections_take_every_grid(algorithm: str) -> None:
    scheme = WeightScheme("group", False)
    model = compress(
        network(),
        weights=3,
        activations=8,
        calibration=pictures(4),
        algorithm=algorithm,
        weight_scheme=scheme,
        statistics_correction=True,
    )
    with torch.no_grad():
        wanted = network()(pictures(4))
        assert torch.equal(deploy(model)(pictures(4)), freeze(model)(pictures(4)))
        found = model(pictures(4))
    assert torch.allclose(found.mean(0), wanted.mean(0), atol=1e-4)  # what the correction is for
    assert torch.allclose(found.std(0), wanted.std(0), rtol=1e-3)


def test_the_surrogate_gradient_is_autograd_of_the_simulation() -> None:
    gradients = []
    for model in (freeze(made("affine groups", 5)), deploy(made("affine groups", 5))):
        leaf = pictures(2, 7).requires_grad_(True)
        (model(leaf) * torch.linspace(-1, 1, 6)).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert float(gradients[0].abs().max()) > 0
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-5 * float(gradients[0].abs().max()))


def test_weights_on_such_grids_can_be_trained() -> None:
    model = copy.deepcopy(made("groups", 2))
    before = model.get_parameter("fc.weight").detach().clone()
    config = TrainConfig(1, batch_size=4, learning_rate=1e-2, warmup_epochs=0.0)
    records = qat(model, pictures(8, 1), torch.arange(8) % 6, config)
    assert records[0].loss > 0 and not torch.equal(model.get_parameter("fc.weight"), before)
    with torch.no_grad():
        assert torch.equal(deploy(model)(pictures(3)), freeze(model)(pictures(3)))


@pytest.mark.parametrize("algorithm", ["gptq", "adaround", "brecq", "qdrop", "lsq", "binary", GPTQ()])
def test_other_algorithms_refuse_other_grids(algorithm: str | GPTQ) -> None:
    bits = 1 if algorithm == "binary" else 4
    with pytest.raises(
        ArgumentError, match=r"weight_scheme is .*; allowed: symmetric, granularity channel with algorithm"
    ):
        compress(
            network(),
            weights=bits,
            activations=bits,
            calibration=iter(()),
            algorithm=algorithm,
            weight_scheme=SCHEMES["affine"],
        )


def test_a_layer_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = save(deploy(made("affine groups", 5)), tmp_path / "m.safetensors")
    with safe_open(path, "pt") as file:
        header = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict

    def refused(words: str, changed: dict[str, Tensor | None], **layer: object) -> None:
        text = json.loads(header["robustlab"])
        text["layers"]["fc"] |= layer
        canonical = json.dumps(text, sort_keys=True, separators=(",", ":"))
        kept = {key: value for key, value in (tensors | changed).items() if value is not None}
        other = tmp_path / "other.safetensors"
        save_file(kept, other, header | {"robustlab": canonical, "sha256": tensors_digest(kept, canonical)})
        with pytest.raises(ModelFileError, match=words):
            load(other, factory=Wide)

    points, scale = tensors["fc.zero_points"], tensors["fc.scale"]
    refused(r"fc: scale is .*; allowed: float32 \(3, 65\)", {"fc.scale": scale[0].clone()})
    refused(r"fc: scale is .*; allowed: float32 \(2, 65\)", {}, group_size=128)
    refused("fc: scale holds NaN", {"fc.scale": scale * float("nan")})
    refused(r"fc: zero_points is .*; allowed: int8 \(3, 65\)", {"fc.zero_points": points.short()})
    refused("fc: zero_points leaves the codes; allowed: -16 to 15", {"fc.zero_points": points * 0 + 16})
    refused("group_size is None; allowed: a number with composition parts", {}, group_size=None)
    refused("group_size is 64; allowed: .* else none", {}, composition="sample")
