"""What cannot be compressed is refused before anything is calibrated or trained; constant channels are held exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlab.cli.twins import calibration_batches
from robustlab.compress import TRAINED, TrainConfig, WeightScheme, compress, fit, freeze, qat
from robustlab.compress.catalogue import ALGORITHMS
from robustlab.compress.layers import CompressedLayer
from robustlab.compress.ptq import METHODS
from robustlab.compress.ptq.reconstruction import Reconstruction
from robustlab.core.digest import tensors_digest
from robustlab.core.errors import ArgumentError, DataError
from robustlab.deploy import deploy

BINARY = ["binary", *(name for name, algorithm in TRAINED.items() if algorithm.binary)]
LATTICES = [name for name in ALGORITHMS if name not in BINARY or name == "dorefa"]


class Net(nn.Module):
    """Four layers, with a function in between that a test chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)
        self.head = nn.Linear(5, 4)
        self.function = torch.relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.stem(x))
        x = torch.relu(self.norm(self.middle(x))).mean((2, 3))
        logits: Tensor = self.head(torch.relu(self.fc(x)))
        return logits


def network() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Net().eval()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def unread() -> Iterator[Tensor]:
    raise AssertionError("the calibration images were read")
    yield torch.empty(0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(
            ({name: bits}, rf"{name} is {bits}; allowed: ")
            for name in ("weights", "activations")
            for bits in (-1, 0, 9)
        ),
        ({"weights": 4.0}, r"weights is 4\.0"),
        ({"weights": "4"}, "weights is '4'"),
        ({"weights": 1, "activations": 8}, "weights is 1; allowed: .* from 2 to 8, or 1 for both"),
        (
            {"weights": 9, "algorithm": "lsq"},
            r"weights, activations is \(9, 8\); allowed: .* from 2 to 8 with algorithm lsq",
        ),
        ({"weights": 2, "algorithm": "react"}, r"is \(2, 8\); allowed: 1 for both with algorithm react"),
        ({"first_last_bits": 9}, "first_last_bits is 9; allowed: a whole number from 2 to 8"),
        ({"layers": {"fc": (4, 9)}}, "activations of fc is 9; allowed: a whole number from 2 to 8"),
        ({"layers": {"fc": (1, 4)}}, "weights of fc is 1; allowed: "),
        ({"layers": {"fc": 4}}, r"bits of fc is 4; allowed: \(weight bits, activation bits\)"),
        ({"algorithm": "gtpq"}, "algorithm is 'gtpq'; allowed: .* (did you mean gptq?)"),
        ({"algorithm": None}, "algorithm is None; allowed: "),
        ({"keep_float": "fc"}, "keep_float is 'fc'; allowed: a list"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments_are_refused_before_the_images_are_read(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words.replace("(did", r"\(did").replace("?)", r"\?\)")):
        compress(network(), **({"weights": 8, "activations": 8, "calibration": unread()} | arguments))


def refused(words: str, model: nn.Module | None = None, **arguments: Any) -> None:
    """The error comes, the model is as it was, and no activation grid was looked for."""
    model = network() if model is None else model
    before = tensors_digest(model.state_dict())
    with pytest.raises(ArgumentError, match=words):
        compress(model, **({"weights": 4, "activations": 4, "calibration": images()} | arguments))
    assert tensors_digest(model.state_dict()) == before


@pytest.mark.parametrize("pattern", ["conv*", "FC", "stem.weight", ""])
def test_a_pattern_without_a_layer_is_refused(pattern: str) -> None:
    words = f"layer pattern is '{pattern}'; allowed: a pattern that matches one of stem, middle, fc, head".replace(
        "*", r"\*"
    )
    refused(words, layers={pattern: (4, 4)})
    refused(words, keep_float=[pattern])


@pytest.mark.parametrize("calibration", [[], torch.empty(0, 3, 8, 8), [torch.empty(0, 3, 8, 8)] * 2])
def test_a_calibration_set_without_images_is_refused(calibration: Any) -> None:
    refused("calibration is 'no images'; allowed: at least one image", calibration=calibration)


class OneClass:
    """A data set of three classes, of which the training split has one."""

    name = "lopsided"
    class_names = ("ape", "bee", "cat")

    def __len__(self) -> int:
        return 100

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return images(len(indices)), torch.ones(len(indices), dtype=torch.int64)


def test_a_calibration_set_of_one_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustlab.cli.twins.open_data", lambda *_, **__: OneClass())
    with pytest.raises(
        DataError, match="the 64 calibration images of lopsided are all of class bee; allowed: at least two"
    ):
        calibration_batches("lopsided", [], None, 64)
    monkeypatch.undo()
    assert sum(len(batch) for batch in calibration_batches("signs", [], None, 8)) == 8


@pytest.mark.parametrize("train", [fit, qat])
def test_labels_of_one_class_are_refused_before_training(train: Any) -> None:
    model = compress(network(), weights=4, activations=4, calibration=images())
    before = tensors_digest(model.state_dict())
    with pytest.raises(ArgumentError, match="labels is '2 for all 6 images'; allowed: labels of at least two classes"):
        train(model, images(), torch.full((6,), 2), TrainConfig(1))
    assert tensors_digest(model.state_dict()) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["middle.weight", "head.bias", "norm.weight", "norm.running_var"])
def test_numbers_that_are_not_finite_are_refused(name: str, value: float) -> None:
    model = network()
    model.state_dict()[name].view(-1)[1] = value
    with pytest.raises(ArgumentError, match=rf"tensor {name} of the model is .*; allowed: finite numbers"):
        compress(model, weights=4, activations=4, calibration=images())


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("image", [0.2, float("nan"), 1.5])
def test_activations_and_images_that_are_not_finite_are_refused(bits: int, image: float) -> None:
    model, given = network(), images()
    algorithm = "binary" if bits == 1 else "mse"
    if image == 0.2:
        model.function = lambda x: torch.log(x - x.mean())
        words = "activations of layer middle is 'a tensor with NaN or infinity'; allowed: finite numbers"
    else:
        given[3, 1, 2, 2] = image
        words = "calibration batch 0 is .*; allowed: .* values in .0, 1."
    refused(words, model, weights=bits, activations=bits, calibration=given, algorithm=algorithm)


@pytest.mark.parametrize(("bits", "algorithm"), [(1, "binary"), (1, "react"), (4, "mse"), (4, "gptq"), (4, "lsq")])
def test_an_input_that_is_the_same_everywhere_is_refused(bits: int, algorithm: str) -> None:
    model = network()
    model.function = lambda x: torch.relu(x) * 0 + 0.25
    words = r"activations of layer middle is '0\.25 everywhere on all calibration images'; allowed: "
    refused(words, model, weights=bits, activations=bits, algorithm=algorithm)
    assert compress(model, weights=4, activations=4, keep_float=["middle"], calibration=images()) is not None


@pytest.mark.parametrize("algorithm", BINARY)
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_channel_of_equal_weights_has_no_signs(algorithm: str, value: float) -> None:
    model = network()
    with torch.no_grad():
        model.middle.weight[2] = value
    words = f"weight of layer middle is '{value:g} in all of channel 2'; allowed: channels whose weights differ"
    refused(words, model, weights=1, activations=1, algorithm=algorithm)


def test_a_single_weight_has_a_sign_unless_it_is_zero() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, 4)
    )
    assert compress(model, weights=1, activations=1, algorithm="binary", calibration=images()) is not None
    with torch.no_grad():
        model[1].weight[3] = 0.0
    refused("weight of layer 1 is '0 in all of channel 3'", model, weights=1, activations=1, algorithm="binary")


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("algorithm", LATTICES)
def test_a_pruned_channel_stays_zero_or_is_refused(algorithm: str, bits: int) -> None:
    model = network()
    with torch.no_grad():
        for name in ("stem", "middle", "fc"):
            model.get_parameter(f"{name}.weight")[1] = 0.0
    arguments: dict[str, Any] = {"weights": bits, "activations": bits, "first_last_bits": None, "algorithm": algorithm}
    method = METHODS.get(algorithm)
    if isinstance(method, Reconstruction):
        arguments["algorithm"] = replace(method, iterations=4)
    if (algorithm.startswith("lsq") and bits == 2) or algorithm in (
        "dorefa",
        "pact",
    ):  # levels at odd multiples of half a step
        refused("weight of layer .* is '0 in all of channel 1'; allowed: no such channel, or bits", model, **arguments)
        return
    compressed = compress(model, **arguments, calibration=images())
    for name, layer in compressed.named_modules():
        if isinstance(layer, CompressedLayer) and name != "head":
            assert not layer.quantize_weight(layer.weight)[1].any(), name
    frozen, deployed = freeze(compressed), deploy(compressed)
    with torch.no_grad():
        stem = deployed.get_submodule("stem")(images())
        assert torch.equal(stem[:, 1], frozen.get_buffer("stem.bias")[1].expand_as(stem[:, 1]))
        assert torch.equal(deployed(images()), frozen(images()))


@pytest.mark.parametrize("scheme", [WeightScheme(), WeightScheme("channel", False), WeightScheme("group")])
def test_a_constant_channel_is_held_to_a_rounding_error(scheme: WeightScheme) -> None:
    model = network()
    with torch.no_grad():
        model.stem.weight[1], model.stem.weight[2] = 0.37, -1.0
    model = compress(
        model,
        weights=2,
        activations=8,
        first_last_bits=None,
        algorithm="minmax",
        calibration=images(),
        weight_scheme=scheme,
    )
    layer = model.get_submodule("stem")
    assert isinstance(layer, CompressedLayer)
    value = layer.quantize_weight(layer.weight)
    assert torch.allclose(value[1], torch.tensor(0.37), rtol=1e-6) and torch.equal(
        value[2], torch.full((3, 3, 3), -1.0)
    )
    with torch.no_grad():
        assert torch.equal(deploy(model)(images()), freeze(model)(images()))
