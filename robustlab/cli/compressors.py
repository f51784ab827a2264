"""`robustlab bench compressors`: every compression algorithm at every scheme on one model, as one matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from robustlab.datasets import Dataset

_BATCH = 64
UNFINISHED = 3


def compressors(
    model: Annotated[
        str,
        typer.Argument(
            help="A float model: robustlab:NAME, torchvision:NAME@FILE or the path of a model file.", show_default=False
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", "-d", help="Data to calibrate and judge with: signs, cifar10, gtsrb, mnist, imagefolder:PATH."
        ),
    ] = "signs",
    algorithm: Annotated[
        list[str] | None,
        typer.Option(
            "--algorithm", help="As in robustlab compress; repeatable. (default: all of them)", show_default=False
        ),
    ] = None,
    bits: Annotated[
        list[str] | None,
        typer.Option(
            help="Bits of weights and activations, such as w4a8; repeatable. (default: w8a8, w4a8, w4a4, w3a3, w2a2, "
            "and w1a1 for binarizers)",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(help="Test images to judge on.")] = 1000,
    calibration: Annotated[int, typer.Option(help="Training images that set the ranges.")] = 256,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images of an imagefolder. (default: what the model was made for, else 224)",
            show_default=False,
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(help="Steps per layer or block of adaround, brecq and qdrop. (default: 500)", show_default=False),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the files of trained models, as robustlab compress writes them.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of adaround, brecq and qdrop.")] = 0,
    latency: Annotated[
        str,
        typer.Option(
            help="Time each model when it is made (with), not at all (without), or only the models of an earlier run, "
            "from --out and --keep (only): for a quiet machine."
        ),
    ] = "with",
    threads: Annotated[
        int | None, typer.Option(help="Threads that torch uses. (default: torch's choice)", show_default=False)
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for the deployed models that are made.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON file that every cell is stored in.", show_default=False)
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Also write the tables to this Markdown file.", show_default=False)
    ] = None,
) -> None:
    """Compress a model by every algorithm at every bit-width: accuracy, class, bytes and latency of what is deployed.

    Each deployed model is first compared with its simulation, logit by logit; one that differs is an error, in the
    table and as exit code 3. Algorithms that are to be trained are taken from the files in --models, and without one
    shown untrained. With --out an interrupted run goes on with the same command.

    Example: robustlab bench compressors robustlab:signs_float --bits w4a4 --algorithm mse --algorithm gptq

    Example: robustlab bench compressors robustlab:cifar_resnet20 --data cifar10 --out matrix.json
    """
    import torch

    from robustlab.bench.compressors import (
        LATENCIES,
        bench_compressors,
        compressor_markdown,
        compressor_table,
        parse_scheme,
    )
    from robustlab.cli.live import watch
    from robustlab.cli.targets import check_folder, check_writable
    from robustlab.cli.twins import calibration_batches
    from robustlab.compress.catalogue import ALGORITHMS
    from robustlab.core.errors import check_choice, check_int
    from robustlab.deploy import load
    from robustlab.evaluate.data import open_data
    from robustlab.evaluate.plan import read_batch
    from robustlab.evaluate.probe import check_answers

    for name in algorithm or ():
        check_choice("--algorithm", name, ALGORITHMS)
    schemes = None if bits is None else [parse_scheme(text, "--bits") for text in bits]
    check_int("--images", images, 1)
    check_int("--calibration", calibration, 1)
    if iterations is not None:
        check_int("--iterations", iterations, 1)
    check_int("--seed", seed, 0, 2**32 - 1)
    check_choice("--latency", latency, LATENCIES)
    check_writable("--out", out)
    check_writable("--markdown", markdown)
    check_folder("--keep", keep)
    if threads is not None:
        torch.set_num_threads(check_int("--threads", threads, 1, 1024))
    network = load(model)
    tested = open_data(data, [network], image_size=image_size)
    check_answers(model, network, read_batch(tested, [0])[0], tested, _BATCH)
    batches = calibration_batches(data, [network], image_size, calibration)
    shown, labels = _test_images(tested, images)
    try:
        with watch() as watcher:
            bench = bench_compressors(
                network,
                batches,
                shown,
                labels,
                data=tested.name,
                algorithms=algorithm,
                schemes=schemes,
                iterations=iterations,
                models=models,
                seed=seed,
                latency=latency,
                keep=keep,
                out=out,
                progress=watcher,
                say=lambda line: typer.echo(line, err=True),
            )
    except KeyboardInterrupt:
        typer.echo("interrupted" if out is None else "interrupted; the same command resumes", err=True)
        raise typer.Exit(130) from None
    typer.echo(compressor_table(bench))
    if markdown is not None:
        markdown.write_text(compressor_markdown(bench), encoding="utf-8")
    if bench.errors:
        raise typer.Exit(UNFINISHED)


def _test_images(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """The first images of the split (N, 3, H, W), and their labels."""
    import torch

    from robustlab.evaluate.plan import read_batch

    count = min(count, len(data))
    read = [read_batch(data, range(start, min(start + _BATCH, count))) for start in range(0, count, _BATCH)]
    return torch.cat([images for images, _ in read]), torch.cat([labels for _, labels in read])
