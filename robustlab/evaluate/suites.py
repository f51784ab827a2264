"""Suites: named lists of conditions, kept as data (TOML), so that a team can keep its own in its repository."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from robustlab.core.errors import invalid
from robustlab.evaluate.conditions import KEY_PATTERN, Condition, check_conditions
from robustlab.evaluate.prediction import Prediction, parse_prediction

# tomllib is part of Python from 3.11 on; tomli is the same parser for 3.10.
_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

CUSTOM = "custom"  # the name of a suite that was given as a list
FIELDS = ("name", "description", "conditions", "reference", "prediction")


@dataclass(frozen=True)
class Suite:
    """A named list of conditions, and the key of the one whose answers those under the others are compared with.

    For a deployment mismatch the reference is the pipeline of training. A mini suite has a `prediction` of what a
    larger one would find. Raises `ArgumentError` where the reference is none of the conditions, or depends on the
    model.
    """

    name: str
    description: str
    conditions: tuple[Condition, ...]
    reference: str | None = None
    prediction: Prediction | None = None

    def __post_init__(self) -> None:
        if self.reference is not None and self.reference_condition is None:
            keys = [condition.key for condition in self.conditions if not condition.depends_on_model]
            raise invalid(f"reference of suite {self.name}", self.reference, ", ".join(keys) or "none")

    @property
    def reference_condition(self) -> Condition | None:
        """The condition that `reference` names."""
        named = (c for c in self.conditions if c.key == self.reference and not c.depends_on_model)
        return next(named, None)


def parse_suite(text: str, source: str) -> Suite:
    """A suite from the text of a TOML file: name, description, conditions, and perhaps reference and prediction.

    Raises `ArgumentError` that names the file, the field, its value and what is allowed.
    """
    try:
        table = _toml.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is a number of too many digits
        raise invalid(f"suite {source}", str(error), "a TOML file") from None
    return _from_table(table, source)


def _from_table(table: Mapping[str, object], source: str) -> Suite:
    def field(name: str) -> str:
        return f"{name} in suite {source}"

    for key in table:
        if key not in FIELDS:
            raise invalid(f"a field in suite {source}", key, ", ".join(FIELDS))
    name, description, conditions, reference, prediction = (table.get(key) for key in FIELDS)
    if not isinstance(name, str) or not KEY_PATTERN.fullmatch(name):
        raise invalid(field("name"), name, "letters, digits and . + - in lower case")
    if not isinstance(description, str) or not description.strip() or "\n" in description:
        raise invalid(field("description"), description, "one line of text")
    if not isinstance(conditions, list) or not conditions or not all(isinstance(c, str) for c in conditions):
        raise invalid(field("conditions"), conditions, "a list of at least one key such as pgd20-linf-8of255")
    if reference is not None and not isinstance(reference, str):
        raise invalid(field("reference"), reference, "the key of one of its conditions")
    checked = check_conditions(conditions)
    predicts = None if prediction is None else parse_prediction(prediction, [c.key for c in checked], source)
    return Suite(name, description, checked, reference, predicts)


def _check_prediction(suite: Suite, suites: Mapping[str, Suite]) -> Suite:
    """The suite, if what it predicts from is a part of what it predicts."""
    if suite.prediction is not None:
        if suite.prediction.of not in suites:
            raise invalid(f"of of the prediction in suite {suite.name}", suite.prediction.of, ", ".join(suites))
        full = [condition.key for condition in suites[suite.prediction.of].conditions]
        for key in (key for estimate in suite.prediction.estimates for key in estimate.weights):
            if key not in full:
                raise invalid(f"a weight in suite {suite.name}", key, f"conditions of {suite.prediction.of}")
    return suite


def _packaged() -> dict[str, Suite]:
    folder = resources.files("robustlab.evaluate").joinpath("suites")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    suites = [parse_suite(f.read_text(encoding="utf-8"), f.name) for f in files]
    named = {suite.name: suite for suite in suites}
    return {name: _check_prediction(suite, named) for name, suite in named.items()}


SUITES: dict[str, Suite] = _packaged()


def load_suite(suite: str | Path | Sequence[str | Condition] | Suite) -> Suite:
    """A suite by name, by the path of a TOML file, or from a list of conditions (then its name is ``custom``).

    Raises `ArgumentError` where there is no such suite, or the file cannot be read or is not a suite.
    """
    if isinstance(suite, Suite):
        return suite
    if not isinstance(suite, (str, Path)):
        if not isinstance(suite, Sequence):
            raise invalid("suite", suite, "a suite's name, the path of a TOML file, or a list of conditions")
        return Suite(CUSTOM, "Conditions given one by one", check_conditions(suite))
    if str(suite) in SUITES:
        return SUITES[str(suite)]
    path = Path(suite)
    if path.suffix != ".toml":
        near = difflib.get_close_matches(str(suite), SUITES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise invalid("suite", str(suite), f"{', '.join(SUITES)}, or the path of a .toml file{hint}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise invalid("suite", str(suite), f"a readable TOML file; {reason}") from None
    return _check_prediction(parse_suite(text, str(suite)), SUITES)
