"""How a bad command line is said: one line that names the option, its value and what is allowed.

Nothing here imports torch: `robustlab.core.errors` does, so options that are read before it use `OptionError`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

_KINDS = {"integer": "a whole number", "float": "a number", "number": "a number"}
_WORD = re.compile(r"valid (\w+)")


class OptionError(Exception):
    """An option has a value that is not allowed."""


def bad_value(option: str, value: str, allowed: str) -> OptionError:
    """The error for a bad option value."""
    return OptionError(f"{option} is {value!r}; allowed: {allowed}")


def usage_error() -> type[Exception]:
    """The base of click's errors: typer 0.15 uses the click that is installed, later ones carry their own."""
    return next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def one_line(text: object) -> str:
    """All white space, line ends included, as single spaces."""
    return " ".join(str(text).split())


def describe(error: Exception, arguments: Sequence[str]) -> str:
    """What click found wrong with `arguments`, on one line."""
    text = one_line(getattr(error, "format_message", lambda: error)()).rstrip(".")
    text = text[:1].lower() + text[1:]
    context: Any = getattr(error, "ctx", None)
    parameter: Any = getattr(error, "param", None)
    if parameter is not None and isinstance(error, typer.BadParameter):
        value, allowed = _given(parameter, arguments), _allowed(parameter, text)
        if value is not None and allowed:
            text = f"{max(parameter.opts, key=len)} is {value!r}; allowed: {allowed}"
    if context is None:
        return text
    commands = getattr(context.command, "commands", {})
    if commands and "command" in text:
        return f"{text}; allowed: {', '.join(commands)}"
    return f"{text}; see {context.command_path} --help"


def _given(parameter: Any, arguments: Sequence[str]) -> str | None:
    """The value a parameter has on the command line; click's message does not always say it."""
    options = parameter.opts if getattr(parameter, "param_type_name", "") == "option" else []
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in options and equals:
            return value
        if argument in options and index + 1 < len(arguments):
            return arguments[index + 1]
    return arguments[-1] if not options and arguments else None


def _allowed(parameter: Any, text: str) -> str:
    """What a parameter takes, from its type where click has one, else from what click says is wrong."""
    kind = getattr(parameter, "type", None)
    choices = getattr(kind, "choices", None)
    if choices:
        return ", ".join(str(getattr(choice, "value", choice)) for choice in choices)
    if "not one of " in text:
        return text.partition("not one of ")[2].replace("'", "")
    words = (str(getattr(kind, "name", "")), *_WORD.findall(text))
    return next((_KINDS[word] for word in words if word in _KINDS), "")
