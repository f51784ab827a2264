"""`robustlab attack`: what it prints and keeps, that it goes on where it was, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import robustlab as rl
from robustlab.cli import run
from robustlab.core import Linf
from robustlab.report.sheet import read_png

MODEL = "robustlab:signs_w4a4"


def test_images_are_kept_pictured_and_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a"
    command = ["attack", MODEL, "--limit", "12", "--attack", "pgd5-linf-8of255", "--save", "png", "--out", str(out)]
    assert run(command) == 0
    printed = capsys.readouterr().out
    report = json.loads((out / "attack.json").read_text(encoding="utf-8"))
    (row,) = report["attacks"]
    kept = load_file(out / "pgd5-linf-8of255" / "part-00000.safetensors")
    images, labels = rl.datasets.load_dataset("signs").batch(range(12))
    model = rl.load(MODEL)
    assert Linf(8 / 255).contains(kept["images"], images).all()
    with torch.no_grad():
        said = rl.core.Tiled(model)(kept["images"]).argmax(dim=1)
        before = rl.core.Tiled(model)(images).argmax(dim=1)
    assert torch.equal(said, kept["prediction"])
    assert row["robust"] == pytest.approx(float((said == labels).float().mean()))
    broken = (before == labels) & (said != labels)
    assert row["successes"] == int(broken.sum()) > 0
    files = sorted((out / "pgd5-linf-8of255" / "png").iterdir())
    assert [int(path.name[:6]) for path in files] == broken.nonzero().flatten().tolist()
    decoded = torch.stack([torch.from_numpy(read_png(path)) for path in files])
    assert torch.equal(decoded, (kept["images"][broken] * 255).round() / 255)
    with torch.no_grad():
        still = int((rl.core.Tiled(model)(decoded).argmax(dim=1) != labels[broken]).sum())
    assert f"{still} of {len(files)}" in printed
    assert (out / "pgd5-linf-8of255" / "sheet.png").stat().st_size > 1000


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustlab.attacks import PGD

    command = ["attack", MODEL, "--limit", "8", "--attack", "pgd2-linf-8of255", "--out", str(tmp_path)]
    assert run(command) == 0
    path = tmp_path / "pgd2-linf-8of255" / "part-00000.safetensors"
    first, written = load_file(path), path.stat().st_mtime_ns

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("attacked again")

    with monkeypatch.context() as patch:
        patch.setattr(PGD, "run", refuse)
        assert run(command) == 0
    assert path.stat().st_mtime_ns == written
    assert run([*command[:-1], str(tmp_path / "other"), "--seed", "1"]) == 0
    assert not torch.equal(load_file(tmp_path / "other" / path.parent.name / path.name)["images"], first["images"])
    path.write_bytes(path.read_bytes()[:100])
    assert run(command) == 2


def test_targets(tmp_path: Path) -> None:
    command = ["attack", MODEL, "--limit", "12", "--attack", "pgd30-linf-16of255"]
    for rule in ("next", "random", "stop"):
        out = tmp_path / rule
        assert run([*command, "--target", rule, "--out", str(out)]) == 0
        kept = load_file(out / "pgd30-linf-16of255" / "part-00000.safetensors")
        labels, targets = kept["labels"], kept["targets"]
        names = rl.datasets.load_dataset("signs").class_names
        assert (targets != labels).all()
        if rule == "next":
            assert torch.equal(targets, (labels + 1) % len(names))
        if rule == "stop":
            assert set(targets[targets >= 0].tolist()) == {names.index("stop")}
        aimed = targets >= 0
        assert (kept["prediction"][aimed] == targets[aimed]).float().mean() > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attack", "pdg20-linf-8of255"], "attack is 'pdg20-linf-8of255'; allowed:"),
        (["--target", "stp"], "target is 'stp'; allowed:"),
        (["--limit", "0"], "--limit is '0'; allowed:"),
        (["--seed", "-1"], "--seed is -1; allowed:"),
        (["--out", "/proc/nope"], "--out is '/proc/nope'; allowed:"),
        (["--attack", "pgd5-linf-8of255", "--attack", "pgd5-linf-8of255"], "each condition once"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["attack", MODEL, "--out", str(tmp_path / "x"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


class NanOffTheLevels(nn.Module):
    """Right on 8-bit images, no answer on others."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        levels = (x * 255).round() / 255
        return torch.where((x == levels).flatten(1).all(dim=1)[:, None], logits, torch.nan)


