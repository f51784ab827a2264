"""Layers at every choice: the ones that `compress` makes, and sensitivities of one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustlab.compress import Spec, compress, freeze
from robustlab.compress.allocation import Bits, Ledger, allocation_spec, make_variants, sensitivities
from robustlab.compress.compress import compress_with
from robustlab.core import ArgumentError
from robustlab.core.keys import sample_keys, uniform

CHOICES: tuple[Bits, ...] = ((2, 2), (4, 4), (8, 8))


class Net(nn.Module):
    """Three convolutions with batch norms, one of them in a branch, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.two = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.two(self.one(x)).relu()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(3)
    model = Net()
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not the initial ones
            model(torch.rand(16, 3, 8, 8))
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return uniform(sample_keys(0, "test", range(24)), (3, 8, 8))


def test_layers_and_choices(net: nn.Module, images: Tensor) -> None:
    variants = make_variants(net, images, CHOICES)
    assert list(variants.layers) == ["stem.0", "one.0", "two", "head"]
    assert [list(layer) for layer in variants.layers.values()] == [[(8, 8)], list(CHOICES), list(CHOICES), [(8, 8)]]
    assert list(variants.networks) == list(CHOICES)
    free = make_variants(net, images, CHOICES, Spec(first_last_bits=None))
    assert all(list(layer) == list(CHOICES) for layer in free.layers.values())
    pinned = make_variants(net, images, CHOICES, Spec(layers={"one.*": (3, 5)}, keep_float=["head"]))
    assert list(pinned.layers) == ["stem.0", "one.0", "two"]
    assert list(pinned.layers["one.0"]) == [(3, 5)]


def test_a_layer_alone_is_the_one_that_compress_makes(net: nn.Module, images: Tensor) -> None:
    variants = make_variants(net, images, CHOICES)
    names = list(variants.layers)
    for name, choices in variants.layers.items():
        for bits in choices:
            others = [other for other in names if other != name]
            alone = compress(net, weights=4, activations=4, calibration=images, layers={name: bits}, keep_float=others)
            assert torch.equal(variants.mixed({name: bits})(images), freeze(alone)(images)), (name, bits)


def test_a_whole_allocation_is_the_one_that_compress_makes(net: nn.Module, images: Tensor) -> None:
    variants = make_variants(net, images, CHOICES)
    allocation = {"stem.0": (8, 8), "one.0": (2, 2), "two": (4, 4), "head": (8, 8)}
    spec = allocation_spec(net, allocation, Spec(seed=5), notes={"why": "a test"})
    assert dict(spec.layers) == allocation and spec.seed == 5 and spec.notes["why"] == "a test"
    made = freeze(compress_with(net, spec, calibration=images))
    assert torch.equal(variants.mixed(allocation)(images), made(images))
    with pytest.raises(ArgumentError, match="was made for"):
        compress_with(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), spec, calibration=images)


@pytest.mark.parametrize("algorithm", ["cle", "bias_correction", "gptq"])
def test_methods_that_change_the_network_agree_with_its_base(algorithm: str, net: nn.Module, images: Tensor) -> None:
    variants = make_variants(net, images, ((8, 8),), Spec(algorithm=algorithm))
    with torch.no_grad():
        wanted, scale = net(images), net(images).abs().max()
        assert torch.allclose(variants.base(images), wanted, atol=1e-3 * float(scale))
        every = dict.fromkeys(variants.layers, (8, 8))
        assert torch.allclose(variants.mixed(every)(images), wanted, atol=0.05 * float(scale))


def test_making_them_leaves_the_model_alone(net: nn.Module, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    variants = make_variants(net, images, CHOICES)
    base = {name: tensor.clone() for name, tensor in variants.base.state_dict().items()}
    variants.mixed({"two": (2, 2)})(images)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(torch.equal(base[name], tensor) for name, tensor in variants.base.state_dict().items())


def test_sensitivities_go_on_where_they_stopped(net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    variants = make_variants(net, images, CHOICES)
    with torch.no_grad():
        wanted = variants.base(images)
    calls = 0

    def score(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        with torch.no_grad():
            return float((model(images) - wanted).square().mean())

    path = tmp_path / "kept.json"
    with pytest.raises(KeyboardInterrupt):
        sensitivities(variants, score, ledger=Ledger(path, "f"))
    found = sensitivities(variants, score, ledger=Ledger(path, "f"))
    assert calls == 1 + 8  # eight choices, and the one that was interrupted
    assert found == sensitivities(variants, score)
    assert found["one.0"][2, 2] > found["one.0"][4, 4] > found["one.0"][8, 8] > 0


def test_bad_input_is_refused(net: nn.Module, images: Tensor) -> None:
    for choices, said in (
        ((), "choices is"),
        (((4,),), "pairs"),
        (((1, 1),), "choices is 1"),
        (((4, 9),), "choices is 9"),
        (((4, 4), (4, 4)), "each choice once"),
    ):
        with pytest.raises(ArgumentError, match=said):
            make_variants(net, images, choices)  # type: ignore[arg-type]
    for algorithm in ("lsq", "binary"):
        spec = Spec(1, 1, algorithm) if algorithm == "binary" else Spec(algorithm=algorithm)
        with pytest.raises(ArgumentError, match="needs no training"):
            make_variants(net, images, CHOICES, spec)
    small = compress(net, weights=4, activations=4, calibration=images)
    with pytest.raises(ArgumentError, match="compressed already"):
        make_variants(small, images, CHOICES)
    variants = make_variants(net, images, CHOICES)
    with pytest.raises(ArgumentError, match=r"score of layer stem\.0 at w8a8 is nan"):
        sensitivities(variants, lambda _: float("nan"))
