"""Fixtures of the tests of foreign models: they need the packages of the extra onnx, and skip without them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def nets() -> ModuleType:
    """`onnx_nets`, the maker of small files."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install robustlab[onnx]")
    spec = importlib.util.spec_from_file_location("onnx_nets", Path(__file__).with_name("onnx_nets.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
