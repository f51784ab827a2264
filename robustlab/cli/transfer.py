"""`robustlab transfer`: what fools one precision, and which others it fools as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustlab.cli.options import images_limit

if TYPE_CHECKING:
    from robustlab.evaluate.transfer_study import MatrixRow

_STORE, _RESULTS, _TABLE, _PICTURE = "transfer-kept.json", "transfer.json", "transfer.csv", "transfer.png"


def transfer(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="robustlab:NAME, torchvision:NAME@FILE or the path of a model file; repeatable. "
            "(default: the bundled traffic-sign models)",
            show_default=False,
        ),
    ] = None,
    attack: Annotated[
        str, typer.Option("--attack", "-a", help="What makes the images; robustlab list attacks names them.")
    ] = "pgd20-linf-8of255",
    data: Annotated[
        str, typer.Option("--data", "-d", help="signs, cifar10, gtsrb, mnist or imagefolder:PATH.")
    ] = "signs",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images of an imagefolder. (default: what the models were made for, else 224)",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        str, typer.Option(help="The first so many images, a fraction of them such as 0.1, or all.")
    ] = "256",
    compress: Annotated[
        list[str] | None,
        typer.Option(
            help="Add a deployed twin of every float model: w2a2 to w8a8, such as w4a8, or none; repeatable "
            "(default: w8a8 if every --model is float)",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    tile: Annotated[int, typer.Option(help="Images per call of a model.")] = 64,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the matrix.")] = Path("robustlab-transfer"),
) -> None:
    """Make adversarial images on every model and judge them on every other: the cross-precision matrix.

    Rows are the models that images are made on, columns those that they are shown to; on the diagonal is the attack on
    the model itself. Rows that the folder has are not computed again: after an interruption the same command goes on.

    Example: robustlab transfer -m robustlab:signs_float -m robustlab:signs_w4a4 --attack pgd20-linf-4of255
    """
    count = images_limit(limit)
    try:
        _transfer(model or [], attack, data, image_size, count, compress, seed, tile, out)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command resumes", err=True)
        raise typer.Exit(130) from None


def _transfer(
    specs: Sequence[str],
    slug: str,
    data: str,
    image_size: int | None,
    limit: int | float | None,
    schemes: Sequence[str] | None,
    seed: int,
    tile: int,
    out: Path,
) -> None:
    import json

    from robustlab.attacks import parse_attack
    from robustlab.cli.live import watch
    from robustlab.cli.targets import check_folder
    from robustlab.cli.twins import with_twins
    from robustlab.core.errors import check_int
    from robustlab.deploy import load
    from robustlab.evaluate.environment import versions
    from robustlab.evaluate.plan import count_images
    from robustlab.evaluate.transfer_study import csv_text, transfer_study
    from robustlab.report.transfer import transfer_picture

    attack = parse_attack(slug)
    check_int("--seed", seed, 0)
    check_int("--tile", tile, 1, 65536)
    named, tested = with_twins(specs, schemes, data, typer.echo, image_size)
    models = {name: load(model) if isinstance(model, str) else model for name, model in named.items()}
    check_folder("--out", out)
    with watch() as watcher:
        rows = transfer_study(
            attack, models, tested, images=count_images(limit, len(tested)), seed=seed, tile=tile, kept=out / _STORE,
            progress=watcher,
        )  # fmt: skip
    run = {"versions": versions(), "data": tested.name, "attack": attack.slug, "seed": seed, "tile": tile}
    content = {"schema": 1, "run": run, "cells": rows}
    (out / _RESULTS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / _TABLE).write_text(csv_text(rows), encoding="utf-8")
    (out / _PICTURE).write_bytes(transfer_picture(rows, attack.slug))
    for line in _table(rows, attack.slug):
        typer.echo(line)
    for name in (_RESULTS, _TABLE, _PICTURE):
        typer.echo(f"matrix  {out / name}")


def _table(rows: Sequence[MatrixRow], slug: str) -> list[str]:
    """The matrix as text."""
    names = list(dict.fromkeys(row["target"] for row in rows))
    cells = {(row["source"], row["target"]): row for row in rows}
    width, first = max(18, *(len(name) for name in names)), max(len("made on"), *(len(name) for name in names))
    lines = [
        f"accuracy % [95 % interval] under {slug}, {rows[0]['n']} images; rows: made on, columns: shown to",
        "  ".join([f"{'made on':<{first}}", *(f"{name:>{width}}" for name in names)]),
        "  ".join([f"{'(clean)':<{first}}", *(f"{100 * cells[names[0], n]['clean']:>{width}.1f}" for n in names)]),
    ]
    for source in names:
        texts = []
        for target in names:
            row = cells[source, target]
            low, high = 100 * row["ci_low"], 100 * row["ci_high"]
            text = f"{100 * row['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
            texts.append(f"{text:>{width}}")
        lines.append("  ".join([f"{source:<{first}}", *texts]))
    silent = {row["source"]: row["not_attacked"] for row in rows if row["not_attacked"]}
    lines += [f"{name}: {count} images could not be attacked" for name, count in silent.items()]
    return lines
