"""The training loop: it learns, it resumes to the same weights, and it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.compress import TrainConfig, fit, qat
from robustlab.core import Linf, frozen
from robustlab.core.errors import ArgumentError, RobustlabError
from robustlab.models import build


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Weights that a test draws from the global generator are the same in every run, and the generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def problem(count: int = 96) -> tuple[Tensor, Tensor]:
    """Two classes: a bright square on the left or on the right, in noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    images = torch.rand(count, 3, 16, 16, generator=generator) * 0.3
    for index, label in enumerate(labels.tolist()):
        images[index, :, 4:10, 1 + 8 * label : 6 + 8 * label] += 0.5
    return (images * 255).round().clamp(0, 255).to(torch.uint8), labels


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build("robustlab:signs_binary", {"classes": 2, "stem": 8, "widths": [16], "steps": [2]})


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(images.float() / 255).argmax(1) == labels).double().mean())


def flip(batch: Tensor, generator: torch.Generator) -> Tensor:
    return batch + 0.01 * torch.rand(batch.shape, generator=generator)


@pytest.mark.parametrize(("bits", "algorithm"), [(4, "mse"), (1, "binary")])
def test_straight_through_training_learns(bits: int, algorithm: str) -> None:
    images, labels = problem()
    small = rl.compress(
        network(), weights=bits, activations=bits, algorithm=algorithm, calibration=images[:16].float() / 255
    )
    before = accuracy(small, images, labels)
    records = qat(small, images, labels, TrainConfig(8, batch_size=16, learning_rate=5e-3))
    assert len(records) == 8
    assert records[-1].loss < 0.9 * records[0].loss
    assert accuracy(rl.deploy(small), images, labels) > max(0.9, before)


def test_a_run_that_is_cut_ends_with_the_same_weights(tmp_path: Path) -> None:
    images, labels = problem(48)
    config = TrainConfig(3, batch_size=16, learning_rate=3e-3)
    whole, cut = network(), network()
    fit(whole, images, labels, config, augment=flip)

    class Stop(RuntimeError):
        pass

    calls = 0

    def interrupting(batch: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:  # in the middle of the second epoch
            raise Stop
        return flip(batch, generator)

    path = tmp_path / "state.checkpoint"
    with pytest.raises(Stop):
        fit(cut, images, labels, config, augment=interrupting, checkpoint=path)
    resumed = network()
    records = fit(resumed, images, labels, config, augment=flip, checkpoint=path)
    assert [r.epoch for r in records] == [1, 2, 3]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    other = TrainConfig(3, batch_size=16, learning_rate=1e-3)
    with pytest.raises(ArgumentError, match="configuration"):
        fit(network(), images, labels, other, checkpoint=path)
    with pytest.raises(ArgumentError, match="same model, images, labels"):
        fit(network(), 255 - images, labels, config, augment=flip, checkpoint=path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    (tmp_path / "altered").write_bytes(bytes(content))
    with pytest.raises(RobustlabError, match="sha256"):
        fit(network(), images, labels, config, augment=flip, checkpoint=str(tmp_path / "altered"))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(RobustlabError, match="not readable"):
        fit(network(), images, labels, config, checkpoint=path)


def test_a_checkpoint_of_other_bits_grids_algorithms_or_teachers_is_refused(tmp_path: Path) -> None:
    images, labels = problem(32)
    config = TrainConfig(epochs=1, batch_size=16)
    model = network()
    calibration = images[:8].float() / 255

    def trained(path: Path, teacher: nn.Module | None = None, weight: float = 0.0, **how: Any) -> None:
        small = rl.compress(model, calibration=calibration, **{"weights": 4, "activations": 4, **how})
        qat(small, images, labels, replace(config, distillation=weight), checkpoint=path, teacher=teacher)

    other = network()
    with torch.no_grad():
        next(iter(other.parameters())).mul_(2)
    first: list[dict[str, Any]] = [{}, {"algorithm": "pact"}, {"weights": 1, "activations": 1, "algorithm": "binary"}]
    second: list[dict[str, Any]] = [
        {"weights": 3},
        {"algorithm": "pact", "weights": 3},
        {"weights": 1, "activations": 1, "algorithm": "bireal"},
    ]
    for index, (one, two) in enumerate(zip(first, second, strict=True)):
        path = tmp_path / f"{index}"
        trained(path, **one)
        trained(path, **one)
        with pytest.raises(ArgumentError, match="same model"):
            trained(path, **two)
    path = tmp_path / "teacher"
    trained(path, model, 0.5)
    with pytest.raises(ArgumentError, match="teacher"):
        trained(path, other, 0.5)


def test_perturb_sees_the_model_and_trains_on_what_it_returns() -> None:
    images, labels = problem(32)
    ball = Linf(0.1)
    seen = []

    def attack(model: nn.Module, batch: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        with frozen(model):
            leaf = batch.clone().requires_grad_(True)
            loss = nn.functional.cross_entropy(model(leaf), target)
            (gradient,) = torch.autograd.grad(loss, leaf)
        seen.append(model.training)
        return ball.project(batch + 0.1 * gradient.sign(), batch)

    model = network()
    fit(model, images, labels, TrainConfig(1, batch_size=16), perturb=attack)
    assert seen == [True, True]
    assert not model.training


def test_bad_training_input_is_refused() -> None:
    images, labels = problem(8)
    for change, word in (
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"optimizer": "magic"}, "optimizer"),
        ({"precision": "float8"}, "precision"),
        ({"batch_size": 0}, "batch_size"),
        ({"epoch_images": 0}, "epoch_images"),
    ):
        with pytest.raises(ArgumentError, match=word):
            TrainConfig(**{"epochs": 1, **change})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="images"):
        fit(network(), images[0], labels, TrainConfig(1))
    with pytest.raises(ArgumentError, match="labels"):
        fit(network(), images, labels[:3], TrainConfig(1))
    with pytest.raises(ArgumentError, match="compressed"):
        qat(network(), images, labels, TrainConfig(1))
    with pytest.raises(RobustlabError, match="loss is"):
        fit(network(), images, labels, TrainConfig(6, learning_rate=1e30, warmup_epochs=0.0, batch_size=2))


