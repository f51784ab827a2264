"""Files that a command is to write, checked before it works for them."""

from __future__ import annotations

from pathlib import Path

from robustlab.core.errors import invalid


def check_writable(option: str, path: Path | None) -> None:
    """Raise `ArgumentError` unless `path` is None or a file that can be written; leaves nothing behind."""
    if path is None:
        return
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise invalid(option, str(path), f"a file in an existing folder that can be written ({reason})") from error
    if not existed:
        path.unlink(missing_ok=True)


def check_folder(option: str, path: Path | None) -> None:
    """Raise `ArgumentError` unless `path` is None or a folder that can be written, which is made."""
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".robustlab-writable"
        with probe.open("ab"):
            pass
        probe.unlink(missing_ok=True)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise invalid(option, str(path), f"a folder that can be written ({reason})") from error
