"""`robustlab corrupt`: corrupted copies of image files, and a contact sheet of all corruptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustlab.cli.errors import OptionError, bad_value

if TYPE_CHECKING:
    from robustlab.core.progress import Progress
    from robustlab.datasets.corruptions.files import Report

_SHOWN = 20


def corrupt(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files, and folders of them. (a sheet alone: default a traffic sign)", show_default=False
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            "-n",
            help="Such as snow; repeatable; robustlab list corruptions names them.",
            show_default=False,
        ),
    ] = None,
    severity: Annotated[
        list[int] | None,
        typer.Option(
            "--severity", "-s", help="1 (mild) to 5; repeatable. (default: 3, or all with --all)", show_default=False
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All nineteen corruptions.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for NAME/SEVERITY/IMAGE.png.", show_default=False),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="PNG file for a contact sheet: corruption by severity, of the first image.", show_default=False
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="Constants of imagenet-c, tiny-imagenet-c or cifar-10-c. (default: by the size of each image)",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="A file that is no usable image is an error.")] = False,
) -> None:
    """Write corrupted copies of images, with the constants of ImageNet-C, Tiny ImageNet-C or CIFAR-10-C.

    Files that are no usable image are skipped and listed. What is there already is not made again: after an
    interruption the same command goes on.

    Example: robustlab corrupt photos/ --name snow --severity 3 --out corrupted
    """  # fmt: skip
    if not (name or every or sheet):
        raise OptionError("--name is not given; allowed: --name NAME, --all or --sheet FILE")
    if name and every:
        raise bad_value("--name", name[0], "left out with --all")
    if out is None and sheet is None:
        raise OptionError("--out is not given; allowed: a folder for the pictures")
    if out is not None and not images:
        raise OptionError("images are not given; allowed: image files, and folders of them")
    if out is not None and not (name or every):
        raise bad_value("--out", str(out), "with --name NAME or --all")
    try:
        if out is not None:
            _files(list(images or []), name, severity, out, seed, table, strict)
        if sheet is not None:
            _sheet(list(images or []), name, sheet, seed, table)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command resumes", err=True)
        raise typer.Exit(130) from None


def _names(given: list[str] | None) -> list[str]:
    """The names as the library spells them; all nineteen where none is given."""
    from robustlab.datasets.corruptions import COMMON, HELD_OUT

    return [name.replace("-", "_") for name in given] if given else [*COMMON, *HELD_OUT]


def _files(
    images: list[Path], names: list[str] | None, severities: list[int] | None, out: Path, seed: int,
    table: str | None, strict: bool,
) -> None:  # fmt: skip
    from robustlab.datasets.corruptions import SEVERITIES
    from robustlab.datasets.corruptions.files import corrupt_files

    wanted = severities or ([3] if names else list(SEVERITIES))
    with _bar() as bar:
        report = corrupt_files(images, _names(names), wanted, out, seed=seed, table=table, strict=strict, progress=bar)
    _say(report, out)


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """A bar on a terminal, nothing elsewhere."""
    from robustlab.cli.live import console, watch

    if not console().is_terminal:
        yield None
        return
    with watch() as watcher:
        yield watcher


def _say(report: Report, out: Path) -> None:
    there = f" ({report.present} were there already)" if report.present else ""
    typer.echo(f"{report.written} pictures written to {out}{there}")
    if report.skipped:
        typer.echo(f"{len(report.skipped)} files skipped:")
        for _, reason in report.skipped[:_SHOWN]:
            typer.echo(f"  {reason}")
        if len(report.skipped) > _SHOWN:
            typer.echo(f"  and {len(report.skipped) - _SHOWN} more")


def _sheet(images: list[Path], names: list[str] | None, path: Path, seed: int, table: str | None) -> None:
    from robustlab.core.errors import invalid
    from robustlab.datasets.corruptions.files import find_sources, read_image
    from robustlab.report.corruption_sheet import corruption_sheet

    if path.suffix.lower() != ".png":
        raise invalid("--sheet", str(path), "a file name that ends in .png")
    if not path.parent.is_dir():
        raise invalid("--sheet", str(path), "a file in an existing folder")
    if images:
        image = read_image(find_sources(images)[0].path)
    else:
        from robustlab.datasets import load_dataset

        image = (load_dataset("signs").batch([0])[0][0] * 255).round().byte()
    path.write_bytes(corruption_sheet(image, _names(names), seed=seed, table=table))
    typer.echo(f"sheet {path}")
