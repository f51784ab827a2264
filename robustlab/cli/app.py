"""The program: its commands, and how it ends. Every bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from robustlab import __version__
from robustlab.cli.allocate import allocate
from robustlab.cli.attack import attack
from robustlab.cli.audit import audit
from robustlab.cli.bench import app as bench
from robustlab.cli.compress import compress
from robustlab.cli.convert import convert
from robustlab.cli.corrupt import corrupt
from robustlab.cli.doctor import doctor
from robustlab.cli.errors import OptionError, describe, one_line, usage_error
from robustlab.cli.evaluate import evaluate
from robustlab.cli.faults import faults
from robustlab.cli.listing import list_names
from robustlab.cli.show import show
from robustlab.cli.transfer import transfer

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130

app = typer.Typer(
    name="robustlab",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: robustlab evaluate (bundled traffic-sign models, about two minutes, nothing to download)",
)
app.command()(evaluate)
app.command()(attack)
app.command()(corrupt)
app.command()(compress)
app.command()(convert)
app.command()(allocate)
app.command()(audit)
app.command()(faults)
app.command()(transfer)
app.command()(show)
app.command("list")(list_names)
app.command()(doctor)
app.add_typer(bench, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"robustlab {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """How robust is the compressed vision model you ship?"""


def _is_ours(error: Exception) -> bool:
    """Whether it is a `RobustlabError`, without importing it (and torch with it) to find out that it is not."""
    return any(c.__name__ == "RobustlabError" and c.__module__ == "robustlab.core.errors" for c in type(error).__mro__)


def run(arguments: Sequence[str]) -> int:
    """Run the program with `arguments` and return its exit code.

    0 done, 1 gate missed, 2 bad input, 3 unfinished, 130 interrupted. Errors that are no user's keep their traceback.
    """
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(arguments), prog_name="robustlab", standalone_mode=False, obj=tuple(arguments))
    except typer.Exit as end:
        return end.exit_code
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output stopped reading (`robustlab list models | head`): that is no error of ours.
        sys.stdout = None
        return OK
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click has a class for `robustlab` without a command
            typer.echo(str(error))
        elif isinstance(error, usage_error()):
            typer.echo(f"error: {describe(error, arguments)}", err=True)
        elif isinstance(error, OptionError) or _is_ours(error):
            typer.echo(f"error: {one_line(error)}", err=True)
        else:
            raise
        return BAD_INPUT
    return code if isinstance(code, int) else OK


def main() -> None:
    """Entry point of the `robustlab` program."""
    sys.exit(run(sys.argv[1:]))
