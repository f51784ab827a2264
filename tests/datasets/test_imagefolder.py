"""Folders of images: classes, splits, resizing, fingerprints and every way a folder can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustlab.core import ArgumentError, DataError
from robustlab.datasets import ImageFolder, load_dataset


def save(path, colour=(10, 20, 30), size=(12, 10), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


def test_classes_are_sorted_and_labels_follow(tmp_path):
    save(tmp_path / "zebra" / "1.png", (200, 0, 0))
    save(tmp_path / "ant" / "b.bmp", (0, 200, 0))
    save(tmp_path / "ant" / "deep" / "a.PNG", (0, 0, 200))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("not an image")
    (tmp_path / "ant" / ".hidden.png").write_bytes(b"junk")
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=8)
    assert data.name == "imagefolder" and data.class_names == ("ant", "zebra") and data.image_size == (8, 8)
    assert len(data) == 3
    images, labels = data.batch([2, 0, 1])
    assert labels.dtype == torch.int64
    assert images.shape == (3, 3, 8, 8) and images.dtype == torch.float32 and images.is_contiguous()
    # Red is the zebra; green and blue are the ants.
    seen = dict(zip(images.mean(dim=(2, 3)).argmax(dim=1).tolist(), labels.tolist(), strict=True))
    assert seen == {0: 1, 1: 0, 2: 0}
    assert torch.equal(torch.round(images * 255) / 255, images)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp", "ppm"])
def test_formats(tmp_path, suffix):
    save(tmp_path / "a" / f"x.{suffix}", (40, 90, 200), (30, 30))
    images, _ = ImageFolder(tmp_path, image_size=16).batch([0])
    expected = torch.tensor([40, 90, 200])[:, None, None] / 255
    assert (images[0] - expected).abs().max() < 6 / 255


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_other_modes_become_rgb(tmp_path, mode):
    (tmp_path / "a").mkdir()
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (9, 9)).save(tmp_path / "a" / f"x.{suffix}")
    assert ImageFolder(tmp_path, image_size=4).batch([0])[0].shape == (1, 3, 4, 4)


@pytest.mark.parametrize(("size", "side"), [((40, 20), 10), ((20, 40), 10), ((7, 33), 10), ((10, 10), 10), ((1, 1), 3)])
def test_resize_shorter_side_then_centre_crop(tmp_path, size, side):
    generator = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    images, _ = ImageFolder(tmp_path, image_size=side).batch([0])
    scale = side / min(size)
    resized = Image.fromarray(pixels).resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BICUBIC)
    full = np.asarray(resized)
    top, left = (full.shape[0] - side) // 2, (full.shape[1] - side) // 2
    expected = full[top : top + side, left : left + side]
    assert np.array_equal(np.round(images[0].permute(1, 2, 0).numpy() * 255).astype(int), expected)


def test_default_size(tmp_path):
    save(tmp_path / "a" / "x.png")
    assert ImageFolder(tmp_path).batch([0])[0].shape == (1, 3, 224, 224)


def test_split_folders(tmp_path):
    save(tmp_path / "train" / "a" / "1.png", (200, 0, 0))
    save(tmp_path / "val" / "a" / "1.png", (0, 200, 0))
    save(tmp_path / "val" / "b" / "2.png", (0, 200, 0))
    train, test = ImageFolder(tmp_path, "train", image_size=4), ImageFolder(tmp_path, "test", image_size=4)
    assert (len(train), len(test)) == (1, 2) and train.fingerprint != test.fingerprint
    assert int(train.batch([0])[0][0].mean(dim=(1, 2)).argmax()) == 0
    save(tmp_path / "test" / "a" / "1.png")
    assert len(ImageFolder(tmp_path, "test")) == 1


def test_a_class_called_train_is_a_class(tmp_path):
    save(tmp_path / "train" / "1.png")
    save(tmp_path / "car" / "1.png")
    assert ImageFolder(tmp_path).class_names == ("car", "train")


def test_a_split_that_is_not_there(tmp_path):
    save(tmp_path / "a" / "1.png")
    assert len(ImageFolder(tmp_path)) == 1
    with pytest.raises(DataError, match="has no train split; allowed: a folder train"):
        ImageFolder(tmp_path, "train")
    save(tmp_path / "b" / "train" / "c" / "1.png")
    with pytest.raises(DataError, match="has no test split; allowed: a folder test or val"):
        ImageFolder(tmp_path / "b", "test")


def test_fingerprint_follows_content(tmp_path):
    save(tmp_path / "a" / "1.png")
    first = ImageFolder(tmp_path).fingerprint
    assert ImageFolder(tmp_path).fingerprint == first
    assert ImageFolder(tmp_path, image_size=32).fingerprint != first
    save(tmp_path / "a" / "1.png", (11, 20, 30))
    second = ImageFolder(tmp_path).fingerprint
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / "2.png")
    assert len({first, second, ImageFolder(tmp_path).fingerprint}) == 3


def test_missing_empty_and_flat(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_dataset(f"imagefolder:{tmp_path / 'nowhere'}")
    for prepare in (lambda: None, lambda: (tmp_path / "a").mkdir(), lambda: save(tmp_path / "flat.png")):
        prepare()
        with pytest.raises(DataError, match=r"holds no images; allowed: class sub-folders of .bmp, .jpeg") as error:
            load_dataset(f"imagefolder:{tmp_path}")
        assert "\n" not in str(error.value)


def test_a_broken_file_is_named(tmp_path):
    save(tmp_path / "a" / "good.png", size=(50, 50))
    content = (tmp_path / "a" / "good.png").read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(content[:60])
    (tmp_path / "a" / "text.jpg").write_text("hello")
    (tmp_path / "a" / "zero.webp").write_bytes(b"")
    data = ImageFolder(tmp_path, image_size=8)
    assert len(data) == 4
    refused = set()
    for index in range(4):
        try:
            assert data.batch([index])[0].shape == (1, 3, 8, 8)
        except DataError as error:
            assert "cannot be decoded" in str(error) and "\n" not in str(error)
            refused |= {name for name in ("cut.png", "text.jpg", "zero.webp") if name in str(error)}
    assert refused == {"cut.png", "text.jpg", "zero.webp"}


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    save(tmp_path / "a" / "x.png", size=(50, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"x\.png cannot be decoded"):
        ImageFolder(tmp_path, image_size=8).batch([0])


@pytest.mark.parametrize("size", [0, -3, 2.5, 100_000])
def test_bad_image_size(tmp_path, size):
    save(tmp_path / "a" / "x.png")
    with pytest.raises(ArgumentError, match="image_size is"):
        ImageFolder(tmp_path, image_size=size)


@pytest.mark.parametrize(("size", "middle"), [((60_000, 1), 30_000), ((1, 60_000), 30_000), ((4000, 20), 2000)])
def test_a_very_long_image_is_cut_before_it_is_resized(tmp_path, monkeypatch, size, middle):
    """Resized whole, the first of these would be 13 million pixels wide."""
    (tmp_path / "a").mkdir()
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    around = slice(middle - 40, middle + 40)
    pixels[:, around] = 200
    if size[1] > size[0]:
        pixels[around] = 200
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    resize, sizes = Image.Image.resize, []

    def recorded(image, size, *options):
        sizes.append(size)
        assert max(size) <= 8 * 224
        return resize(image, size, *options)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    images, _ = ImageFolder(tmp_path, image_size=224).batch([0])
    assert len(sizes) == 1
    assert torch.equal(images, torch.full((1, 3, 224, 224), 200 / 255))


def test_a_very_long_image_is_cut_about_its_centre(tmp_path):
    (tmp_path / "a").mkdir()
    ramp = np.broadcast_to(np.arange(0, 200, dtype=np.uint8)[None, :, None], (10, 200, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "a" / "x.png")
    images, _ = ImageFolder(tmp_path, image_size=10).batch([0])
    assert torch.equal((images[0, 0, 0] * 255).round().int(), torch.arange(95, 105, dtype=torch.int32))


def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch):
    save(tmp_path / "a" / "x.png", size=(50, 40))
    monkeypatch.setattr("robustlab.datasets.pictures.MAX_PIXELS", 1999)
    with pytest.raises(DataError, match=r"x\.png is 50x40 pixels; allowed: images of at most 1999 pixels"):
        ImageFolder(tmp_path, image_size=8).batch([0])


def test_a_prefix_is_a_sample_of_all_classes(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
        for index in range(30):
            Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / name / f"{index}.png")
    data = ImageFolder(tmp_path, image_size=4)
    _, labels = data.batch(range(40))
    assert min(torch.bincount(labels, minlength=4)) >= 4
    _, everything = data.batch(range(120))
    assert torch.equal(torch.bincount(everything), torch.full((4,), 30))
