"""The grid end to end, on small data and models. Run as a script, this file is the process that gets killed."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import PGD
from robustlab.core import ArgumentError, Linf, RobustlabError, StoreError
from robustlab.core.keys import sample_keys, uniform
from robustlab.evaluate import AttackCondition, Results, Shown, SilentListener, evaluate

CONDITIONS = ["clean", "fgsm-linf-2of255", "pgd3-linf-8of255", "gaussian-noise-3"]
CLASSES = ("a", "b", "c")


class Squares:
    """A class is the brightest third of a noisy image; counts what is asked of it."""

    name = "squares"
    class_names = CLASSES
    image_size = (9, 9)

    def __init__(self, count: int, fingerprint: str = "0a") -> None:
        self.count = count
        self.fingerprint = fingerprint
        self.alive: list[weakref.ref[Any]] = []
        self.most_alive = 0

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        images = uniform(sample_keys(7, "squares", indices), (3, 9, 9))
        labels = torch.tensor([i % 3 for i in indices])
        for row, label in enumerate(labels.tolist()):
            images[row, :, 3 * label : 3 * label + 3] += 0.12
        images = images.clamp(0, 1)
        self.alive = [r for r in self.alive if r() is not None]
        self.alive.append(weakref.ref(images))
        self.most_alive = max(self.most_alive, sum(len(i) for r in self.alive if (i := r()) is not None))
        return images, labels


def small_net(seed: int) -> nn.Module:
    """Looks at the three thirds through a little noise of its own; not quite right, so every accuracy has room."""
    generator = torch.Generator().manual_seed(seed)
    convolution, linear = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(18, 3)
    net = nn.Sequential(convolution, nn.ReLU(), nn.AvgPool2d((3, 9)), nn.Flatten(), linear)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        convolution.weight += 0.05
        for third in range(3):
            linear.weight[third, third::3] += 2.0
    return net


def nets() -> dict[str, nn.Module]:
    return {"one": small_net(1), "two": small_net(2)}


def run(out: Path, count: int = 600, **options: Any) -> Results:
    chosen = {"suite": CONDITIONS, "tile": 16, "efficiency": False, **options}
    models = chosen.pop("models", None) or nets()
    data = chosen.pop("data", None) or Squares(count)
    return evaluate(models, data, out=out, **chosen)


def outcomes(out: Path) -> dict[str, tuple[Any, ...]]:
    """Every cell of a store, times left out."""
    columns = "key, model, condition, shard, n, ids, prediction, correct, confidence, linf, l2, attacked"
    with sqlite3.connect(out / "results.sqlite") as db:
        return {row[0]: row for row in db.execute(f"SELECT {columns} FROM cells")}


def numbers(results: Results) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in results.cells]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("reference")
    return out, run(out)


def test_accuracies_have_room_and_attacks_hurt(reference: tuple[Path, Results]) -> None:
    _, results = reference
    for model in results.models:
        clean, pgd = (results.cell(model, c)["accuracy"] for c in ("clean", "pgd3-linf-8of255"))
        assert 0.4 < clean < 1.0
        assert pgd < clean - 0.05
        assert 0 < results.cell(model, "pgd3-linf-8of255")["linf_max"] <= 8 / 255 + 1e-6
        assert results.cell(model, "clean")["linf_max"] == 0
    assert results.cell("one", "fgsm-linf-2of255")["gradient"] == "exact"
    assert results.cell("one", "clean")["gradient"] == "none"


def test_correct_is_counted_as_by_hand(reference: tuple[Path, Results]) -> None:
    _, results = reference
    images, labels = Squares(600).batch(range(600))
    with torch.no_grad():
        right = int((small_net(1).eval()(images).argmax(1) == labels).sum())
    assert results.cell("one", "clean")["correct"] == right


@pytest.mark.parametrize("batch_size", [1, 50, 160, 4096])
def test_batch_size_changes_nothing(reference: tuple[Path, Results], tmp_path: Path, batch_size: int) -> None:
    out, results = reference
    again = run(tmp_path, batch_size=batch_size)
    assert outcomes(tmp_path) == outcomes(out)
    assert numbers(again) == numbers(results)
    assert [(e.sample, e.png) for e in again.examples] == [(e.sample, e.png) for e in results.examples]


def test_seed_changes_what_is_random(reference: tuple[Path, Results], tmp_path: Path) -> None:
    run(tmp_path, seed=1, suite=["clean", "gaussian-noise-3"])

    def confidences(out: Path, condition: str) -> list[bytes]:
        return [r[8] for r in outcomes(out).values() if r[1] == "one" and r[2] == condition and r[3] == 0]

    assert confidences(tmp_path, "clean") == confidences(reference[0], "clean")
    assert confidences(tmp_path, "gaussian-noise-3") != confidences(reference[0], "gaussian-noise-3")


def test_second_run_comes_from_the_store(reference: tuple[Path, Results]) -> None:
    out, results = reference
    again = run(out)
    assert (again.run["cells_from_store"], again.run["cells_computed"]) == (16, 0)
    assert again.cells == results.cells
    assert [e.png for e in again.examples] == [e.png for e in results.examples]


def test_a_larger_limit_uses_whole_shards_again(tmp_path: Path) -> None:
    first = run(tmp_path, count=1100, limit=500, suite=["clean"])
    assert (first.run["cells_from_store"], first.run["cells_computed"]) == (0, 2)
    second = run(tmp_path, count=1100, limit=0.999, suite=["clean"])
    assert second.cells[0]["n"] == 1099
    assert (second.run["cells_from_store"], second.run["cells_computed"]) == (2, 4)
    third = run(tmp_path, count=1100, suite=["clean"])
    assert (third.run["cells_from_store"], third.run["cells_computed"]) == (4, 2)


def test_other_data_tile_seed_or_weights_are_other_cells(tmp_path: Path) -> None:
    options: dict[str, Any] = {"suite": ["clean"], "models": {"one": small_net(1)}}
    run(tmp_path, 32, **options)
    changed: list[dict[str, Any]] = [
        {"data": Squares(32, "0b")},
        {"tile": 8},
        {"seed": 3},
        {"models": {"one": small_net(3)}},
    ]
    for change in changed:
        assert run(tmp_path, 32, **{**options, **change}).run["cells_from_store"] == 0
    assert run(tmp_path, 32, suite=["clean"], models={"renamed": small_net(1)}).run["cells_from_store"] == 1


class KillAfter(SilentListener):
    """Ends the process for good after some cells."""

    def __init__(self, cells: int) -> None:
        self.left = cells

    def cell(self, row: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("cells", [3, 9])
def test_killed_and_started_again_gives_the_same(reference: tuple[Path, Results], tmp_path: Path, cells: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, __file__, str(tmp_path), str(cells)], env=environment, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "results.json").exists()
    results = run(tmp_path)
    assert results.run["cells_from_store"] == cells
    assert results.run["cells_computed"] == 16 - cells
    assert outcomes(tmp_path) == outcomes(reference[0])
    assert numbers(results) == numbers(reference[1])


def test_two_processes_share_a_store(reference: tuple[Path, Results], tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path), "0"]
    processes = [subprocess.Popen(command, env=environment, cwd=tmp_path) for _ in range(2)]
    assert [p.wait(120) for p in processes] == [0, 0]
    assert outcomes(tmp_path) == outcomes(reference[0])
    assert json.loads((tmp_path / "results.json").read_text())["schema"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_keyboard_interrupt_keeps_what_is_done(reference: tuple[Path, Results], tmp_path: Path) -> None:
    class Interrupt(SilentListener):
        cells = 0

        def cell(self, row: Any) -> None:
            self.cells += 1
            if self.cells == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, listener=Interrupt())
    assert run(tmp_path).run["cells_from_store"] == 5
    assert outcomes(tmp_path) == outcomes(reference[0])


@dataclass(frozen=True)
class Darker:
    """A condition of a user's own, which counts how often it is applied."""

    calls: list[int]
    key: str = "darker"
    version: int = 1
    parameters: str = "0.5"
    depends_on_model: bool = False
    adversarial: bool = False
    needs_gradient: bool = False
    factor: float = 0.5

    def show(self, images: Tensor, labels: Tensor, keys: Tensor, model: nn.Module | None) -> Shown:
        assert model is None
        self.calls.append(len(images))
        return Shown(images * self.factor, torch.zeros(len(images), dtype=torch.bool))

    def contains(self, shown: Tensor, images: Tensor) -> Tensor:
        return ((shown >= 0) & (shown <= 1)).flatten(1).all(1)


