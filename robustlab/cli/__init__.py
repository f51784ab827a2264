"""The command line: one thin module per command. Importing this imports neither torch nor anything that does."""

from robustlab.cli.app import main, run

__all__ = ["main", "run"]
