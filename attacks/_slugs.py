"""The names of attacks: one grammar for all of them, written and read by the fields of their dataclasses.

``NAME[STEPS]-BALL[-OPTION...]``: `pgd20-linf-8of255-step2of255-nostart`. NAME is letters, STEPS the field `steps` of an
attack that has one, BALL a norm and a radius (a norm alone where the attack has no radius), and every option is a
token, with its value behind it unless it is a flag. Options at their defaults are not written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from robustlab.core.balls import format_eps, parse_eps
from robustlab.core.errors import invalid

if TYPE_CHECKING:
    from robustlab.attacks._attack import Attack

_NUMBER = r"[0-9][0-9.]*(?:of255|e[+-]?[0-9]+)?"


@dataclass(frozen=True)
class Option:
    """How one field of an attack is written: `token` and its value, or the token alone for a flag.

    A flag is written where the field is not its default, a boolean. A choice is written as its value, without a token.
    """

    field: str
    token: str
    kind: Literal["flag", "int", "number", "choice"]
    choices: tuple[str, ...] = ()

    @property
    def pattern(self) -> str:
        """A regular expression with one group."""
        if self.kind == "flag":
            return f"({re.escape(self.token)})"
        if self.kind == "choice":
            return f"({'|'.join(map(re.escape, self.choices))})"
        return re.escape(self.token) + ("([0-9]{1,9})" if self.kind == "int" else f"({_NUMBER})")

    @property
    def grammar(self) -> str:
        """For people."""
        shown = {"flag": self.token, "choice": "|".join(self.choices)}
        return shown.get(self.kind, f"{self.token}{'N' if self.kind == 'int' else 'SIZE'}")

    def write(self, value: object) -> str:
        """The text of a value that is not the default."""
        if self.kind == "flag":
            return self.token
        if self.kind == "choice":
            return str(value)
        return self.token + (str(value) if self.kind == "int" else format_eps(value))  # type: ignore[arg-type]

    def read(self, text: str, default: object) -> object:
        """The inverse of `write`, of what the group of `pattern` matched."""
        if self.kind == "flag":
            return not default
        if self.kind == "choice":
            return text
        return int(text) if self.kind == "int" else parse_eps(text)


def _defaults(attack: type[Attack] | Attack) -> dict[str, Any]:
    return {field.name: field.default for field in fields(attack)}


def format_slug(attack: Attack) -> str:
    """The slug of an attack."""
    defaults = _defaults(attack)
    steps = str(getattr(attack, "steps", ""))
    written = [
        option.write(getattr(attack, option.field))
        for option in attack.options
        if getattr(attack, option.field) != defaults[option.field]
    ]
    return "-".join([f"{attack.name}{steps}", attack.ball.slug, *written])


def grammar(attack: type[Attack]) -> str:
    """Such as ``pgdSTEPS-BALL[-stepSIZE][-nostart]``."""
    steps = "STEPS" if "steps" in _defaults(attack) else ""
    return f"{attack.name}{steps}-BALL" + "".join(f"[-{option.grammar}]" for option in attack.options)


def read_options(attack: type[Attack], text: str) -> dict[str, object] | None:
    """The fields in what follows the ball, such as ``-step2of255-nostart``; None if that does not fit."""
    pattern = "".join(f"(?:-{option.pattern})?" for option in attack.options)
    match = re.fullmatch(pattern, text)
    if match is None:
        return None
    defaults = _defaults(attack)
    found = zip(attack.options, match.groups(), strict=True)
    return {o.field: o.read(value, defaults[o.field]) for o, value in found if value is not None}


def check_flag(argument: str, value: object) -> None:
    """Raise `ArgumentError` unless `value` is True or False."""
    if not isinstance(value, bool):
        raise invalid(argument, value, "True or False")
