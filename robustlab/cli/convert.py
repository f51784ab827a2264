"""`robustlab convert`: a quantized ONNX file on our packed kernels, compared with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustlab.cli.foreign import is_onnx, load_given, takes_preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustlab.deploy import Preprocessing


@takes_preprocessing
def convert(
    model: Annotated[str, typer.Argument(help="The path of an ONNX file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Images to compare on: a name of robustlab list datasets, or imagefolder:PATH. (default: random ones)",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Images to compare on.")] = 256,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Write a quantized ONNX model as a model file whose layers run on packed kernels.

    ONNX Runtime rounds in its own places, so predictions are compared and the differences are said.

    Example: robustlab convert net-int8.onnx --out net-int8.safetensors --data imagefolder:photos
    """
    from robustlab.cli.targets import check_writable
    from robustlab.core.errors import check_int, invalid
    from robustlab.deploy import load, save, scheme
    from robustlab.models import info_of

    if not is_onnx(model):
        raise invalid("MODEL", model, "the path of an ONNX file")
    check_writable("--out", out)
    check_int("--limit", limit, 1, 100_000)
    network = load_given(model, preprocessing)
    from robustlab.deploy.foreign.convert import convert as run_conversion
    from robustlab.deploy.foreign.convert import parity

    images, what = _images(network, data, limit)
    converted = run_conversion(network)
    save(converted, out)
    info = info_of(converted)
    assert info is not None
    layers = len(info.arguments["layers"])  # type: ignore[arg-type]
    typer.echo(f"wrote    {out}: {scheme(converted)}, {layers - len(info.left_float)} of {layers} layers packed")
    for name in info.left_float:
        typer.echo(f"float    {name.removeprefix('layers.')}")
    found = parity(network, load(out), images)
    typer.echo(
        f"parity   {found.images - found.different} of {found.images} {what} images get the class ONNX Runtime gives; "
        f"logits differ by {found.mean:.3g} on average and {found.largest:.3g} at most (span {found.span:.3g})"
    )


def _images(network: nn.Module, data: str | None, limit: int) -> tuple[Tensor, str]:
    """Images (N, 3, H, W) to compare on, and what they are."""
    from robustlab.core.keys import sample_keys, uniform
    from robustlab.deploy import input_size
    from robustlab.evaluate.data import open_data
    from robustlab.evaluate.plan import read_batch

    if data is None:
        height, width = input_size(network) or (224, 224)
        return uniform(sample_keys(0, "convert", range(min(limit, 64))), (3, height, width)), "random"
    dataset = open_data(data, [network])
    images, _ = read_batch(dataset, range(min(limit, len(dataset))))
    return images, dataset.name
