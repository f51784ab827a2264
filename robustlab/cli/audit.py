"""`robustlab audit`: whether a model's robust accuracy should be believed, and how low it is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustlab.cli.errors import bad_value
from robustlab.cli.foreign import check_preprocessing, load_given, takes_preprocessing
from robustlab.cli.options import images_limit

if TYPE_CHECKING:
    from robustlab.core import Ball
    from robustlab.deploy import Preprocessing

REPORT = "audit.html"
MISSED = 1


@takes_preprocessing
def audit(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="robustlab:NAME, torchvision:NAME@FILE, or the path of a model file or of an ONNX file.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str, typer.Option("--data", "-d", help="signs, cifar10, gtsrb, mnist or imagefolder:PATH.")
    ] = "signs",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images of an imagefolder. (default: what the model was made for, else 224)",
            show_default=False,
        ),
    ] = None,
    eps: Annotated[
        str, typer.Option(help="The radius for linf, such as 8/255 or 0.3, or a ball such as l2-0.5.")
    ] = "2/255",
    limit: Annotated[
        str, typer.Option(help="The first so many images, a fraction of them such as 0.1, or all.")
    ] = "100",
    reference: Annotated[
        str | None,
        typer.Option(help="A model to transfer from, such as the float network this one was made of."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for finished parts and the report.")] = Path(
        "robustlab-audit"
    ),
    fail_below: Annotated[
        str | None, typer.Option(help="Exit with 1 if the grade is worse than this one, A to F.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads that torch uses. (default: torch's choice)", show_default=False)
    ] = None,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Grade from A to F whether a model only hides its gradient, and find its lowest robust accuracy.

    What the folder has already is not computed again: after an interruption the same command goes on.

    Example: robustlab audit robustlab:signs_w4a4 --eps 4/255 --reference robustlab:signs_float --fail-below B
    """
    count = images_limit(limit)
    try:
        missed = _audit(
            model,
            data,
            image_size,
            eps,
            count,
            reference,
            seed,
            out,
            fail_below,
            threads,
            preprocessing,
            context.obj or (),
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command resumes", err=True)
        raise typer.Exit(130) from None
    if missed:
        raise typer.Exit(MISSED)


def parse_radius(text: str) -> Ball:
    """``8/255``, ``0.03`` or a ball's slug; raises an error of one line."""
    from robustlab.core import ArgumentError, Linf
    from robustlab.core.balls import parse_ball
    from robustlab.evaluate.audit.api import can_audit

    allowed = "a radius > 0 such as 8/255 or 0.3 for linf, or a ball such as linf-8of255 or l2-0.5"
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(\d+))?", text)
    try:
        ball = parse_ball(text) if match is None else Linf(float(match[1]) / int(match[2] or 1))
    except (ArgumentError, ZeroDivisionError):
        raise bad_value("--eps", text, allowed) from None
    if not can_audit(ball):
        raise bad_value("--eps", text, allowed)
    return ball


def _audit(
    model: str,
    data: str,
    image_size: int | None,
    eps: str,
    limit: int | float | None,
    reference: str | None,
    seed: int,
    out: Path,
    fail_below: str | None,
    threads: int | None,
    preprocessing: Preprocessing | None,
    arguments: Sequence[str],
) -> bool:
    import torch

    from robustlab.cli.live import watch
    from robustlab.cli.targets import check_folder
    from robustlab.core.errors import check_choice, check_int
    from robustlab.evaluate.audit import GRADES, below
    from robustlab.evaluate.audit import audit as run_audit
    from robustlab.evaluate.data import open_data
    from robustlab.report.audit import write_audit_report

    ball = parse_radius(eps)
    if fail_below is not None:
        check_choice("--fail-below", fail_below, GRADES)
    check_int("--seed", seed, 0)
    if threads is not None:
        torch.set_num_threads(check_int("--threads", threads, 1, 1024))
    check_preprocessing(preprocessing, [model, *([] if reference is None else [reference])])
    network = load_given(model, preprocessing)
    other = None if reference is None else load_given(reference, preprocessing)
    dataset = open_data(data, [network], image_size=image_size)
    check_folder("--out", out)
    with watch() as watcher:
        found = run_audit(
            network, dataset, ball=ball, reference=other, limit=limit, out=out, seed=seed, progress=watcher
        )
    report = write_audit_report(found, out / REPORT, command=shlex.join(["robustlab", *arguments]))
    for line in found.lines():
        typer.echo(line)
    reused = found.run["parts_from_store"]
    typer.echo(f"report     {report} (and audit.json; {reused} parts were there already)")
    return fail_below is not None and below(found.grade, fail_below)