def test_an_epoch_can_draw_some_of_the_images_each_time_others() -> None:
    images, labels = problem(40)
    images = images.float() / 255
    images[:, 0, 0, 0] = torch.arange(40) / 255  # so that each tells which it is
    drawn: list[list[int]] = []

    def look(batch: Tensor, generator: torch.Generator) -> Tensor:
        drawn.append((batch[:, 0, 0, 0] * 255).round().int().tolist())
        return batch

    records = fit(network(), images, labels, TrainConfig(3, batch_size=8, epoch_images=20), augment=look)
    assert len(records) == 3 and [len(batch) for batch in drawn] == [8, 8, 4] * 3
    epochs = [sorted(chain(*drawn[start : start + 3])) for start in (0, 3, 6)]
    assert all(len(set(epoch)) == 20 for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    with pytest.raises(ArgumentError, match="epoch_images is 41"):
        fit(network(), images, labels, TrainConfig(1, epoch_images=41))


def test_the_global_random_state_is_left_alone() -> None:
    images, labels = problem(16)
    before = torch.random.get_rng_state()
    fit(network(), images, labels, TrainConfig(1, batch_size=8))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_teacher_is_imitated_and_left_alone() -> None:
    images, labels = problem(48)
    teacher = network()
    fit(teacher, images, labels, TrainConfig(6, batch_size=16, learning_rate=5e-3))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    wrong = 1 - labels
    student = build("robustlab:signs_binary", {"classes": 2, "stem": 8, "widths": [8, 16], "steps": [1, 1]})
    config = TrainConfig(12, batch_size=16, learning_rate=5e-3, distillation=1.0)
    fit(student, images, wrong, config, teacher=teacher)  # with weight 1 the labels do not count
    assert accuracy(student, images, labels) > 0.9
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())
    with pytest.raises(ArgumentError, match="distillation"):
        fit(student, images, labels, TrainConfig(1), teacher=teacher)
    with pytest.raises(ArgumentError, match="distillation"):
        fit(student, images, labels, config)
    stranger = build("robustlab:signs_binary", {"classes": 3, "stem": 8, "widths": [8], "steps": [1]})
    with pytest.raises(ArgumentError, match="teacher is 'a model of 3 classes'"):
        fit(student, images, labels, config, teacher=stranger)


def test_dropout_draws_are_seeded_and_a_last_lonely_image_does_no_harm() -> None:
    images, labels = problem(33)
    weights = []
    before = torch.random.get_rng_state()
    for _ in range(2):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        with torch.no_grad():
            for index, parameter in enumerate(model.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.1)
        torch.rand(3)
        fit(model.eval(), images, labels, TrainConfig(2, batch_size=16))
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    torch.random.set_rng_state(before)


def test_labels_and_ranges_are_checked_and_a_failure_restores_the_mode() -> None:
    images, labels = problem(16)
    with pytest.raises(ArgumentError, match="labels"):
        fit(network(), images, labels + 1, TrainConfig(1))
    with pytest.raises(ArgumentError, match="images"):
        fit(network(), images.float(), labels, TrainConfig(1))

    def failing(batch: Tensor, generator: torch.Generator) -> Tensor:
        raise KeyboardInterrupt

    model = network()
    with pytest.raises(KeyboardInterrupt):
        fit(model, images, labels, TrainConfig(1), augment=failing)
    assert not any(module.training for module in model.modules())
