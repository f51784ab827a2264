"""The model file: round trip, and every way a file can be bad is one clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import robustlab as rl
from robustlab.core.digest import tensors_digest
from robustlab.core.errors import ArgumentError, ModelFileError, RobustlabError
from robustlab.deploy import fingerprint, model_name, read_model_file, scheme, stored_bytes
from robustlab.models import ModelInfo, build, set_info


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Weights that a test draws from the global generator are the same in every run, and the generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    arguments = {"classes": 5, "widths": [8, 16], "blocks": [1, 1]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build("robustlab:signs_resnet", arguments)
    info = ModelInfo("tiny", "robustlab:signs_resnet", arguments, tuple("abcde"), provenance={"made": "here"})
    return set_info(model, info)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    deployed = rl.deploy(rl.compress(network(), weights=4, activations=4, calibration=images(8)))
    path = tmp_path_factory.mktemp("model") / "tiny-w4a4.safetensors"
    rl.save(deployed, path)
    return deployed, path


@pytest.mark.parametrize(("bits", "algorithm"), [(8, "minmax"), (3, "mse"), (1, "binary")])
def test_round_trip(tmp_path: Path, bits: int, algorithm: str) -> None:
    deployed = rl.deploy(
        rl.compress(network(), weights=bits, activations=bits, algorithm=algorithm, calibration=images(8))
    )
    path = rl.save(deployed, tmp_path / "m.safetensors")
    again = rl.load(path)
    with torch.no_grad():
        assert torch.equal(again(images(5, 1)), deployed(images(5, 1)))
    assert fingerprint(again) == fingerprint(deployed)
    assert model_name(again) == "m"
    assert scheme(again) == f"w{bits}a{bits}"
    assert path.stat().st_size - stored_bytes(again) < 16_000
    assert not list(tmp_path.glob("*.partial"))


def test_a_float_model_round_trips_too(tmp_path: Path) -> None:
    model = network()
    again = rl.load(rl.save(model, tmp_path / "float.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(images(3)), model(images(3)))
    assert scheme(again) == "float32"


def test_weights_take_their_real_bits(saved: tuple[nn.Module, Path]) -> None:
    tensors = read_model_file(saved[1]).tensors
    name = "stages.0.conv1"
    assert tensors[f"{name}.planes"].shape == (4, 8, 9)
    assert tensors[f"{name}.planes"].dtype == torch.uint8


def test_loading_leaves_the_global_random_state(saved: tuple[nn.Module, Path]) -> None:
    before = torch.random.get_rng_state()
    rl.load(saved[1])
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_truncation_is_refused(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    data = saved[1].read_bytes()
    for length in (0, 1, 7, 8, 100, len(data) // 2, len(data) - 1):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match=r"cut\.safetensors"):
            rl.load(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_is_refused(saved: tuple[nn.Module, Path], tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(saved[1].read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "flip.safetensors"
    path.write_bytes(bytes(content))
    with pytest.raises(ModelFileError, match=r"flip\.safetensors"):
        rl.load(path)


def rewrite(source: Path, target: Path, change: object) -> None:
    """Write a file whose contents were changed on purpose and whose hash fits them."""
    with safe_open(source, "pt") as file:
        header = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    metadata = json.loads(header["robustlab"])
    change(metadata, tensors, header)  # type: ignore[operator]
    header["robustlab"] = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    header["sha256"] = tensors_digest(tensors, header["robustlab"])
    save_file(tensors, target, header)


LAYER = "stages.0.conv1"


def _set(*path: str, value: object) -> object:
    def change(metadata: dict[str, object], tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        place = metadata
        for key in path[:-1]:
            place = place[key]  # type: ignore[assignment]
        place[path[-1]] = value

    return change


def _tensor(name: str, value: Tensor | None) -> object:
    def change(metadata: dict[str, object], tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value

    return change


def _header(name: str, value: str) -> object:
    def change(metadata: dict[str, object], tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        header[name] = value

    return change


# -8 everywhere: outside the symmetric range of 4 bits, and the 72 bits of a row leave none unused.
_FORBIDDEN = torch.zeros(4, 8, 9, dtype=torch.uint8)
_FORBIDDEN[3] = 255

BAD = {
    "schema": (_header("schema", "99"), "schema"),
    "format": (_header("format", "other"), "format"),
    "architecture": (_set("architecture", value="robustlab:nothing"), "architecture"),
    "foreign prefix": (_set("architecture", value="os:system"), "prefix"),
    "argument": (_set("arguments", value={"classes": 5, "evil": 1}), "evil"),
    "huge argument": (_set("arguments", value={"classes": 10**9}), "classes"),
    "unknown field": (_set("surprise", value=1), "surprise"),
    "missing layer": (_set("layers", "stages.9.conv1", value=None), "layers"),
    "layer bits": (_set("layers", LAYER, "weight_bits", value=9), "weight_bits"),
    "wrong bits": (_set("layers", LAYER, "weight_bits", value=3), "planes"),
    "layer shape": (_set("layers", LAYER, "shape", value=[8, 8, 1, 9]), "shape"),
    "stride": (_set("layers", LAYER, "geometry", "stride", value=[2, 2]), "geometry"),
    "zero point": (_set("layers", LAYER, "activation", "zero_point", value=16), "zero_point"),
    "scale": (_set("layers", LAYER, "activation", "scale", value=-1.0), "scale"),
    "nan scale": (_tensor(f"{LAYER}.scale", torch.full((8,), float("nan"))), "NaN"),
    "short scale": (_tensor(f"{LAYER}.scale", torch.ones(7)), "scale"),
    "no planes": (_tensor(f"{LAYER}.planes", None), "planes"),
    "short planes": (_tensor(f"{LAYER}.planes", torch.zeros(4, 8, 8, dtype=torch.uint8)), "planes"),
    "code range": (_tensor(f"{LAYER}.planes", _FORBIDDEN), "codes"),
    "extra tensor": (_tensor("surprise", torch.ones(1)), "surprise"),
    "identity": (_set("identity", value=["head"]), "head"),
    "selftest": (_tensor("selftest.logits", torch.zeros(2, 5)), "self-test"),
    "huge input": (_set("input_size", value=[1 << 20, 1 << 20]), "input_size"),
    "large input": (_set("input_size", value=[1 << 14, 1 << 14]), "self-test"),
    "huge architecture": (
        _set("arguments", value={"classes": 5, "widths": [4096, 4096], "blocks": [64, 64]}),
        "shape|geometry|lacks",
    ),
    "padding value": (_set("layers", LAYER, "geometry", "padding_value", value="one"), "geometry"),
    "half a self-test": (_set("selftest", value=None), "self-test"),
    "swapped weights": (_tensor(f"{LAYER}.scale", torch.full((8,), 9.0)), "self-test"),
}


@pytest.mark.parametrize("name", BAD)
def test_every_bad_content_is_refused_by_name(saved: tuple[nn.Module, Path], tmp_path: Path, name: str) -> None:
    change, word = BAD[name]
    path = tmp_path / "bad.safetensors"
    rewrite(saved[1], path, change)
    with pytest.raises(ModelFileError, match=word) as caught:
        rl.load(path)
    assert "bad.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_rewriting_itself_is_not_what_is_refused(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    path = tmp_path / "same.safetensors"
    rewrite(saved[1], path, lambda metadata, tensors, header: None)
    assert fingerprint(rl.load(path)) == fingerprint(saved[0])


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.conv(x)).mean(dim=(2, 3)))
        return logits


def test_a_class_of_ones_own_needs_its_factory(tmp_path: Path) -> None:
    deployed = rl.deploy(rl.compress(Own(), weights=8, activations=8, calibration=images(4)))
    path = rl.save(deployed, tmp_path / "own.safetensors")
    with pytest.raises(ModelFileError, match="factory"):
        rl.load(path)
    again = rl.load(path, factory=Own)
    with torch.no_grad():
        assert torch.equal(again(images(4)), deployed(images(4)))


def test_saving_refuses_what_cannot_be_saved(tmp_path: Path) -> None:
    small = rl.compress(network(), weights=4, activations=4, calibration=images(8))
    with pytest.raises(ArgumentError, match="deployed"):
        rl.save(small, tmp_path / "m.safetensors")
    with pytest.raises(ArgumentError, match="existing folder"):
        rl.save(rl.deploy(small), tmp_path / "nowhere" / "m.safetensors")


def test_a_key_that_appears_twice_is_refused(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    with safe_open(saved[1], "pt") as file:
        header = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    header["robustlab"] = header["robustlab"][:-1] + ',"name":"other"}'
    header["sha256"] = tensors_digest(tensors, header["robustlab"])
    save_file(tensors, tmp_path / "twice.safetensors", header)
    with pytest.raises(ModelFileError, match="twice"):
        rl.load(tmp_path / "twice.safetensors")


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    model = Own()
    model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    with pytest.raises(ArgumentError, match="mask"):
        rl.save(rl.deploy(rl.compress(model, weights=8, activations=8, calibration=images(4))), tmp_path / "m.st")
    assert not list(tmp_path.iterdir())


def test_loading_refuses_unknown_names_and_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no weights of torchvision's own
    for bad in ("robustlab:nothing", "torchvision:resnet18", "torchvision:nothing@x.pth", str(tmp_path / "no.st")):
        with pytest.raises(RobustlabError):
            rl.load(bad)
    evil = tmp_path / "evil.pth"
    torch.save({"weight": Own()}, evil)
    with pytest.raises(ModelFileError, match="unpickling"):
        rl.load(f"torchvision:resnet18@{evil}")
    shutil.copy(evil, tmp_path / "evil.safetensors")
    with pytest.raises(ModelFileError, match="evil"):
        rl.load(tmp_path / "evil.safetensors")


def test_torchvision_with_a_file_of_weights(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng(devices=[]):
        reference = squeezenet1_1(num_classes=7).eval()
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        for name in ("w.pth", "w.safetensors"):
            model = rl.load(f"torchvision:squeezenet1_1@{tmp_path / name}")
            assert torch.equal(model(x), reference((x - mean) / std))
