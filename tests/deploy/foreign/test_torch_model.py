"""Programs of torch and quantized modules: their own answers, a straight-through gradient, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers operators
import torch.nn.functional as F
from torch import Tensor, nn

import robustlab as rl
from robustlab.core import ArgumentError, ModelFileError
from robustlab.core.access import access_of
from robustlab.deploy import fingerprint, gradient_kind, input_size, layer_costs, scheme, stored_bytes
from robustlab.deploy.foreign import TorchModel
from robustlab.evaluate.agreement import compare

decomposed = torch.ops.quantized_decomposed
LINF = rl.Linf(64 / 255)


class Network(nn.Module):
    """A convolution and a linear layer; quantized: int8 weights and activations, as PT2E writes them."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, *, quantized: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.quantized = quantized
        weight = torch.randn(8, 3, 3, 3, generator=generator) / 3
        scales = weight.abs().amax((1, 2, 3)) / 127
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))
        self.register_buffer("codes", (weight / scales.reshape(-1, 1, 1, 1)).round().to(torch.int8))
        self.linear = nn.Linear(8, 3)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(3, 8, generator=generator))
            self.linear.bias.zero_()

    def activation(self, x: Tensor) -> Tensor:
        if not self.quantized:
            return x
        q = decomposed.quantize_per_tensor(x, 0.02, -128, -128, 127, torch.int8)
        return decomposed.dequantize_per_tensor(q, 0.02, -128, -128, 127, torch.int8)

    def forward(self, images: Tensor) -> Tensor:
        weight = decomposed.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)
        hidden = F.relu(F.conv2d(self.activation(images), weight))
        logits: Tensor = self.linear(self.activation(hidden).amax((2, 3)))
        return logits


IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(6))


def export(*, batch: int | None = None) -> torch.export.ExportedProgram:
    network = Network(quantized=True).eval()
    if batch is not None:
        return torch.export.export(network, (IMAGES[:batch],))
    return torch.export.export(network, (IMAGES[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=99)},))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.export.save(export(), path)
    return path


def gradient(model: nn.Module) -> Tensor:
    images = IMAGES.clone().requires_grad_()
    return torch.autograd.grad(model(images)[:, 0].sum(), images)[0]


def test_a_program_is_run_as_it_is_and_attacked_straight_through(program: Path) -> None:
    model = rl.load(f"trusted:{program}")
    own = Network(quantized=True)
    assert torch.equal(model(IMAGES), own(IMAGES))
    assert torch.equal(model(IMAGES.clone().requires_grad_()), own(IMAGES))
    with pytest.raises(RuntimeError):
        gradient(own)
    same = F.cosine_similarity(gradient(model).flatten(1), gradient(Network(quantized=False)).flatten(1))
    assert float(same.mean()) > 0.9
    assert (access_of(model), gradient_kind(model), scheme(model)) == ("gradient", "surrogate:straight-through", "w8a8")
    assert input_size(model) == (8, 8)
    labels = own(IMAGES).argmax(1)
    adversarial = rl.attacks.PGD(LINF, steps=10)(model, IMAGES, labels)
    assert float((own(adversarial).argmax(1) != labels).float().mean()) >= 0.5
    row = compare("net", model, IMAGES, 4)
    assert row is not None and (row["different"], row["largest"]) == (0, 0.0)


def test_layers_and_bytes_of_a_program_are_counted(program: Path) -> None:
    model = rl.load(f"trusted:{program}")
    convolution, linear = layer_costs(model, IMAGES[:1])
    assert (convolution.macs, convolution.weight_bits, convolution.activation_bits) == (36 * 216, 8, 8)
    assert (convolution.weight_bytes, linear.macs, linear.weight_bits) == (216, 24, 32)
    assert stored_bytes(model) == 216 + 8 * 4 + 8 * 8 + 4 * 27
    with pytest.raises(ArgumentError, match="a deployed model"):
        rl.save(model, program.with_suffix(".safetensors"))


def test_a_fixed_batch_is_filled(tmp_path: Path) -> None:
    fixed = rl.from_torch(export(batch=4))
    torch.testing.assert_close(fixed(IMAGES), Network(quantized=True)(IMAGES))
    assert gradient(fixed).shape == IMAGES.shape


