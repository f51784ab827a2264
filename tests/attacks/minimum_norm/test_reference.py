"""Norms beside foolbox's and torchattacks', with the same steps; on a small network, and on a trained one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import CW, DDN, FABT, FMN, DeepFool, MinimumNorm
from robustlab.core import L0, L1, L2, Ball, DataError, Linf
from robustlab.deploy import load

FREE = math.inf
Problem = tuple[nn.Module, Tensor, Tensor]


def small() -> Problem:
    """A convolutional network with random weights and 64 images that it gets right."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 5)
        )
        images = torch.rand(64, 3, 8, 8)
    with torch.no_grad():
        net[5].bias -= net(images).mean(dim=0)  # type: ignore[operator]
        return net.eval().requires_grad_(False), images, net(images).argmax(dim=1)


def trained() -> Problem:
    """ResNet-20 and 64 images of CIFAR-10 that it gets right."""
    from robustlab.datasets import load_dataset

    model = load("robustlab:cifar_resnet20").eval()
    try:
        data = load_dataset("cifar10")
    except DataError as error:
        pytest.skip(str(error))
    assert isinstance(model, nn.Module)
    images, labels = data.batch(range(100))
    with torch.no_grad():
        right = torch.nonzero(model(images).argmax(dim=1) == labels).flatten()[:64]
    return model, images[right], labels[right]


def distances(ball: Ball, problem: Problem, images: Tensor) -> Tensor:
    """float64 (N,), infinite where the model is still right."""
    model, origin, labels = problem
    with torch.no_grad():
        broken = model(images).argmax(dim=1) != labels
    return torch.where(broken, ball.distance(images, origin), FREE)


FOOLBOX: dict[str, tuple[MinimumNorm, Callable[[Any], Any]]] = {
    "ddn": (DDN(steps=30), lambda fb: fb.DDNAttack(steps=30)),
    "fmn-l0": (FMN(L0(FREE), steps=30), lambda fb: fb.L0FMNAttack(steps=30)),
    "fmn-l1": (FMN(L1(FREE), steps=30), lambda fb: fb.L1FMNAttack(steps=30)),
    "fmn-l2": (FMN(steps=30), lambda fb: fb.L2FMNAttack(steps=30)),
    "fmn-linf": (FMN(Linf(FREE), steps=30), lambda fb: fb.LInfFMNAttack(steps=30)),
    "deepfool-l2": (DeepFool(), lambda fb: fb.L2DeepFoolAttack()),
    "deepfool-linf": (DeepFool(Linf(FREE)), lambda fb: fb.LinfDeepFoolAttack()),
    "cw": (
        CW(steps=30, searches=5, constant=0.1),
        lambda fb: fb.L2CarliniWagnerAttack(steps=30, binary_search_steps=5, initial_const=0.1),
    ),
}
cases = pytest.mark.parametrize("name", list(FOOLBOX))


def compare_with_foolbox(name: str, problem: Problem) -> None:
    foolbox = pytest.importorskip("foolbox", reason="the norms are compared with foolbox's")
    ours, make = FOOLBOX[name]
    model, images, labels = problem
    found = distances(ours.ball, problem, ours(model, images, labels))
    peer = make(foolbox.attacks).run(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), images, foolbox.criteria.Misclassification(labels)
    )
    theirs = distances(ours.ball, problem, peer.detach())
    assert torch.isfinite(found).sum() >= torch.isfinite(theirs).sum()
    assert found.median() <= 1.03 * theirs.median(), (found.median(), theirs.median())


@pytest.mark.parametrize("name", [name for name in FOOLBOX if name != "cw"])
def test_not_farther_than_foolbox(name: str) -> None:
    compare_with_foolbox(name, small())


@pytest.mark.slow
@cases
def test_not_farther_than_foolbox_on_a_trained_network(name: str) -> None:
    compare_with_foolbox(name, trained())


@pytest.mark.parametrize(("ball", "name"), [(Linf(FREE), "Linf"), (L2(FREE), "L2")])
def test_the_same_steps_as_torchattacks(ball: Ball, name: str) -> None:
    """Towards one class: with a large eps its loop over classes ends after the first one, for all samples."""
    torchattacks = pytest.importorskip("torchattacks", reason="FAB-T is compared with torchattacks'")
    model, images, labels = problem = small()
    found = distances(ball, problem, FABT(ball, steps=15, classes=1)(model, images, labels))
    peer = torchattacks.FAB(model, norm=name, eps=1e9, steps=15, multi_targeted=True, n_classes=5)
    theirs = distances(ball, problem, peer(images, labels))
    assert torch.isfinite(found).all() and torch.isfinite(theirs).all()
    assert (found / theirs - 1).abs().median() < 1e-3 and found.median() <= 1.02 * theirs.median(), found / theirs
