"""Models by the names of torchvision, timm and transformers: their own logits, and weights that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import robustlab as rl
from robustlab.core import ArgumentError, DataError, ModelFileError
from robustlab.deploy import class_names, input_size, model_name
from robustlab.deploy.huggingface import read_processor

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def normalized(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (IMAGES - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(1, 3, 1, 1)


def test_torchvision_takes_its_own_weights_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"nothing is downloaded: download https://.*shufflenet.*@FILE"):
        rl.load("torchvision:shufflenet_v2_x0_5")
    with torch.random.fork_rng(devices=[]):
        reference = shufflenet_v2_x0_5().eval()
    weights = ShuffleNet_V2_X0_5_Weights.DEFAULT
    cached = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    cached.parent.mkdir(parents=True)
    torch.save(reference.state_dict(), cached)
    model = rl.load("torchvision:shufflenet_v2_x0_5")
    assert torch.equal(model(IMAGES), reference(normalized((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))))
    assert class_names(model) == tuple(weights.meta["categories"]) and input_size(model) == (224, 224)


def test_timm_takes_a_file_and_its_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        reference = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=7).eval()
    file = tmp_path / "small.safetensors"
    save_file(reference.state_dict(), file)
    model = rl.load(f"timm:mobilenetv3_small_050@{file}")
    configuration = reference.pretrained_cfg
    expected = reference(normalized(configuration["mean"], configuration["std"]))
    assert torch.equal(model(IMAGES), expected)
    assert model_name(model) == "small" and input_size(model) == configuration["input_size"][1:]
    rl.save(model, tmp_path / "saved.safetensors")
    assert torch.equal(rl.load(tmp_path / "saved.safetensors")(IMAGES), expected)
    other = rl.load(f"timm:mobilenetv3_small_050@{file}", mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal(other(IMAGES), reference(IMAGES))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"timm:mobilenetv3_small_050 are not on this machine"):
        rl.load("timm:mobilenetv3_small_050")
    with pytest.raises(ArgumentError, match="mobilenetv3_small_050"):
        rl.load("timm:mobilenetv3_smal_050")
    with pytest.raises(ArgumentError, match=r"timm weights is 'mobilenetv3_small_050\.nothing'"):
        rl.load("timm:mobilenetv3_small_050.nothing")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    names = {0: "ant", 1: "bee", 2: "cow"}
    configuration = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic",
        id2label=names, label2id={name: key for key, name in names.items()},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        transformers.ResNetForImageClassification(configuration).save_pretrained(tmp_path / "net")
    processor = {
        "do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "size": {"height": 32, "width": 32},
        "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1],
    }  # fmt: skip
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "net"


def test_a_folder_of_transformers_is_a_model_with_its_names_and_normalisation(folder: Path) -> None:
    import transformers

    model = rl.load(f"hf:{folder}")
    reference: Any = transformers.ResNetForImageClassification.from_pretrained(folder).eval()
    expected = reference(pixel_values=normalized((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))).logits
    torch.testing.assert_close(model(IMAGES), expected, rtol=0, atol=1e-6)
    assert (class_names(model), input_size(model), model_name(model)) == (("ant", "bee", "cow"), (32, 32), "net")
    labels = model(IMAGES).argmax(1)
    assert not torch.equal(rl.attacks.FGSM(rl.Linf(0.1))(model, IMAGES, labels), IMAGES)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pytorch_model.bin, which would be unpi"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "cannot be read by transformers"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json cannot be read"),
        (lambda f: _edit(f / "preprocessor_config.json", image_std=[0, 1, 1]), "std is 0"),
        (lambda f: _edit(f / "config.json", auto_map={"AutoModel": "x.Y"}), "code of its own"),
        (lambda f: _edit(f / "config.json", depths=[1, 2]), "lacks the tensor"),
    ],
)
def test_folders_that_are_incomplete_are_refused(folder: Path, break_it: Any, words: str) -> None:
    break_it(folder)
    with pytest.raises(ModelFileError, match=words):
        rl.load(f"hf:{folder}")


def _edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "white", "size"),
    [
        ({"size": 24}, 1.0, (24, 24)),
        (
            {"size": {"shortest_edge": 48}, "do_center_crop": True, "crop_size": {"height": 40, "width": 44}},
            1.0,
            (40, 44),
        ),
        ({"do_rescale": False, "size": {"shortest_edge": 48}}, 255.0, (48, 48)),
        ({"rescale_factor": 1 / 127.5}, 2.0, None),
    ],
)
def test_what_a_processor_says(tmp_path: Path, fields: dict[str, Any], white: float, size: Any) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_mean": [1, 2, 3], **fields}))
    preprocessing, found = read_processor(path)
    assert (preprocessing.pixel_range, preprocessing.mean, found) == (pytest.approx(white), (1, 2, 3), size)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ArgumentError, match=r"a folder with config\.json"):
        rl.load(f"hf:{tmp_path / 'none'}")
