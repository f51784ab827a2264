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
    SUITES = "suites"


def list_names(kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)]) -> None:
    """List the models, data sets, attacks, corruptions or suites there are, with one line about each.

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
    from robustlab.evaluate import SUITES

    return {
        name: f"{suite.description} ({', '.join(condition.key for condition in suite.conditions)})"
        for name, suite in SUITES.items()
    }
