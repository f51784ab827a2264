"""Options that say what a foreign model takes, as several commands have them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from robustlab.cli.errors import bad_value

if TYPE_CHECKING:
    from torch import nn

    from robustlab.deploy import Preprocessing

_PANEL = (
    "What an ONNX, TFLite or .pt2 file takes (default: its side-car such as MODEL.onnx.json, else images in [0, 1])"
)

_Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean per channel, such as 0.485,0.456,0.406, in units of --pixel-range.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
_Std = Annotated[
    str | None, typer.Option(help="Standard deviation per channel.", show_default=False, rich_help_panel=_PANEL)
]
_Channels = Annotated[str | None, typer.Option(help="rgb or bgr.", show_default=False, rich_help_panel=_PANEL)]
_PixelRange = Annotated[
    float | None,
    typer.Option(help="What white is before mean and std: 1 or 255.", show_default=False, rich_help_panel=_PANEL),
]
_Layout = Annotated[
    str | None,
    typer.Option(help="nchw, nhwc or auto, which reads it from the shape.", show_default=False, rich_help_panel=_PANEL),
]


_OPTIONS = {"mean": _Mean, "std": _Std, "channels": _Channels, "pixel_range": _PixelRange, "layout": _Layout}


def takes_preprocessing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command those options. Its parameter `preprocessing` gets what they say, None where none was given."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in _OPTIONS}
        command(**arguments, preprocessing=_preprocessing(**options))

    # The name is imported for type checkers only: reading it here would load torch to print a help page.
    hints = get_type_hints(command, localns={"Preprocessing": object}, include_extras=True)
    signature = inspect.signature(command)
    own = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values() if p.name != "preprocessing"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _OPTIONS.items()
    ]
    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
    return run


def is_onnx(spec: str) -> bool:
    """Whether a model is given by the path of an ONNX file."""
    return spec.lower().endswith(".onnx")


def load_given(spec: str, preprocessing: Preprocessing | None) -> nn.Module:
    """`robustlab.load`; only files of other runtimes are given the preprocessing."""
    from robustlab.deploy import load
    from robustlab.deploy.foreign.preprocessing import is_foreign_file

    return load(spec, preprocessing=preprocessing if is_foreign_file(spec) else None)


def check_preprocessing(preprocessing: Preprocessing | None, specs: Sequence[str]) -> None:
    """Raise `ArgumentError` where preprocessing is given and none of the models takes it."""
    from robustlab.core.errors import invalid
    from robustlab.deploy.foreign.preprocessing import is_foreign_file

    if preprocessing is not None and not any(map(is_foreign_file, specs)):
        raise invalid(
            "--mean, --std, --channels, --pixel-range, --layout",
            preprocessing.text,
            "nothing where no model is an ONNX file, a TFLite file or a .pt2 file",
        )


def _preprocessing(
    mean: str | None, std: str | None, channels: str | None, pixel_range: float | None, layout: str | None
) -> Preprocessing | None:
    """What the options say. Raises an error of one line."""
    given: dict[str, object] = {"channels": channels, "pixel_range": pixel_range, "layout": layout}
    given |= {"mean": _numbers("--mean", mean), "std": _numbers("--std", std)}
    fields = {name: value for name, value in given.items() if value is not None}
    if not fields:
        return None
    from robustlab.deploy.foreign.preprocessing import preprocessing_from

    return preprocessing_from(fields)


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
