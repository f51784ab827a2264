"""`robustlab list`: the names that other commands take."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Kind(str, Enum):
    """What can be listed."""

    MODELS = "models"
    DATASETS = "datasets"
    ATTACKS = "attacks"
    CORRUPTIONS = "corruptions"
    PIPELINES = "pipelines"
    PLATFORMS = "platforms"
    SUITES = "suites"


def list_names(kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)]) -> None:
    """List the models, data sets, attacks, corruptions, parts of pipelines, platforms or suites there are.

    Example: robustlab list attacks
    """
    rows = _rows(kind)
    width = max((len(name) for name in rows), default=0)
    for name, description in rows.items():
        typer.echo(f"{name:<{width}}  {description}")


def _rows(kind: Kind) -> dict[str, str]:
    if kind is Kind.MODELS:
        from robustlab.models import MODELS

        return {f"robustlab:{name}": description for name, description in MODELS.items()}
    if kind is Kind.DATASETS:
        from robustlab.datasets import DATASETS

        return dict(DATASETS)
    if kind is Kind.ATTACKS:
        from robustlab.attacks import ATTACKS

        return dict(ATTACKS)
    if kind is Kind.CORRUPTIONS:
        from robustlab.datasets.corruptions import CORRUPTIONS

        return {
            name.replace("_", "-"): f"{corruption.description} (condition: {name.replace('_', '-')}-1 to -5)"
            for name, corruption in CORRUPTIONS.items()
        }
    if kind is Kind.PIPELINES:
        return _pipelines()
    if kind is Kind.PLATFORMS:
        from robustlab.datasets.systematic.platforms import PLATFORMS

        return {
            f"platform-{name}": f"{platform.description} (condition: platform-{name}-1 to -5)"
            + _absent(platform.missing())
            for name, platform in PLATFORMS.items()
        }
    from robustlab.evaluate import SUITES

    return {
        name: f"{suite.description} ({_few([condition.key for condition in suite.conditions])})"
        for name, suite in SUITES.items()
    }


def _absent(reason: str | None) -> str:
    return "" if reason is None else f" [{reason}]"


def _pipelines() -> dict[str, str]:
    """The parts of a key, in the order in which they stand in it."""
    from robustlab.datasets.systematic import COLOURS, DECODERS, PROTOCOLS, REFERENCE_KEY, RESIZERS
    from robustlab.datasets.systematic.libraries import missing

    rows = {REFERENCE_KEY: "the reference; a pipeline is decoder-colour-resizer-protocol, by these names:"}
    for title, parts in (("decoder", DECODERS), ("colour", COLOURS), ("resizer", RESIZERS), ("protocol", PROTOCOLS)):
        for name, part in parts.items():
            library = getattr(part, "library", None)
            rows[f"{title:<9} {name}"] = part.description + _absent(missing([library]) if library else None)
    return rows


def _few(keys: list[str], most: int = 12) -> str:
    """All of a short list; of a long one the first and how many there are."""
    return ", ".join(keys) if len(keys) <= most else f"{', '.join(keys[:4])}, ... {len(keys)} conditions"
