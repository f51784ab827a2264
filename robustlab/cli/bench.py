"""`robustlab bench`: the kernels beside other libraries, and the compressors beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from robustlab.cli.compressors import compressors
from robustlab.cli.errors import bad_value

app = typer.Typer(no_args_is_help=True, help="Measure kernels and compressors on this machine.")


@app.callback()
def _group() -> None:
    """Measure kernels and compressors on this machine."""


app.command()(compressors)


def thread_counts(text: str) -> tuple[int, ...]:
    """``1,2`` -> (1, 2). Raises an error of one line for anything else."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise bad_value("--threads", text, "numbers of threads from 1 to 1024 with commas between, such as 1,2")
    return tuple(dict.fromkeys(int(part) for part in parts))


@app.command()
def kernels(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the figures to this JSON file.", show_default=False)
    ] = None,
    threads: Annotated[str, typer.Option(help="Numbers of threads, each measured by itself.")] = "1,2",
    quick: Annotated[bool, typer.Option("--quick", help="One shape and short runs.")] = False,
    peers: Annotated[bool, typer.Option(help="Time the other libraries that are installed, too.")] = True,
) -> None:
    """Measure the machine's peaks, every kernel as a share of them, and the other libraries that are installed.

    What a library computes is checked before it is timed. The extra robustlab[bench] brings ONNX Runtime and OpenVINO.

    Example: robustlab bench kernels --quick
    """
    counts = thread_counts(threads)
    if out is not None and not out.absolute().parent.is_dir():
        raise bad_value("--out", str(out), "a file in a folder that exists")

    from robustlab.bench import bench_kernels, kernel_table

    names = None if peers else ()
    bench = bench_kernels(
        counts, quick=quick, peer_names=names, progress=lambda line: typer.echo(f"... {line}", err=True)
    )
    typer.echo(kernel_table(bench))
    if out is not None:
        out.write_text(json.dumps(bench.as_dict(), indent=2) + "\n", encoding="utf-8")
        typer.echo(f"\nwritten to {out}", err=True)
