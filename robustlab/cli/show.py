"""`robustlab show`: what is in a model file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from robustlab.cli.foreign import check_preprocessing, load_given, takes_preprocessing

if TYPE_CHECKING:
    from torch import nn

    from robustlab.deploy import LayerCost, Preprocessing

_FALLBACK_SIZE = 224


@takes_preprocessing
def show(
    model: Annotated[
        str,
        typer.Argument(
            help="The path of a model, ONNX or TFLite file, robustlab:NAME, torchvision:NAME@FILE, timm:NAME@FILE, "
            "hf:FOLDER or trusted:FILE.pt2.",
            show_default=False,
        ),
    ],
    preprocessing: Preprocessing | None = None,
) -> None:
    """Show the layers, schemes, bits, bytes and provenance of a model.

    Example: robustlab show robustlab:signs_w4a4
    """
    from robustlab.core.access import access_of
    from robustlab.deploy import gradient_kind, scheme, stored_bytes
    from robustlab.models import MODELS, info_of
    from robustlab.report.format import bit_operations_text, bytes_text, macs_text

    check_preprocessing(preprocessing, [model])
    network = load_given(f"robustlab:{model}" if model in MODELS else model, preprocessing)
    info = info_of(network)
    costs = _costs(network, None if info is None else info.input_size)
    facts: dict[str, str] = {}
    if info is not None:
        arguments = ", ".join(f"{key}={value}" for key, value in info.arguments.items())
        facts["name"] = info.name
        if info.architecture.startswith("graph:"):
            arguments = ""  # a whole graph
        facts["architecture"] = info.architecture + (f" ({arguments})" if arguments else "")
        if info.input_size is not None:
            facts["input"] = f"3 x {info.input_size[0]} x {info.input_size[1]}, values in [0, 1]"
        if info.class_names is not None:
            facts["classes"] = f"{len(info.class_names)}: {_shortened(info.class_names)}"
    facts["scheme"] = scheme(network)
    facts["gradient"] = gradient_kind(network)
    if access_of(network) != "gradient":
        facts["gives"] = f"{access_of(network)}: attacks that need more are left out"
    for operator in getattr(network, "unsupported", ()):
        facts["no gradient for"] = f"{facts['no gradient for']}; {operator}" if "no gradient for" in facts else operator
    facts["size"] = f"{bytes_text(stored_bytes(network))} of tensors"
    if costs:
        facts["per image"] = (
            f"{macs_text(sum(c.macs for c in costs))}, "
            f"{bit_operations_text(sum(c.macs * c.weight_bits * c.activation_bits for c in costs))}"
        )
    if info is not None and info.left_float:
        facts["left in float"] = ", ".join(info.left_float)
    if info is not None:
        facts.update(_flat(info.provenance, "provenance"))
    width = max(map(len, facts))
    for name, text in facts.items():
        typer.echo(f"{name:<{width}}  {text}")
    if costs:
        typer.echo("")
        _print_layers(costs)


def _costs(network: nn.Module, size: tuple[int, int] | None) -> list[LayerCost]:
    """Costs at the model's input size, else at the usual one; none where that size does not fit the model."""
    import torch

    from robustlab.deploy import layer_costs

    height, width = size or (_FALLBACK_SIZE, _FALLBACK_SIZE)
    try:
        return layer_costs(network, torch.zeros(1, 3, height, width))
    except RuntimeError:
        if size is not None:
            raise
        typer.echo("the input size is unknown, so layers are not counted", err=True)
        return []


def _shortened(names: tuple[str, ...], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _flat(value: Mapping[str, object], prefix: str) -> dict[str, str]:
    rows: dict[str, str] = {}
    for key, inner in value.items():
        name = f"{prefix}.{key}"
        if isinstance(inner, Mapping):
            rows.update(_flat(inner, name))
        else:
            rows[name] = inner if isinstance(inner, str) else json.dumps(inner)
    return rows


def _print_layers(costs: list[LayerCost]) -> None:
    from robustlab.report.format import bytes_text, macs_text

    header = ("layer", "kind", "weights", "activations", "MACs", "bytes")
    rows = [
        (
            c.name,
            c.kind,
            f"{c.weight_bits} bit",
            f"{c.activation_bits} bit",
            macs_text(c.macs),
            bytes_text(c.weight_bytes),
        )
        for c in costs
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        left = [f"{text:<{width}}" for text, width in zip(row[:2], widths[:2], strict=True)]
        right = [f"{text:>{width}}" for text, width in zip(row[2:], widths[2:], strict=True)]
        typer.echo("  ".join([*left, *right]))
