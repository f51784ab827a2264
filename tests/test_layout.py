"""What is installed, and what no file of the project may contain."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest

import robustlab

ROOT = Path(__file__).resolve().parents[1]
CODE_FOLDERS = ("robustlab", "attacks", "defenses", "datasets")
TEXT = {".py", ".pyi", ".cpp", ".h", ".cmake", ".toml", ".md", ".json", ".sh", ".j2", ".html", ".css", ".js"}
# Spelled in pieces, so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.~/])/(?:" + "|".join(["home/" + r"\w", "root/", "work/", "Users/" + r"\w"]) + ")")
UNPICKLING = {
    "an import of pickle": re.compile(r"^\s*(?:import|from)\s+(?:c?[pP]ickle|dill|cloudpickle|joblib)\b", re.MULTILINE),
    "a call that unpickles": re.compile(r"\bpickle" + r"\.loads?\("),
    "torch.load": re.compile(r"\btorch" + r"\.load\((?![^)]*weights_only\s*=\s*True)"),
    "a NumPy load that may unpickle": re.compile(r"allow_pickle\s*=\s*True"),
}


def _modules() -> list[Path]:
    return sorted(path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py"))


def _project_files() -> list[Path]:
    """The text files that git has, or would add."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no git checkout to list: {error}")
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [p for p in paths if p.is_file() and (p.suffix in TEXT or p.name in {"run", "LICENSE"})]


def _installed_files() -> list[str]:
    try:
        files = importlib.metadata.files("robustlab")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("robustlab runs from a development link, not from an installed distribution")
    assert files
    return [file.as_posix() for file in files]


def test_nothing_is_importable_under_the_names_of_the_code_folders() -> None:
    tops = {name.split("/")[0] for name in _installed_files() if not name.startswith("..")}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"robustlab"}


def test_the_distribution_carries_every_module_and_data_file() -> None:
    installed = set(_installed_files())
    data = {".py", ".pyi", ".toml", ".json", ".j2", ".html", ".css", ".js", ".safetensors", ".typed"}
    expected = {
        (path.relative_to(ROOT) if folder == "robustlab" else Path("robustlab") / path.relative_to(ROOT)).as_posix()
        for folder in CODE_FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in data and "__pycache__" not in path.parts
    } | {"robustlab/py.typed"}
    assert expected - installed == set()


def test_no_native_source_is_installed() -> None:
    assert [name for name in _installed_files() if name.endswith((".cpp", ".h", ".hpp"))] == []


def test_the_type_marker_covers_every_public_package() -> None:
    package = Path(robustlab.__file__).parent
    assert (package / "py.typed").is_file()
    for folder in (
        "attacks",
        "datasets",
        "defenses",
        "core",
        "kernels",
        "models",
        "compress",
        "deploy",
        "evaluate",
        "bench",
    ):
        assert (package / folder / "__init__.py").is_file(), folder


def test_version_is_that_of_the_distribution() -> None:
    _installed_files()
    assert importlib.metadata.version("robustlab") == robustlab.__version__


def test_no_file_contains_a_path_of_the_machine_it_was_made_on() -> None:
    everything = _project_files()
    assert {ROOT / "README.md", ROOT / ".ci" / "run", ROOT / "robustlab" / "__init__.py"} <= set(everything)
    found = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in everything
        if (match := MACHINE_PATH.search(path.read_text(encoding="utf-8")))
    }
    assert found == set()


@pytest.mark.parametrize("what", UNPICKLING)
def test_nothing_is_unpickled(what: str) -> None:
    offenders = [
        str(path.relative_to(ROOT)) for path in _modules() if UNPICKLING[what].search(path.read_text(encoding="utf-8"))
    ]
    assert offenders == []


def _imports_the_front_door(node: ast.AST, packages: set[str]) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name == "robustlab" for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module == "robustlab":
        return any(alias.name not in {*packages, "__version__"} for alias in node.names)
    return False


def test_code_imports_from_packages_not_from_the_front_door() -> None:
    # import-linter does not see through the lazy names: `from robustlab import load` could climb to a higher floor.
    packages = {path.parent.name for folder in ("robustlab", ".") for path in (ROOT / folder).glob("*/__init__.py")}
    offenders = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom)) and _imports_the_front_door(node, packages)
    ]
    assert offenders == []


def test_no_python_file_lies_where_pytest_would_shadow_the_package() -> None:
    assert not (ROOT / "conftest.py").exists()
    assert not (ROOT / "tests" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import " + "pickle", "an import of pickle"),
        ("x = pickle" + ".load(f)", "a call that unpickles"),
        ("torch" + ".load(path)", "torch.load"),
        ("torch" + ".load(path, weights_only=False)", "torch.load"),
        ("np.load(p, allow_pickle" + "=True)", "a NumPy load that may unpickle"),
    ],
)
def test_the_search_finds_what_it_is_for(text: str, what: str) -> None:
    assert UNPICKLING[what].search(text)
    assert MACHINE_PATH.search("data = '/" + "home/somebody/data'")
    assert not UNPICKLING["torch.load"].search("torch" + ".load(path, weights_only=True)")
