"""`robustlab evaluate`: models x conditions -> a live table, a store, a report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustlab.cli.foreign import takes_preprocessing
from robustlab.cli.options import images_limit

if TYPE_CHECKING:
    from torch import nn

    from robustlab.datasets import Dataset
    from robustlab.deploy import Preprocessing
    from robustlab.evaluate import Results

DEFAULT_LIMITS = {"signs": "500"}
OTHER_LIMIT = "1000"
REPORT = "report.html"


@takes_preprocessing
def evaluate(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="robustlab:NAME, torchvision:NAME@FILE, timm:NAME@FILE, hf:FOLDER, trusted:FILE.pt2, or the path of a "
            "model file, an ONNX or a TFLite file; repeatable. "
            "(default: the five bundled models)",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", "-d", help="A name of robustlab list datasets, or imagefolder:PATH.")
    ] = "signs",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images of an imagefolder. (default: what the models were made for, else 224)",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[str, typer.Option(help="A suite's name, or the path of a TOML file.")] = "quick",
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="A condition in place of a suite, such as pgd20-linf-8of255; repeatable.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            help="The first so many images, a fraction of them such as 0.1, or all. (default: 500 of signs, 1000 of "
            "others; what a mini suite was planned for)",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images in memory at once; never changes a result.")] = 512,
    tile: Annotated[int, typer.Option(help="Images per call of a model; recorded with the results.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the store and the report.")] = Path(
        "robustlab-run"
    ),
    threads: Annotated[
        int | None, typer.Option(help="Threads that torch uses. (default: torch's choice)", show_default=False)
    ] = None,
    compress: Annotated[
        list[str] | None,
        typer.Option(
            help="Add a deployed twin of every float model: w2a2 to w8a8, such as w4a8, or none; repeatable "
            "(default: w8a8 if every --model is float)",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The condition whose answers those under the others are compared with. (default: the suite's)",
            show_default=False,
        ),
    ] = None,
    calibrate_through: Annotated[
        str | None,
        typer.Option(
            help="A pipeline of robustlab list pipelines for the images that twins are calibrated with. "
            "(default: the data set's own)",
            show_default=False,
        ),
    ] = None,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Attack, corrupt and time models, and write a report.

    What the folder of results already has is not computed again: after an interruption the same command goes on.

    Example: robustlab evaluate

    Example: robustlab evaluate --model robustlab:cifar_resnet20 --data cifar10 --out runs/resnet20

    Example: robustlab evaluate --model net-int8.onnx --data imagefolder:photos --mean 0.485,0.456,0.406 --std
    0.229,0.224,0.225
    """
    count = images_limit(_default_limit(data, "" if condition else suite) if limit is None else limit)
    try:
        _evaluate(
            model or [],
            data,
            suite,
            condition or [],
            count,
            batch_size,
            tile,
            seed,
            device,
            out,
            threads,
            compress,
            image_size,
            reference,
            calibrate_through,
            preprocessing,
            context.obj or (),
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command resumes", err=True)
        raise typer.Exit(130) from None


def _default_limit(data: str, suite: str) -> str:
    from robustlab.evaluate import SUITES

    mini = SUITES[suite].prediction if suite in SUITES else None
    return DEFAULT_LIMITS.get(data, OTHER_LIMIT) if mini is None else str(mini.images)


def _evaluate(
    specs: Sequence[str],
    data: str,
    suite: str,
    conditions: Sequence[str],
    limit: int | float | None,
    batch_size: int,
    tile: int,
    seed: int,
    device: str,
    out: Path,
    threads: int | None,
    schemes: Sequence[str] | None,
    image_size: int | None,
    reference: str | None,
    pipeline: str | None,
    preprocessing: Preprocessing | None,
    arguments: Sequence[str],
) -> None:
    import torch

    from robustlab.cli.live import watch
    from robustlab.cli.twins import with_twins
    from robustlab.core.errors import check_int, invalid
    from robustlab.datasets.systematic import parse_pipeline
    from robustlab.evaluate import evaluate as run_evaluation
    from robustlab.evaluate import load_suite
    from robustlab.evaluate.plan import check_out
    from robustlab.models import BUNDLED
    from robustlab.report import write_report

    # Checked here as well as in the evaluation, because making twins is work that should not come before it.
    if conditions and suite != "quick":
        raise invalid("--condition", ", ".join(conditions), f"no --condition beside --suite {suite}")
    check_int("--batch-size", batch_size, 1)
    check_int("--tile", tile, 1, 65536)
    check_int("--seed", seed, 0)
    chosen = load_suite(list(conditions) if conditions else suite)
    if reference is not None:
        chosen = replace(chosen, reference=reference)
    if pipeline is not None:
        parse_pipeline(pipeline)
    check_out(out)
    _check_report_path(out)
    if threads is not None:
        torch.set_num_threads(check_int("--threads", threads, 1, 1024))
    models: list[str] | dict[str, nn.Module | str] = [f"robustlab:{name}" for name in BUNDLED]
    dataset: Dataset | str = data
    if specs or schemes or any(given is not None for given in (image_size, pipeline, preprocessing)):
        models, dataset = with_twins(specs, schemes, data, _say, image_size, pipeline, preprocessing)
    with watch() as watcher:
        results = run_evaluation(
            models,
            dataset,
            chosen,
            out=out,
            limit=limit,
            batch_size=batch_size,
            tile=tile,
            seed=seed,
            device=device,
            progress=watcher,
            listener=watcher,
        )
    write_report(results, out / REPORT, command=shlex.join(["robustlab", *arguments]))
    _summary(results, out)


def _check_report_path(out: Path) -> None:
    from robustlab.core.errors import invalid

    for name in (REPORT, "results.csv", "results.json", "results.sqlite"):
        if (out / name).is_dir():
            raise invalid("--out", str(out), f"a folder in which {name} is not a folder")


def _say(text: str) -> None:
    typer.echo(text)


def _summary(results: Results, out: Path) -> None:
    from robustlab.cli.live import console
    from robustlab.evaluate.agreement import agreement_text
    from robustlab.evaluate.prediction import predicted_texts
    from robustlab.evaluate.store import FILE_NAME
    from robustlab.report.format import count_text, left_out_text

    def plain(number: int) -> str:
        return count_text(number).replace("\u202f", " ")

    screen = console(len(results.models))
    screen.print(results.table())
    rows = results.parity
    if rows:
        logits, different = sum(row["logits"] for row in rows), sum(row["different"] for row in rows)
        typer.echo(
            f"parity: {plain(different)} of {plain(logits)} logits differ between simulation and deployed kernels"
        )
    else:
        typer.echo("parity: no deployed model in this run")
    for key, reason in results.run["configuration"]["left_out"].items():
        typer.echo(f"left out: {key}: {reason}")
    for row in results.agreement:
        typer.echo(f"surrogate: {agreement_text(row)}")
    for line in predicted_texts(results.natural):
        typer.echo(line)
    for line in left_out_text(results.run.get("left_out", [])):
        typer.echo(f"left out: {line}")
    stored, computed = results.run["cells_from_store"], results.run["cells_computed"]
    typer.echo(f"cells: {stored} of {stored + computed} came from the store, {computed} computed")
    for what, name in (("report", REPORT), ("table", "results.csv"), ("data", "results.json"), ("store", FILE_NAME)):
        typer.echo(f"{what:<7} {out / name}")
