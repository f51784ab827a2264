"""docs/compressors.md: its example runs, it names every algorithm as it is, and its matrix is that of the JSON file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robustlab.bench.compressors import POST_TRAINING, compressor_markdown, read
from robustlab.compress import DEPLOYABILITY, TRAINED
from robustlab.compress.catalogue import ALGORITHMS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "compressors.md").read_text(encoding="utf-8")


def test_the_example_algorithm_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    file, use = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    few = use.replace("range(64)", "range(24)").replace("batch_size=32", "batch_size=12")
    assert few != use
    exec(compile(file + few, "docs/compressors.md", "exec"), {"__name__": "example"})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    inner = [line for line in lines if line[1] == "tqt"]
    assert len(inner) == len(lines) - 2  # all but the first and the last layer
    assert {line[2] for line in lines} == {"P"} and all(int(line[3]) <= 15 for line in inner)


def test_every_algorithm_is_named_with_its_bits_and_class() -> None:
    rows = {
        row[0].strip("`"): row for row in (line.strip("| ").split(" | ") for line in PAGE.splitlines()) if len(row) > 1
    }
    assert set(ALGORITHMS) <= set(rows)
    assert all(len(rows[name]) == 3 for name in POST_TRAINING)
    for name, algorithm in TRAINED.items():
        bits = {(True, False): "1", (False, True): "2 to 8", (True, True): "1 to 8"}
        assert rows[name][1:3] == [bits[algorithm.binary, algorithm.multibit], algorithm.deployability]
    assert set(DEPLOYABILITY) <= set(rows)


def test_the_matrix_is_that_of_the_benchmark() -> None:
    bench = read(ROOT / "benchmarks" / "compressors.json")
    block = PAGE.partition("<!-- matrix: benchmarks/compressors.py -->\n")[2].partition("<!-- end of matrix -->")[0]
    assert block == f"\n{compressor_markdown(bench, level=3)}\n"
    assert bench.errors == [] and bench.settings.calibration == 256 and bench.settings.images == 1000
