"""Reports: one self-contained HTML file from the results of an evaluation, and the picture for a README."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustlab.report.page import hero, render, write_report

__all__ = ["hero", "render", "write_report"]


def __getattr__(name: str) -> Any:
    """Lazy (PEP 562): the page needs matplotlib and jinja2, the formatting of numbers that others use does not."""
    if name in __all__:
        from robustlab.report import page

        return getattr(page, name)
    raise AttributeError(f"module 'robustlab.report' has no attribute {name!r}")
