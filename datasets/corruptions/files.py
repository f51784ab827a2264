"""Corrupted copies of image files: a folder for every corruption and severity."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustlab.core.errors import DataError, check_choice, check_int, invalid
from robustlab.core.keys import sample_keys
from robustlab.core.progress import Progress, SilentProgress
from robustlab.datasets.corruptions.registry import CORRUPTIONS, SEVERITIES, corrupt, find, resolve
from robustlab.datasets.corruptions.tables import TABLES
from robustlab.datasets.pictures import open_rgb

RECORD = "corrupt.json"
_PER_FILE = 2**62


@dataclass(frozen=True)
class Source:
    """An image file, and its name inside the folders that are written: a path without its suffix."""

    path: Path
    name: str


@dataclass
class Report:
    """What came of a run: pictures written, pictures that were there already, and what is no usable image and why."""

    written: int = 0
    present: int = 0
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """The files that `paths` name: files themselves, and everything below folders but hidden files, sorted.

    Raises `DataError` for a path that does not exist or where there is no file at all.
    """
    found: list[tuple[Path, Path]] = []
    for path in paths:
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
            found += [(file, file.relative_to(path)) for file in below]
        elif path.is_file():
            found.append((path, Path(path.name)))
        else:
            raise DataError(f"{path} does not exist; allowed: image files and folders of them")
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no files; allowed: image files and folders of them")
    stems = [relative.with_suffix("").as_posix() for _, relative in found]
    many = Counter(stems)
    # a.jpg and a.png would both be written as a.png: those keep their suffix in their name.
    names = [stem if many[stem] == 1 else relative.as_posix() for stem, (_, relative) in zip(stems, found, strict=True)]
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"two of the images are called {name}; allowed: different names")
    return [Source(path, name) for (path, _), name in zip(found, names, strict=True)]


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def read_image(path: Path) -> Tensor:
    """uint8 (3, H, W) of an image file: grey becomes RGB, CMYK too, transparency is dropped, 16 bits become 8.

    Raises `DataError` for a file that cannot be read or is no image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); allowed: readable image files") from error
    pixels = np.array(open_rgb(content, str(path)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def corrupt_files(
    paths: Sequence[Path],
    names: Sequence[str],
    severities: Sequence[int],
    out: Path,
    *,
    seed: int = 0,
    table: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write `out`/NAME/SEVERITY/PATH.png for every image, corruption and severity.

    PNG, because JPEG would add a corruption of its own. A picture is a function of the image, its path below the
    folder given, the condition and the seed; pictures that are there already are kept, so that the same call goes on
    after an interruption. Files that are no usable image are listed in the report, or with `strict` raise `DataError`.

    Raises `ArgumentError` for an unknown corruption or table, another severity or seed, no corruption at all, or a
    folder `out` that holds pictures of another seed or table.
    """
    chosen = list(dict.fromkeys(resolve(name) for name in names))
    if not chosen:
        raise invalid("names", list(names), f"at least one of {', '.join(CORRUPTIONS)}")
    levels = sorted({check_int("severity", s, SEVERITIES[0], SEVERITIES[-1]) for s in severities})
    if not levels:
        raise invalid("severities", list(severities), "at least one from 1 to 5")
    check_int("seed", seed, 0)
    if table is not None:
        check_choice("table", table, TABLES)
    sources = find_sources(paths)
    _record(out, seed, table)
    watch = progress or SilentProgress()
    watch.start("corrupt", len(sources) * len(chosen) * len(levels))
    report = Report()
    for source in sources:
        targets = {
            (name, s): out / name.replace(":", "-") / str(s) / f"{source.name}.png" for name in chosen for s in levels
        }
        missing = {cell: path for cell, path in targets.items() if not path.exists()}
        report.present += len(targets) - len(missing)
        watch.advance(len(targets) - len(missing))
        image = _usable(source, chosen, None if strict else report) if missing else None
        if image is not None:
            _write_pictures(image, source, missing, seed, table, report, watch)
        else:
            watch.advance(len(missing), f"skipped {source.name}" if missing else "")
    watch.finish()
    return report


def _usable(source: Source, names: Sequence[str], report: Report | None) -> Tensor | None:
    """The image; None where it is not usable and there is a report to say so in."""
    try:
        image = read_image(source.path)
        smallest = max(find(name).smallest for name in names)
        height, width = image.shape[1:]
        if min(height, width) < smallest:
            raise DataError(f"{source.path} is {width}x{height} pixels; allowed: sides of at least {smallest}")
    except DataError as error:
        if report is None:
            raise
        report.skipped.append((source.path, str(error)))
        return None
    return image


def _record(out: Path, seed: int, table: str | None) -> None:
    """Leave seed, table and versions in the folder; pictures of two settings in one folder are an error."""
    now = {"seed": seed, "table": table, "versions": {name: c.version for name, c in CORRUPTIONS.items()}}
    path = out / RECORD
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); allowed: the file as it was written") from error
        if before != now:
            raise invalid("out", str(out), f"another folder: {path.name} there tells of another seed, table or version")
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(now, indent=1).encode())
    except OSError as error:
        raise invalid("out", str(out), f"a folder that can be written; {error.strerror}") from error


def _write_pictures(
    image: Tensor,
    source: Source,
    missing: Mapping[tuple[str, int], Path],
    seed: int,
    table: str | None,
    report: Report,
    progress: Progress,
) -> None:
    number = int.from_bytes(hashlib.blake2b(source.name.encode(), digest_size=8).digest(), "little") % _PER_FILE
    for (name, severity), path in missing.items():
        keys = sample_keys(seed, f"{name}-{severity}", [number])
        levels = corrupt(image.unsqueeze(0), name, severity, keys, table)[0]
        buffer = io.BytesIO()
        Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, buffer.getvalue())
        report.written += 1
        progress.advance(1, f"{name} {severity}  {source.name}")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: what exists is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