def test_the_side_car_and_the_file_are_part_of_the_model(program: Path, tmp_path: Path) -> None:
    copied = tmp_path / "other.pt2"
    copied.write_bytes(program.read_bytes())
    plain = rl.load(f"trusted:{copied}")
    side_car = {"preprocessing": {"channels": "bgr"}, "class_names": ["a", "b", "c"]}
    copied.with_name("other.pt2.json").write_text(json.dumps(side_car))
    turned = rl.load(f"trusted:{copied}")
    assert torch.equal(turned(IMAGES), plain(IMAGES.flip(1)))
    assert fingerprint(turned) != fingerprint(plain)
    copied.with_name("other.pt2.json").write_text(json.dumps({"class_names": ["a"]}))
    with pytest.raises(ModelFileError, match="class_names is '1 names'; allowed: 3"):
        rl.load(f"trusted:{copied}")


def test_programs_are_read_only_where_they_are_trusted(program: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"allowed: trusted:.*unpickles"):
        rl.load(program)
    with pytest.raises(ArgumentError, match="an exported program"):
        rl.load(f"trusted:{__file__}")
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(program.read_bytes()[:3000])
    with pytest.raises(ModelFileError, match="is not a readable exported program"):
        rl.load(f"trusted:{cut}")


class Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b).mean((2, 3))


class Pictures(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + 1


class Elsewhere(nn.Module):
    """In NumPy."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(images.detach().numpy().mean((2, 3)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: torch.export.export(Two(), (IMAGES, IMAGES)), "2 inputs and 1 outputs"),
        (lambda: torch.export.export(Pictures(), (IMAGES.double(),)), "torch.float64"),
        (lambda: torch.export.export(Pictures(), (IMAGES[:, :2],)), "2 channels"),
        (lambda: Pictures(), r"output \(2, 3, 8, 8\) for 2 images"),
        (lambda: "net.pt2", "a torch.nn.Module or a torch.export.ExportedProgram"),
        (lambda: nn.Linear(7, 3), "another input_size"),
    ],
)
def test_what_is_no_classifier_of_images_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        rl.from_torch(given(), input_size=(8, 8))


def test_a_module_without_a_gradient_gives_scores(caplog: pytest.LogCaptureFixture) -> None:
    model = rl.from_torch(Elsewhere(), input_size=(8, 8), name="numpy")
    assert access_of(model) == "scores" and gradient_kind(model) == "none"
    assert "model numpy has no gradient" in caplog.text
    with pytest.raises(ArgumentError, match="which gives scores"):
        rl.attacks.PGD(LINF, steps=1)(model, IMAGES, torch.zeros(6, dtype=torch.int64))
    assert rl.attacks.Square(LINF, steps=2)(model, IMAGES, torch.zeros(6, dtype=torch.int64)).shape == IMAGES.shape


def test_a_surrogate_gives_the_gradient_and_is_compared() -> None:
    surrogate = Network(quantized=False)
    model = rl.from_torch(Elsewhere(), surrogate=surrogate, input_size=(8, 8))
    assert torch.equal(model(IMAGES.clone().requires_grad_()), Elsewhere()(IMAGES))
    assert torch.equal(gradient(model), gradient(surrogate))
    row = compare("net", model, IMAGES, 6)
    assert row is not None
    assert row["largest"] == pytest.approx(float((surrogate(IMAGES) - Elsewhere()(IMAGES)).detach().abs().max()))
    with pytest.raises(ArgumentError, match="surrogate is 'output"):
        rl.from_torch(Elsewhere(), surrogate=nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), input_size=(8, 8))


def test_tensors_of_torchao_are_run_attacked_counted_and_told_apart() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 3))
    before = gradient(net)
    quantization.quantize_(net, quantization.Int8DynamicActivationInt8WeightConfig())
    with pytest.raises(RuntimeError):
        gradient(net)
    model = rl.from_torch(net, input_size=(8, 8))
    assert isinstance(model, TorchModel)
    assert torch.equal(model(IMAGES.clone().requires_grad_()), net(IMAGES))
    assert float(F.cosine_similarity(gradient(model).flatten(1), before.flatten(1)).mean()) > 0.98
    assert scheme(model) == scheme(net) == "w8a8"
    assert 192 * 64 < stored_bytes(model) < 2 * 192 * 64
    first = fingerprint(model)
    net[1].weight.qdata[0, 0] += 1  # type: ignore[union-attr, index, operator]
    assert fingerprint(model) != first
