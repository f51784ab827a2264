"""Options that say what a foreign model takes, as several commands have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robustlab.cli.errors import bad_value

if TYPE_CHECKING:
    from robustlab.deploy import Preprocessing

_PANEL = "What an ONNX model takes (default: its side-car MODEL.onnx.json, else images in [0, 1] as they are)"

Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean per channel, such as 0.485,0.456,0.406, in units of --pixel-range.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Std = Annotated[
    str | None, typer.Option(help="Standard deviation per channel.", show_default=False, rich_help_panel=_PANEL)
]
Channels = Annotated[str | None, typer.Option(help="rgb or bgr.", show_default=False, rich_help_panel=_PANEL)]
PixelRange = Annotated[
    float | None,
    typer.Option(help="What white is before mean and std: 1 or 255.", show_default=False, rich_help_panel=_PANEL),
]
Layout = Annotated[
    str | None,
    typer.Option(help="nchw, nhwc or auto, which reads it from the shape.", show_default=False, rich_help_panel=_PANEL),
]


def preprocessing_of(
    mean: str | None, std: str | None, channels: str | None, pixel_range: float | None, layout: str | None
) -> Preprocessing | None:
    """What the options say, None if none of them was given. Raises an error of one line."""
    from robustlab.deploy.foreign.preprocessing import preprocessing_from

    given: dict[str, object] = {"channels": channels, "pixel_range": pixel_range, "layout": layout}
    given |= {"mean": _numbers("--mean", mean), "std": _numbers("--std", std)}
    fields = {name: value for name, value in given.items() if value is not None}
    return preprocessing_from(fields) if fields else None


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise bad_value(option, text, "three numbers with commas between them, such as 0.485,0.456,0.406")
    return values
