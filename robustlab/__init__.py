"""robustlab: how robust is the compressed vision model you ship?

The public names are lazy (PEP 562): torch is imported when one of them is first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if not (Path(__file__).parent / "attacks").is_dir():
    raise ImportError(
        "robustlab is imported from an uninstalled checkout: run `pip install .` there and start Python elsewhere"
    )

# MKL's matrix products otherwise depend on how rows are aligned: a linear layer whose inputs are no multiple of 4 would
# give a sample other last bits in another place of the same batch. Read at the first product; costs nothing measurable.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

if TYPE_CHECKING:
    from robustlab import attacks, datasets
    from robustlab.compress import compress, qat
    from robustlab.core import L1, L2, Lattice, Linf, RobustlabError
    from robustlab.deploy import CallableModel, Preprocessing, deploy, from_torch, load, optimize, save
    from robustlab.evaluate import evaluate
    from robustlab.evaluate.audit import audit

__version__ = "0.1.0"

_WHERE = {
    "CallableModel": "robustlab.deploy",
    "L1": "robustlab.core",
    "L2": "robustlab.core",
    "Lattice": "robustlab.core",
    "Linf": "robustlab.core",
    "Preprocessing": "robustlab.deploy",
    "RobustlabError": "robustlab.core",
    "compress": "robustlab.compress",
    "qat": "robustlab.compress",
    "deploy": "robustlab.deploy",
    "from_torch": "robustlab.deploy",
    "load": "robustlab.deploy",
    "optimize": "robustlab.deploy",
    "save": "robustlab.deploy",
    "audit": "robustlab.evaluate.audit",
    "evaluate": "robustlab.evaluate",
}
_MODULES = ("attacks", "datasets")

__all__ = [
    "L1",
    "L2",
    "CallableModel",
    "Lattice",
    "Linf",
    "Preprocessing",
    "RobustlabError",
    "attacks",
    "audit",
    "compress",
    "datasets",
    "deploy",
    "evaluate",
    "from_torch",
    "load",
    "optimize",
    "qat",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"robustlab.{name}")
    raise AttributeError(f"module 'robustlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Package(ModuleType):
    """`compress`, `deploy` and `evaluate` are functions of this package as well as folders in it.

    Importing a folder makes Python bind it here under its name; the function of that name takes its place, so that
    `robustlab.compress` is the function whatever was imported before. (`from robustlab.compress import ...` works.)
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _WHERE.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