def test_no_answer_is_not_a_wrong_one(tmp_path: Path) -> None:
    from robustlab.core import SilentProgress
    from robustlab.evaluate.conditions import AttackCondition
    from robustlab.evaluate.crafting import craft, summary
    from robustlab.evaluate.plan import make_plan

    condition = AttackCondition(rl.attacks.FGSM(Linf(0.0123)))
    plan = make_plan(
        NanOffTheLevels(rl.load(MODEL)), rl.datasets.load_dataset("signs"), [condition], out=tmp_path, limit=8,
        batch_size=8, tile=8, seed=0, device="cpu",
    )  # fmt: skip
    parts = [part for _, part in craft(plan, "none", SilentProgress())]
    row = summary("m", condition, "none", parts, torch.zeros(8))
    assert (row["robust"], row["successes"]) == (row["clean"], 0)
    assert row["not_attacked"] == round(8 * row["clean"])


def test_files_of_other_settings_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["attack", MODEL, "--attack", "fgsm-linf-8of255-uint8", "--out", str(tmp_path)]
    assert run([*command, "--limit", "12"]) == 0
    path = tmp_path / "fgsm-linf-8of255-uint8" / "part-00000.safetensors"
    before, report = path.read_bytes(), (tmp_path / "attack.json").read_bytes()
    for change in (["--limit", "8"], ["--limit", "12", "--seed", "1"], ["--limit", "12", "--target", "next"]):
        assert run([*command, *change]) == 2
        assert "choose another, or remove" in capsys.readouterr().err
    assert run(["attack", "robustlab:signs_w8a8", "--limit", "12", "--attack", "fgsm-linf-4of255", *command[-2:]]) == 2
    assert "another model" in capsys.readouterr().err
    assert (path.read_bytes(), (tmp_path / "attack.json").read_bytes()) == (before, report)


def test_attacks_of_one_folder_are_in_one_report(tmp_path: Path) -> None:
    command = ["attack", MODEL, "--limit", "8", "--out", str(tmp_path), "--attack"]
    for slug in ("fgsm-linf-8of255", "fgsm-linf-4of255", "fgsm-linf-8of255"):
        assert run([*command, slug]) == 0
    rows = json.loads((tmp_path / "attack.json").read_text(encoding="utf-8"))["attacks"]
    assert [row["attack"] for row in rows] == ["fgsm-linf-4of255", "fgsm-linf-8of255"]
    path = tmp_path / "fgsm-linf-8of255" / "part-00000.safetensors"
    assert path.stat().st_mode == (tmp_path / "attack.json").stat().st_mode


def test_an_authority_makes_diva_of_pgd_and_counts_what_parts_the_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, right = "robustlab:signs_w4a4", "robustlab:signs_float"
    command = ["attack", small, "--authority", right, "--limit", "24", "--attack", "pgd4-linf-4of255"]
    assert run([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "attack.json").read_text(encoding="utf-8"))["attacks"]
    assert row["attack"].startswith("diva4-linf-4of255-from-")
    kept = load_file(tmp_path / row["attack"] / "part-00000.safetensors")
    answers = []
    for name in (small, right):
        with torch.no_grad():
            answers.append(rl.core.Tiled(rl.load(name))(kept["images"]).argmax(dim=1) == kept["labels"])
    assert row["parted"] == int((~answers[0] & answers[1]).sum()) > row["parted_before"]
    assert f"wrong here and right by the authority: {row['parted']} of 24" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attack", "fgsm-linf-4of255"], "a PGD attack such as pgd20-linf-8of255"),
        (["--attack", "pgd4-linf-4of255-restarts2"], "without other options"),
        (["--attack", "pgd4-linf-4of255", "--target", "next"], "none with --authority"),
    ],
)
def test_what_diva_cannot_be_made_of_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["attack", MODEL, "--authority", "robustlab:signs_float", "--out", str(tmp_path / "a")]
    assert run([*command, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