def test_models_share_images_that_do_not_depend_on_them(tmp_path: Path) -> None:
    condition = Darker([])
    results = run(tmp_path, suite=[condition])
    assert condition.calls == [500, 100]  # once per shard, for two models
    assert {e.model for e in results.examples} == {None}
    assert set(results.examples[0].predictions) == {"one", "two"}


def test_leaving_the_threat_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RobustlabError, match=r"darker on model one left its threat model on 16 of 16"):
        run(tmp_path, 16, suite=[Darker([], factor=-1.0)])


def test_an_attack_outside_its_ball_is_an_error(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Cheat(PGD):
        def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, keys: Tensor | None = None) -> Any:
            return Shown((images + 2 * self.ball.eps).clamp(0, 1), torch.ones(len(images), dtype=torch.bool))

    with pytest.raises(RobustlabError, match="left its threat model"):
        run(tmp_path, 16, suite=[AttackCondition(Cheat(Linf(4 / 255)))])


class Broken(nn.Module):
    """NaN logits for every third sample's kind of image, else those of a small net."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        sick = images[:, :, :3].mean((1, 2, 3)) > 0.55
        return torch.where(sick[:, None], torch.full_like(logits, torch.nan), logits)


def test_nan_logits_are_no_prediction_and_no_success(tmp_path: Path) -> None:
    models = {"one": small_net(1), "broken": Broken()}
    results = run(tmp_path, 96, models=models, suite=["clean", "pgd3-linf-8of255"])
    images, labels = Squares(96).batch(range(96))
    with torch.no_grad():
        logits = Broken()(images)
    sick = logits.isnan().any(1)
    assert 0 < int(sick.sum()) < 96
    clean = results.cell("broken", "clean")
    assert clean["correct"] == int(((logits.argmax(1) == labels) & ~sick).sum())
    assert clean["status"] == "done"
    attacked = results.cell("broken", "pgd3-linf-8of255")
    assert attacked["status"] == "not_attacked"
    assert attacked["not_attacked"] >= int(sick.sum())
    assert attacked["accuracy"] <= clean["accuracy"]
    json.loads(results.to_json(), parse_constant=pytest.fail)


class AlwaysNan(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 3), torch.nan) + 0 * images.sum((1, 2, 3))[:, None]


def test_a_model_that_only_says_nan_is_never_attacked(tmp_path: Path) -> None:
    results = run(tmp_path, 32, models={"nan": AlwaysNan()}, suite=["clean", "fgsm-linf-8of255"])
    for row in results.cells:
        assert row["accuracy"] == 0
    assert results.cells[1]["not_attacked"] == 32
    assert results.examples[0].predictions == {"nan": -1}


class Ghost(nn.Module):
    """Right without attack, NaN as soon as a pixel moves: no attack ever gets an answer out of it."""

    def forward(self, images: Tensor) -> Tensor:
        thirds = images.mean((1, 3)).reshape(-1, 3, 3).mean(2)
        whole = (images * 255 - (images * 255).round()).abs().amax((1, 2, 3)) < 1e-3
        return torch.where(whole[:, None], thirds, torch.full_like(thirds, torch.nan))


class Levels(Squares):
    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        images, labels = super().batch(indices)
        return (images * 255).round() / 255, labels


def test_nan_under_attack_counts_as_without_attack(tmp_path: Path) -> None:
    half = AttackCondition(PGD(Linf(0.4 / 255), steps=2))
    results = run(tmp_path, data=Levels(48), models={"ghost": Ghost()}, suite=["clean", half])
    clean, attacked = results.cells
    assert clean["correct"] > 0
    assert attacked["correct"] == clean["correct"]
    assert attacked["status"] == "not_attacked"


def test_models_are_left_as_found(tmp_path: Path) -> None:
    model = small_net(1).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random_state = torch.random.get_rng_state()
    run(tmp_path, 32, models=model)
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_images_are_let_go(tmp_path: Path) -> None:
    class Swept(Squares):
        def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
            gc.collect()
            return super().batch(indices)

    few, many = Swept(500), Swept(2000)
    run(tmp_path / "few", data=few)
    run(tmp_path / "many", data=many)
    assert many.most_alive == few.most_alive <= 500


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    peaks = []
    for count in (500, 5000):
        command = [sys.executable, __file__, str(tmp_path / str(count)), f"peak={count}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] <= 1.05 * peaks[0]


class Photos(Squares):
    """Larger images, so that a batch of them weighs something."""

    image_size = (64, 64)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        keys = sample_keys(7, "photos", indices)
        return uniform(keys, (3, 64, 64)), torch.tensor([i % 3 for i in indices])


def peak_of(out: Path, count: int) -> int:
    """Peak resident kB of this process after an evaluation."""
    import resource

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    run(out, data=Photos(count), models={"one": model}, tile=64)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_results_json_has_the_schema(reference: tuple[Path, Results]) -> None:
    out, results = reference
    document = json.loads((out / "results.json").read_text())
    assert document["schema"] == 1
    assert {"versions", "seed", "hardware", "configuration"} <= set(document["run"])
    assert len(document["cells"]) == 8
    kinds = {
        "model": str,
        "condition": str,
        "metric": str,
        "n": int,
        "value": float,
        "ci_low": float,
        "ci_high": float,
        "correct": int,
        "accuracy": float,
        "gradient": str,
        "status": str,
        "seconds": float,
    }
    for row in document["cells"]:
        assert all(isinstance(row[name], kind) for name, kind in kinds.items())
        assert row["ci_low"] <= row["accuracy"] <= row["ci_high"]
    lines = (out / "results.csv").read_text().splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("model,condition,metric,n,value,ci_low,ci_high,correct,accuracy,gradient,status,seconds")
    loaded = Results.load(out)
    assert loaded.as_dict() == document
    assert loaded.examples == results.examples


def test_examples_are_what_was_shown(reference: tuple[Path, Results]) -> None:
    _, results = reference
    mine = [e for e in results.examples if e.condition == "pgd3-linf-8of255" and e.model == "one"]
    assert [e.sample for e in mine] == list(range(8))
    assert all(e.png.startswith(b"\x89PNG") for e in mine)
    assert mine[0].png != next(e.png for e in results.examples if e.condition == "clean")
    assert all(set(e.predictions) == {"one"} for e in mine)


def test_table_shows_every_model(reference: tuple[Path, Results]) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(reference[1].table())
    text = console.export_text()
    assert all(name in text for name in ("one", "two", *CONDITIONS, "±"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "tpu"}, "device is 'tpu'; allowed: cpu"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": 1.5}, "limit is 1.5"),
        ({"limit": -0.1}, "limit is -0.1"),
        ({"limit": True}, "limit is True"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"tile": 0}, "tile is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"suite": "quikc"}, "did you mean quick"),
        ({"suite": ["clean", "clean"]}, "each condition once"),
        ({"suite": ["gausian-noise-3"]}, "did you mean gaussian-noise-3"),
        ({"suite": []}, "conditions"),
        ({"suite": 3}, "suite is 3"),
        ({"models": {"": small_net(1)}}, "name of a model"),
        ({"models": [small_net(1), small_net(2)]}, "each name once"),
        ({"models": [3]}, "models is 3"),
        ({"models": nn.Sequential(nn.Flatten(), nn.Linear(5, 3))}, "a model of 3x9x9 images"),
        ({"models": nn.Sequential(nn.Flatten(), nn.Linear(243, 2))}, "classes of squares"),
        ({"models": nn.Conv2d(3, 3, 3)}, "logits"),
        ({"data": 5}, "data is 5"),
        ({"data": "no-such-data"}, "no-such-data"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(RobustlabError) as caught:
        run(out, 20, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    class Wrong(Squares):
        def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
            images, labels = super().batch(indices)
            return images, labels + 1

    with pytest.raises(ArgumentError, match="labels of squares"):
        run(tmp_path / "out", data=Wrong(20))
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RobustlabError, match="out is"):
            run(out, 20)


def test_a_foreign_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.sqlite").write_bytes(b"not a database at all, but somebody's notes")
    with pytest.raises(StoreError, match="not a database of robustlab"):
        run(tmp_path, 20)
    assert (tmp_path / "results.sqlite").read_bytes().startswith(b"not a database")


def test_progress_adds_up_and_listener_hears_everything(tmp_path: Path) -> None:
    class Bar:
        def __init__(self) -> None:
            self.tasks: dict[str, list[int]] = {}
            self.notes: list[str] = []

        def start(self, task: str, total: int) -> None:
            self.task = task
            self.tasks[task] = [0, total]

        def advance(self, units: int = 1, note: str = "") -> None:
            self.tasks[self.task][0] += units
            self.notes.append(note)

        def finish(self) -> None:
            pass

    class Heard(SilentListener):
        rows: list[Any]

        def planned(self, models: Sequence[str], conditions: Sequence[str], images: int) -> None:
            self.rows = [(tuple(models), images)]

        def cell(self, row: Any) -> None:
            self.rows.append((row["model"], row["condition"], row["n"]))

    for attempt in range(2):
        bar, heard = Bar(), Heard()
        run(tmp_path, 600, suite=["clean"], progress=bar, listener=heard)
        done, total = bar.tasks["evaluate"]
        assert done == total == 2 * (32 + 7), attempt
        assert heard.rows[0] == (("one", "two"), 600)
        assert sorted(heard.rows[1:]) == sorted((m, "clean", n) for m in ("one", "two") for n in (500, 600))
    assert bar.notes[0].startswith("one · clean · ")


def test_efficiency_is_measured_once(tmp_path: Path) -> None:
    first = run(tmp_path, 20, suite=["clean"], efficiency=True)
    again = run(tmp_path, 20, suite=["clean"], efficiency=True)
    assert [row["model"] for row in first.efficiency] == ["one", "two"]
    assert again.efficiency == first.efficiency
    for row in first.efficiency:
        assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"]
        assert row["images_per_s"] > 0
        assert row["peak_memory_bytes"] > row["bytes"] // 2 > 0
        assert row["bit_operations"] >= row["macs"] > 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder, task = Path(sys.argv[1]), sys.argv[2]
    if task.startswith("peak="):
        sys.stdout.write(str(peak_of(folder, int(task.removeprefix("peak=")))))
    else:
        run(folder, listener=KillAfter(int(task)) if int(task) else None)
