"""Pipelines: that the intended path of every library ran (by differences that are known), keys, files of all kinds."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from robustlab.core import ArgumentError, DataError
from robustlab.datasets import load_dataset
from robustlab.datasets.files import lossless
from robustlab.datasets.systematic import (
    COLOURS,
    DECODERS,
    PROTOCOLS,
    REFERENCE_KEY,
    RESIZERS,
    Pipeline,
    PipelineImages,
    develop,
    inapplicable,
    parse_pipeline,
)
from robustlab.datasets.systematic import libraries as libs
from robustlab.datasets.systematic.decoders import decode, with_orientation
from robustlab.datasets.systematic.pipeline import is_pipeline_key

REAL = Path(os.environ.get("ROBUSTLAB_DATA") or Path(__file__).parents[4] / "shared" / "data")
Pixels = NDArray[np.uint8]


def needs(*names: str) -> pytest.MarkDecorator:
    absent = libs.missing(names)
    return pytest.mark.skipif(absent is not None, reason=str(absent))


def scene(height: int = 120, width: int = 150) -> Pixels:
    """Smooth colour waves, a hard edge and fine stripes: what decoders and resizers treat differently."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [127 + 100 * np.sin(x / a + c) * np.cos(y / b) for a, b, c in ((9, 13, 0), (17, 7, 1), (23, 29, 2))]
    pixels = np.stack(waves, axis=2)
    pixels[:, width // 2 :, 0] = 255 - pixels[:, width // 2 :, 0]
    pixels[height // 2 :, :, :] += 25 * ((x[height // 2 :] % 3) < 1)[..., None]
    return np.asarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(pixels: Pixels, kind: str = "JPEG", **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded(scene(), quality=90, subsampling=2)
SIZE = (64, 64)


def through(**parts: str) -> torch.Tensor:
    return Pipeline(**parts)(JPEG, SIZE)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean absolute difference in levels of 8 bits."""
    return float((a - b).abs().mean()) * 255


# Decoders


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs(DECODERS[name].library))
        for name in ("opencv", "opencv.stored", "simplejpeg", "imagecodecs", "pillow.exif")
    ],
)
def test_these_decoders_are_one_and_the_same(name: str) -> None:
    """All contain libjpeg-turbo: the axis between them is empty, which is why the suite does not measure it."""
    reference = decode(DECODERS["pillow"], JPEG, SIZE, "x")
    assert np.array_equal(decode(DECODERS[name], JPEG, SIZE, "x"), reference)


@needs("simplejpeg")
def test_fast_decoding_repeats_chroma() -> None:
    """A grey picture shows the fast DCT alone; colours show that chroma is the same in blocks of two by two."""
    chroma = np.full((32, 32, 3), 128, np.uint8)
    chroma[:, 16:] = (200, 60, 60)
    content = encoded(chroma, quality=95, subsampling=2)
    fast = decode(DECODERS["simplejpeg.fast"], content, (32, 32), "x").astype(np.int64)
    smooth = decode(DECODERS["pillow"], content, (32, 32), "x").astype(np.int64)
    cr_fast, cr_smooth = (p[..., 0] - p[..., 1] for p in (fast, smooth))
    assert np.array_equal(cr_fast[:, 0::2], cr_fast[:, 1::2])
    assert not np.array_equal(cr_smooth[:, 0::2], cr_smooth[:, 1::2])
    whole = decode(DECODERS["simplejpeg.fast"], JPEG, SIZE, "x")
    assert 0 < np.abs(whole.astype(int) - decode(DECODERS["pillow"], JPEG, SIZE, "x")).mean() < 6


@needs("ffmpeg")
def test_ffmpeg_decodes_by_itself() -> None:
    """Within a level where chroma is whole, further away where it is at half resolution; PNG is exact."""
    full = encoded(scene(), quality=90, subsampling=0)
    near, far = (
        np.abs(decode(DECODERS["ffmpeg"], c, SIZE, "x").astype(int) - decode(DECODERS["pillow"], c, SIZE, "x")).mean()
        for c in (full, JPEG)
    )
    assert 0 < near < 0.6 and far > 1.5 * near
    assert np.array_equal(decode(DECODERS["ffmpeg"], encoded(scene(), "PNG"), SIZE, "x"), scene())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pillow.draft", (60, 75)),
        pytest.param("simplejpeg.scaled", (60, 75), marks=needs("simplejpeg")),
    ],
)
def test_scaled_decoding_keeps_what_is_needed(name: str, shape: tuple[int, int]) -> None:
    assert decode(DECODERS[name], JPEG, (60, 60), "x").shape == (*shape, 3)
    assert decode(DECODERS[name], JPEG, (119, 119), "x").shape == (120, 150, 3)
    assert np.array_equal(decode(DECODERS[name], JPEG, (120, 150), "x"), decode(DECODERS["pillow"], JPEG, SIZE, "x"))


@pytest.mark.parametrize(
    ("name", "turns"),
    [
        ("pillow", False),
        ("pillow.exif", True),
        pytest.param("opencv", True, marks=needs("opencv")),
        pytest.param("opencv.stored", False, marks=needs("opencv")),
        pytest.param("simplejpeg", False, marks=needs("simplejpeg")),
        pytest.param("imagecodecs", False, marks=needs("imagecodecs")),
        pytest.param("ffmpeg", False, marks=needs("ffmpeg")),
    ],
)
def test_who_obeys_the_tag_of_orientation(name: str, turns: bool) -> None:
    tagged = with_orientation(JPEG, 6)
    with Image.open(io.BytesIO(tagged)) as image:
        assert image.getexif()[0x0112] == 6
    plain = decode(DECODERS[name], JPEG, SIZE, "x")
    expected = np.rot90(plain, -1) if turns else plain
    assert np.array_equal(decode(DECODERS[name], tagged, SIZE, "x"), expected)


@needs("opencv")
def test_an_upright_picture_with_a_wrong_tag_lies_on_its_side() -> None:
    assert np.array_equal(
        decode(DECODERS["opencv.exif6"], JPEG, SIZE, "x"), np.rot90(decode(DECODERS["pillow"], JPEG, SIZE, "x"), -1)
    )


def kinds() -> dict[str, bytes]:
    pixels = scene(24, 30)
    grey = Image.fromarray(pixels).convert("L")
    found = {}
    for name, image, kind in (
        ("grey.jpg", grey, "JPEG"),
        ("cmyk.jpg", Image.fromarray(pixels).convert("CMYK"), "JPEG"),
        ("grey.png", grey, "PNG"),
        ("alpha.png", Image.fromarray(pixels).convert("RGBA"), "PNG"),
        ("sixteen.png", Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        ("palette.png", Image.fromarray(pixels).quantize(16), "PNG"),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found[name] = buffer.getvalue()
    return found


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_decoder_takes_every_kind_of_picture_or_says_why_not(kind: str) -> None:
    content = kinds()[kind]
    reference = decode(DECODERS["pillow"], content, (8, 8), kind).astype(int)
    assert reference.shape == (24, 30, 3)
    if kind == "sixteen.png":
        assert np.array_equal(reference[..., 0], np.asarray(Image.fromarray(scene(24, 30)).convert("L")))
    for decoder in DECODERS.values():
        if decoder.name in ("opencv.exif6", "simplejpeg.scaled", "pillow.draft") or not libs.is_installed(
            decoder.library
        ):
            continue
        try:
            found = decode(decoder, content, (8, 8), kind)
        except DataError as error:
            assert kind in str(error) and (decoder.jpeg_only or decoder.name == "ffmpeg")
            assert decoder.name in str(error)
            continue
        assert found.shape == reference.shape and found.dtype == np.uint8
        assert np.abs(found - reference).mean() < 4, decoder.name


@pytest.mark.parametrize("name", list(DECODERS))
def test_broken_files_are_named(name: str) -> None:
    decoder = DECODERS[name]
    if not libs.is_installed(decoder.library):
        pytest.skip(f"{decoder.library} is not installed")
    for content in (b"", b"no picture", JPEG[:40], b"\xff\xd8\xff" + bytes(100)):
        with pytest.raises(DataError, match="sample 7"):
            decode(decoder, content, SIZE, "sample 7")
    if decoder.jpeg_only:
        with pytest.raises(DataError, match=r"sample 7 is no JPEG"):
            decode(decoder, encoded(scene(), "PNG"), SIZE, "sample 7")


# Resizers


def test_pillow_widens_its_filters_and_nearest_takes_the_middle() -> None:
    pixels = scene(64, 64)
    half = RESIZERS["pillow.box"].resize(pixels, (32, 32)).astype(int)
    means = pixels.astype(int).reshape(32, 2, 32, 2, 3).sum(axis=(1, 3))
    assert np.abs(half - means / 4).max() <= 1  # rounded after each of two passes
    assert np.array_equal(RESIZERS["pillow.nearest"].resize(pixels, (32, 32)), pixels[1::2, 1::2])


@needs("opencv")
def test_opencv_takes_the_corner_does_not_widen_and_averages_areas() -> None:
    pixels = scene(64, 64)
    assert np.array_equal(RESIZERS["opencv.nearest"].resize(pixels, (32, 32)), pixels[0::2, 0::2])
    area = RESIZERS["opencv.area"].resize(pixels, (32, 32)).astype(float)
    assert np.abs(area - pixels.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))).max() <= 0.51
    quarter = pixels.reshape(16, 4, 16, 4, 3)[:, 1:3, :, 1:3].mean(axis=(1, 3))
    assert np.abs(RESIZERS["opencv.bilinear"].resize(pixels, (16, 16)) - quarter).max() <= 1


@needs("opencv")
def test_without_antialiasing_torch_and_opencv_agree_and_pillow_does_not() -> None:
    plain, widened = through(resizer="torch.bilinear"), through(resizer="torch.bilinear.aa")
    assert distance(plain, through(resizer="opencv.bilinear.float")) < 0.01
    assert distance(widened, through(resizer="pillow.bilinear.float")) < 0.01
    assert distance(plain, widened) > 1


def test_rounding_to_eight_bits_costs_a_third_of_a_level() -> None:
    """Two roundings to whole numbers are off by about a third of a level on average, and never by more than 1."""
    for exact, rounded in (
        ("pillow.bilinear.float", "pillow.bilinear"),
        ("torch.bilinear.aa", "torch.bilinear.aa.uint8"),
    ):
        difference = (through(resizer=exact) - through(resizer=rounded)).abs() * 255
        assert 0.15 < float(difference.mean()) < 0.45 and float(difference.max()) < 1.3
        assert torch.equal((through(resizer=rounded) * 255).round() / 255, through(resizer=rounded))


@pytest.mark.parametrize("name", list(RESIZERS))
def test_resizers_give_the_size_the_range_and_the_identity(name: str) -> None:
    resizer = RESIZERS[name]
    if not libs.is_installed(resizer.library):
        pytest.skip(f"{resizer.library} is not installed")
    pixels = scene(40, 30)
    same = resizer.resize(pixels, (40, 30))
    scaled = same if same.dtype == np.uint8 else same * 255
    assert np.abs(scaled - pixels.astype(float)).max() < 1e-3
    for size in ((17, 23), (90, 41)):
        found = resizer.resize(pixels, size)
        assert found.shape == (*size, 3) and found.dtype in (np.uint8, np.float32)
        assert found.min() >= 0 and found.max() <= (255 if found.dtype == np.uint8 else 1)
    others = [r for r in RESIZERS if r != name and libs.is_installed(RESIZERS[r].library)]
    mine = through(resizer=name)
    # What is said to be another resizer is another one; only these agree, to the last bits, or now and then a level.
    twins = [
        {"torch.bilinear", "opencv.bilinear.float"},
        {"torch.bilinear.aa", "pillow.bilinear.float"},
        {"torch.bilinear.aa.uint8", "pillow.bilinear"},
    ]
    assert all(distance(mine, through(resizer=r)) > 0.1 for r in others if {name, r} not in twins)


# Colour


def test_swapped_colours_are_swapped() -> None:
    assert torch.equal(through(colour="bgr"), through().flip(0))


@needs("ffmpeg", "opencv")
def test_nv12_has_half_the_chroma_and_the_matrix_and_range_it_says() -> None:
    flat = np.full((33, 35, 3), (200, 90, 40), np.uint8)
    for name in ("nv12.601", "nv12.601full", "nv12.709", "nv12.opencv"):
        found = COLOURS[name].convert(flat)
        assert found.shape == flat.shape and np.abs(found.astype(int) - flat).max() <= 3, name
    stripes = flat.copy()
    stripes[:, ::2] = (40, 90, 200)
    # Red and blue columns: swscale averages the chroma of two pixels, OpenCV takes that of the first for both.
    for name, low, high in (("nv12.601", 0, 40), ("nv12.opencv", 120, 180)):
        chroma = COLOURS[name].convert(stripes).astype(int)
        difference = np.abs(chroma[..., 0] - chroma[..., 2])[:, 4:-4]
        assert low <= difference.min() and difference.max() < high, name
    grey = np.full((32, 32, 3), 200, np.uint8)
    assert abs(int(COLOURS["nv12.fullaslimited"].convert(grey)[16, 16, 0]) - (200 - 16) * 255 / 219) <= 3
    assert abs(int(COLOURS["nv12.limitedasfull"].convert(grey)[16, 16, 0]) - (16 + 200 * 219 / 255)) <= 3
    moved = COLOURS["nv12.709as601"].convert(flat).astype(int)[16, 16] - flat[16, 16]
    assert np.abs(moved).max() > 5  # the matrices are not the same
    assert np.abs(COLOURS["nv12.709as601"].convert(grey).astype(int) - grey).max() <= 2  # and grey has no chroma


# Protocols and pipelines


def test_protocols_are_those_of_imagenet_s_and_torchvision() -> None:
    """256 for 224, both sides or the shorter one; the offset of the crop as torchvision rounds it."""
    from torchvision.transforms import functional

    pixels = scene(150, 201)
    content = encoded(pixels, "PNG")
    image = Image.fromarray(pixels)
    square = functional.center_crop(image.resize((256, 256), Image.Resampling.BILINEAR), [224, 224])
    short = functional.center_crop(functional.resize(image, 256), [224, 224])  # type: ignore[arg-type]
    for name, expected in (("square", square), ("short", short)):
        found = Pipeline(protocol=name)(content, (224, 224))
        assert torch.equal((found * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(expected)))
    small = Image.fromarray(pixels).resize((28, 28), Image.Resampling.BILINEAR).resize((32, 32), 2)
    found = Pipeline(protocol="via0.875")(content, (32, 32))
    assert torch.equal((found * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(small)))
    tall = encoded(np.ascontiguousarray(pixels.transpose(1, 0, 2)), "PNG")
    assert all(Pipeline(protocol=name)(tall, (40, 56)).shape == (3, 40, 56) for name in PROTOCOLS)


def test_direct_on_images_of_the_right_size_is_the_identity() -> None:
    images = load_dataset("signs").batch(range(3))[0]
    assert torch.equal(develop(lossless(images), Pipeline(protocol="direct"), (64, 64)), images)


def test_keys_name_pipelines() -> None:
    assert Pipeline().key == REFERENCE_KEY and parse_pipeline(REFERENCE_KEY) == Pipeline()
    odd = parse_pipeline("simplejpeg.fast-nv12.601-torch.bicubic.aa-via0.875")
    assert odd.libraries == ("simplejpeg", "ffmpeg", "torch") and odd.factor(Pipeline()) == "several"
    assert Pipeline(colour="bgr").factor(Pipeline()) == "bug"
    assert [Pipeline(**{f: v}).factor(Pipeline()) for f, v in (("decoder", "ffmpeg"), ("protocol", "short"))] == [
        "decoder",
        "protocol",
    ]
    assert Pipeline().factor(Pipeline()) == "none"
    assert not is_pipeline_key("gaussian-noise-3") and is_pipeline_key("pillow-x-y-z")
    for key, words in (
        ("pillow-rgb-pillow.bilinaer-square", "resizer.*did you mean pillow.bilinear"),
        ("pillow-rgb-square", "decoder-colour-resizer-protocol"),
        ("ffmpeg-nv21-pillow.box-short", "colour is 'nv21'"),
    ):
        with pytest.raises(ArgumentError, match=words):
            parse_pipeline(key)


def test_a_missing_library_is_said_and_never_imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libs._LIBRARIES, "ffmpeg", ("no_such_module", "av"))
    pipeline, signs = Pipeline("ffmpeg"), load_dataset("signs")
    assert "av not installed" in str(pipeline.missing())
    assert inapplicable(pipeline, signs) == pipeline.missing()
    with pytest.raises(ArgumentError, match=r"robustlab\[systematic\]"):
        PipelineImages(signs, pipeline)
    with pytest.raises(DataError, match="av not installed"):
        pipeline(JPEG, SIZE)
    with pytest.raises(DataError, match="av not installed"):
        pipeline.versions()


def test_decoders_do_not_apply_to_data_without_files() -> None:
    signs = load_dataset("signs")
    assert inapplicable(Pipeline(resizer="torch.bicubic"), signs) is None
    if libs.is_installed("simplejpeg"):
        assert "no files" in str(inapplicable(Pipeline("simplejpeg"), signs))


def test_a_data_set_through_a_pipeline(tmp_path: Path) -> None:
    """The calibration images of a deployment: those of the files, by one pipeline or another."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.jpg").write_bytes(JPEG if label == "a" else encoded(scene(80, 70), quality=80))
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=32)
    pipeline = Pipeline(resizer="torch.bilinear", protocol="short")
    piped = PipelineImages(data, pipeline)
    images, labels = piped.batch([1, 0])
    source = [*data.files([1, 0])]  # type: ignore[attr-defined]
    assert (
        torch.equal(images, develop(source, pipeline, (32, 32))) and labels.tolist() == data.batch([1, 0])[1].tolist()
    )
    assert piped.fingerprint not in (data.fingerprint, PipelineImages(data, Pipeline()).fingerprint)
    (tmp_path / "a" / "y.png").write_bytes(encoded(scene(), "PNG"))
    mixed = load_dataset(f"imagefolder:{tmp_path}", image_size=32)
    assert "JPEG files only" in str(inapplicable(Pipeline("pillow.draft"), mixed))


def test_versions_name_the_codec_inside() -> None:
    assert "libjpeg-turbo" in Pipeline().versions()["pillow"]


@pytest.mark.skipif(not REAL.is_dir(), reason="ROBUSTLAB_DATA names no folder of real data")
@needs("ffmpeg", "simplejpeg", "opencv")
def test_real_photos_have_the_known_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean differences from the reference that were measured on photos of this set, within a third."""
    monkeypatch.setenv("ROBUSTLAB_DATA", str(REAL))
    files = load_dataset("imagenet-originals").files(range(8))  # type: ignore[attr-defined]
    reference = develop(files, Pipeline(), (224, 224))

    def off(**parts: str) -> float:
        return distance(develop(files, Pipeline(**parts), (224, 224)), reference)

    known = {"opencv.nearest": 11.6, "pillow.nearest": 7.4, "opencv.area": 1.5, "pillow.bicubic": 1.8}
    for resizer, expected in known.items():
        assert expected / 1.5 < off(resizer=resizer) < expected * 1.5, resizer
    assert off(decoder="ffmpeg") < 0.5 < off(decoder="simplejpeg.fast") < 2
