"""What the README shows is run: its Python block, and the example."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_python_block_runs_as_printed(tmp_path: Path) -> None:
    """With fewer images; everything else to the letter."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    script = blocks[0]
    for many, few in (("range(512)", "range(32)"), ("range(64)", "range(8)"), ("limit=500", "limit=8")):
        assert many in script
        script = script.replace(many, few)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pgd20-linf-8of255" in done.stdout
    made = {"signs-w4a4.safetensors", "report.html", "runs/w4a4/results.json", "runs/w4a4/results.csv"}
    assert all((tmp_path / name).is_file() for name in made)


def test_the_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["compress_and_attack.py"])
    module = runpy.run_path(str(ROOT / "examples" / "compress_and_attack.py"))
    module["main"].__globals__["IMAGES"] = 16
    module["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["float", "w4a4,"]
