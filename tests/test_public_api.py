"""The public names, compared with a file: a name that appears, vanishes or is renamed is seen in the review.

After a wanted change, with the package installed: ``python tests/test_public_api.py --write`` from the checkout.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

GUARD = Path(__file__).with_name("public_api.json")
PUBLIC = (
    "robustlab",
    "robustlab.attacks",
    "robustlab.bench",
    "robustlab.bench.compressors",
    "robustlab.compress",
    "robustlab.compress.allocation",
    "robustlab.compress.ptq",
    "robustlab.core",
    "robustlab.datasets",
    "robustlab.datasets.corruptions",
    "robustlab.datasets.systematic",
    "robustlab.deploy",
    "robustlab.deploy.foreign",
    "robustlab.evaluate",
    "robustlab.evaluate.allocation",
    "robustlab.evaluate.audit",
    "robustlab.kernels",
    "robustlab.kernels.program",
    "robustlab.models",
    "robustlab.models.graph",
    "robustlab.report",
)


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _names() -> dict[str, list[str]]:
    return {name: sorted(_module(name).__all__) for name in PUBLIC}


def _fresh(code: str) -> str:
    """What a new interpreter prints, away from the checkout."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, cwd=Path(sys.prefix)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", PUBLIC)
def test_names_are_those_of_the_guard_file(name: str) -> None:
    assert sorted(_module(name).__all__) == json.loads(GUARD.read_text())[name]


def test_the_guard_file_names_no_other_module() -> None:
    assert sorted(json.loads(GUARD.read_text())) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_exists_and_is_listed_once(name: str) -> None:
    module = _module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [n for n in module.__all__ if not hasattr(module, n)] == []


def test_public_functions_and_classes_are_documented() -> None:
    undocumented = [
        f"{name}.{public}"
        for name in PUBLIC
        for public in _module(name).__all__
        if callable(value := getattr(_module(name), public)) and not getattr(value, "__doc__", None)
    ]
    assert undocumented == []


def test_importing_robustlab_does_not_import_torch() -> None:
    code = "import sys, robustlab; print([m for m in ('torch', 'torchvision', 'matplotlib') if m in sys.modules])"
    assert _fresh(code) == "[]"


@pytest.mark.parametrize("name", ["compress", "deploy", "evaluate"])
def test_a_function_that_shares_its_name_with_a_package_stays_the_function(name: str) -> None:
    code = (
        "import importlib, pkgutil, types, robustlab as rl\n"
        f"package = importlib.import_module('robustlab.{name}')\n"
        "assert isinstance(package, types.ModuleType)\n"
        "for part in pkgutil.iter_modules(package.__path__):\n"
        f"    importlib.import_module('robustlab.{name}.' + part.name)\n"
        f"print(isinstance(rl.{name}, types.FunctionType), rl.{name} is package.{name})"
    )
    assert _fresh(code) == "True True"


def test_an_unknown_name_is_an_attribute_error() -> None:
    import robustlab

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = robustlab.nothing


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_public_api.py --write")
    GUARD.write_text(json.dumps(_names(), indent=2) + "\n")
