"""`robustlab corrupt`: pictures of all kinds, broken files, resuming, sheets and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustlab.cli import run
from robustlab.core.errors import DataError
from robustlab.datasets.corruptions.files import corrupt_files, find_sources, read_image


def levels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two good images, a text file, a broken image and one that is too small."""
    monkeypatch.delenv("ROBUSTLAB_DATA", raising=False)
    folder = tmp_path / "in"
    (folder / "cats").mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)).save(folder / "cats" / "a.png")
    Image.fromarray(rng.integers(0, 256, (40, 24, 3), dtype=np.uint8)).save(folder / "b.jpg")
    Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(folder / "small.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_bytes((folder / "cats" / "a.png").read_bytes()[:200])
    return folder


def test_a_folder(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["corrupt", str(pictures), "--name", "snow", "-n", "frost", "-s", "2", "-s", "5", "--out", str(out)]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert "8 pictures written" in said and "3 files skipped" in said
    assert all(name in said for name in ("notes.txt", "broken.png", "small.png is 9x8"))
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert made == sorted(
        f"{name}/{s}/{image}.png" for name in ("snow", "frost_procedural") for s in (2, 5) for image in ("cats/a", "b")
    )
    before = levels(out / "snow" / "2" / "b.png")
    assert before.shape == (40, 24, 3)
    (out / "snow" / "2" / "b.png").unlink()
    stamp = (out / "snow" / "5" / "b.png").stat().st_mtime_ns
    assert run(command) == 0
    assert "1 pictures written" in (said := capsys.readouterr().out) and "7 were there already" in said
    assert np.array_equal(levels(out / "snow" / "2" / "b.png"), before)
    assert (out / "snow" / "5" / "b.png").stat().st_mtime_ns == stamp
    # The same picture alone: it does not depend on what else is in the folder.
    report = corrupt_files([pictures / "b.jpg"], ["snow"], [2], tmp_path / "alone")
    assert report.written == 1 and np.array_equal(levels(tmp_path / "alone" / "snow" / "2" / "b.png"), before)
    assert run([*command, "--seed", "1"]) == 2
    assert "another seed" in capsys.readouterr().err


def test_strict_stops_at_the_first_file_that_is_no_image(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["corrupt", str(pictures), "--all", "-s", "1", "--out", str(tmp_path / "o"), "--strict"]) == 2
    assert "broken.png" in capsys.readouterr().err


def test_kinds_of_images(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (18, 20, 3), dtype=np.uint8)
    picture = Image.fromarray(rgb)
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.convert("RGBA").save(tmp_path / "alpha.png")
    picture.convert("P").save(tmp_path / "palette.png")
    deep = rgb[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for source in find_sources([tmp_path]):
        assert read_image(source.path).shape == (3, 18, 20) and read_image(source.path).dtype == torch.uint8
    assert np.array_equal(read_image(tmp_path / "deep.png")[0].numpy(), rgb[..., 0])
    assert np.array_equal(read_image(tmp_path / "alpha.png").numpy().transpose(1, 2, 0), rgb)
    report = corrupt_files([tmp_path], ["contrast"], [1], tmp_path / "out")
    assert report.written == 5 and not report.skipped


def test_equal_stems_keep_their_suffix(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"")
    assert [source.name for source in find_sources([tmp_path])] == ["a.jpg", "a.png", "b"]
    with pytest.raises(DataError, match="two of the images are called b"):
        find_sources([tmp_path / "b.png", tmp_path / "b.png"])


def test_a_sheet(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in ([str(pictures / "b.jpg")], []):
        path = tmp_path / "sheet.png"
        assert run(["corrupt", *given, "--sheet", str(path), "--name", "contrast", "--name", "jpeg-compression"]) == 0
        assert str(path) in capsys.readouterr().out
        assert min(levels(path).shape[:2]) > 200
        path.unlink()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["corrupt", "x.png"], "--name is not given"),
        (["corrupt", "x.png", "--name", "snow"], "--out is not given"),
        (["corrupt", "--name", "snow", "--out", "o"], "images are not given"),
        (["corrupt", "x.png", "--name", "snow", "--all", "--out", "o"], "--name is 'snow'; allowed: left out"),
        (["corrupt", "x.png", "--name", "snow", "--out", "o"], "x.png does not exist"),
        (["corrupt", "x.png", "--name", "snw", "--out", "o"], "did you mean snow?"),
        (["corrupt", "x.png", "--name", "snow", "-s", "6", "--out", "o"], "severity is 6"),
        (["corrupt", "x.png", "--name", "snow", "--table", "imagenet", "--out", "o"], "did you mean imagenet-c?"),
        (["corrupt", "--sheet", "s.jpg"], "ends in .png"),
        (["corrupt", "--sheet", "no/s.png"], "existing folder"),
    ],
)
def test_bad_input(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
