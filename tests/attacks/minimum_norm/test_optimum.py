"""On linear models the nearest adversarial image is known: projections and attacks against general solvers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustlab.attacks import CW, DDN, FABT, FMN, DeepFool, MinimumNorm
from robustlab.attacks.minimum_norm._hyperplane import step_onto
from robustlab.attacks.minimum_norm._norms import norm, shrink
from robustlab.core import L0, L1, Linf

optimize = pytest.importorskip("scipy.optimize", reason="the oracle needs scipy, of the extra `reference`")
ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}


# --- the oracle ------------------------------------------------------------------------------------------------------


def nearest(name: str, x: np.ndarray, normal: np.ndarray, shift: float) -> float:
    """min ||d|| with <normal, d> >= shift > 0 and x + d in [0, 1], by a linear program or, in l2, SLSQP; else inf."""
    size, corner = len(x), np.where(normal > 0, 1 - x, -x)
    gains = np.sort(normal * corner)[::-1].cumsum()
    if gains[-1] < shift:
        return math.inf
    if name == "l0":  # Whole room, where it brings most.
        return float(np.searchsorted(gains, shift) + 1)
    if name == "l2":
        solved = optimize.minimize(
            lambda d: d @ d,
            corner * shift / gains[-1],
            jac=lambda d: 2 * d,
            bounds=[(-v, 1 - v) for v in x],
            constraints={"type": "ineq", "fun": lambda d: normal @ d - shift, "jac": lambda _: normal},
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 500},
        )
        assert solved.success, solved.message
        return float(np.sqrt(solved.fun))
    # Variables: d, and the sizes that bound it, one for all in linf and one for each in l1.
    sizes = 1 if name == "linf" else size
    bound = np.ones((size, 1)) if name == "linf" else np.eye(size)
    above = np.block([[np.eye(size), -bound], [-np.eye(size), -bound], [-normal[None], np.zeros((1, sizes))]])
    solved = optimize.linprog(
        np.append(np.zeros(size), np.ones(sizes)),
        A_ub=above,
        b_ub=np.append(np.zeros(2 * size), -shift),
        bounds=[(-v, 1 - v) for v in x] + [(0, None)] * sizes,
    )
    assert solved.success, solved.message
    return float(solved.fun)


def linear_model(classes: int, size: int = 27, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(size, classes)
    layer.weight.data = torch.randn(classes, size, generator=generator)
    layer.bias.data = 0.3 * torch.randn(classes, generator=generator)
    return nn.Sequential(nn.Flatten(), layer)


def edge_images(count: int, seed: int = 1, size: int = 3) -> Tensor:
    """Random images, a third of whose values lie on the bounds of the box."""
    x = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return (x * 1.5 - 0.25).clamp(0, 1)


def exact(name: str, model: nn.Sequential, images: Tensor, labels: Tensor) -> Tensor:
    """Distance of every image to the nearest one of another class, or of the target: minimum over boundaries."""
    layer = model[1]
    weight, bias = (t.detach().double().numpy() for t in (layer.weight, layer.bias))
    found = []
    for x, y in zip(images.flatten(1).double().numpy(), labels.tolist(), strict=True):
        others = [k for k in range(len(bias)) if k != y]
        scores = weight @ x + bias
        found.append(min(nearest(name, x, weight[k] - weight[y], scores[y] - scores[k]) for k in others))
    return torch.tensor(found, dtype=torch.float64)


# --- projections -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(list(ORDERS)), seed=st.integers(0, 10**6), share=st.floats(0.01, 1.2), sign=st.booleans())
def test_the_step_onto_a_hyperplane_is_the_smallest_in_the_box(name: str, seed: int, share: float, sign: bool) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 12))
    x, normal = np.clip(rng.random(size) * 1.5 - 0.25, 0, 1), rng.normal(size=size) * (rng.random(size) < 0.8)
    reach = float(np.abs(normal) @ np.where(normal > 0, 1 - x, x))
    shift = share * reach
    given_normal, given_shift = (normal, shift) if sign else (-normal, -shift)  # The same hyperplane.
    rows = (torch.tensor(v, dtype=torch.float32)[None] for v in (x, given_normal, np.array(given_shift)))
    step = step_onto(name, *rows)[0].double().numpy()
    assert ((x + step >= -1e-7) & (x + step <= 1 + 1e-7)).all()
    if share < 0.999 and reach > 1e-3:
        assert normal @ step == pytest.approx(shift, abs=1e-5)
        assert np.linalg.norm(step, ORDERS[name]) == pytest.approx(
            nearest(name, x, normal, shift * (1 - 1e-9)), abs=2e-5
        )
    elif share > 1:  # Out of reach: as near as the box lets it.
        assert normal @ step == pytest.approx(reach, abs=1e-5)


@pytest.mark.parametrize("name", list(ORDERS))
def test_a_step_does_not_depend_on_its_neighbours(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, normal = torch.rand(32, 60, generator=generator), torch.randn(32, 60, generator=generator)
    normal[0], shift = 0, torch.randn(32, generator=generator) * 9
    together = step_onto(name, x, normal, shift)
    assert not together[0].any()
    order = torch.randperm(32, generator=generator)
    assert torch.equal(step_onto(name, x[order], normal[order], shift[order]), together[order])


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(["l0", "l1", "l2", "linf"]), seed=st.integers(0, 10**6), radius=st.floats(0.01, 6))
def test_shrinking_gives_the_nearest_point_of_the_ball(name: str, seed: int, radius: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(3, 2, 4, generator=generator)
    limits = torch.tensor([radius, 100.0, radius / 2])
    if name == "l0":
        limits = limits.floor()
    shrunk = shrink(name, delta, limits)
    assert (norm(name, shrunk) <= limits * (1 + 1e-4)).all() and torch.equal(shrunk[1], delta[1])
    if name == "l0":  # The largest stay as they are.
        kept = shrunk != 0
        assert torch.equal(shrunk[kept], delta[kept])
        for row, stays in zip(delta.abs().flatten(1), kept.flatten(1), strict=True):
            assert not stays.any() or stays.all() or row[stays].min() >= row[~stays].max()
        return
    # Of a convex set: the point p nearest to z has <z - p, q - p> <= 0 for every q in it.
    others = torch.randn(3, 200, 8, generator=generator)
    others = others / norm(name, others.flatten(0, 1)).reshape(3, 200, 1) * limits[:, None, None]
    point = shrunk.flatten(1)
    assert (((delta.flatten(1) - point)[:, None] * (others - point[:, None])).sum(dim=2) <= 1e-4).all()


# --- attacks ---------------------------------------------------------------------------------------------------------

FREE = math.inf
ALL_CLASSES: list[MinimumNorm] = [
    FABT(steps=30),
    FABT(Linf(FREE), steps=30),
    FABT(L1(FREE), steps=30),
    DeepFool(overshoot=0.001),
    DeepFool(Linf(FREE), overshoot=0.001),
]
ONE_CLASS: list[MinimumNorm] = [
    DDN(steps=300),
    FMN(),
    FMN(Linf(FREE)),
    FMN(L1(FREE)),
    CW(steps=300, searches=6, step_size=0.02, constant=0.5),
]


@pytest.mark.parametrize("attack", ALL_CLASSES + ONE_CLASS, ids=lambda a: a.slug)
def test_two_classes(attack: MinimumNorm) -> None:
    model, images = linear_model(2), edge_images(5)
    labels = model(images).argmax(dim=1)
    result = attack.run(model, images, labels)
    assert result.attacked.all() and (model(result.images).argmax(dim=1) != labels).all()
    ratio = attack.ball.distance(result.images, images) / exact(attack.ball.norm_name, model, images, labels)
    assert (ratio > 1 - 1e-5).all() and (ratio <= 1.01).all(), ratio


@pytest.mark.parametrize("attack", ALL_CLASSES, ids=lambda a: a.slug)
def test_the_nearest_of_several_boundaries(attack: MinimumNorm) -> None:
    model, images = linear_model(4, seed=2), edge_images(10, seed=3)
    labels = model(images).argmax(dim=1)
    result = attack.run(model, images, labels)
    assert (model(result.images).argmax(dim=1) != labels).all()
    ratio = attack.ball.distance(result.images, images) / exact(attack.ball.norm_name, model, images, labels)
    assert (ratio > 1 - 1e-5).all() and (ratio <= 1.01).all(), ratio


@pytest.mark.parametrize(
    "attack",
    [pytest.param(a, marks=[pytest.mark.slow] if isinstance(a, CW) else [], id=a.slug) for a in ONE_CLASS],
)
def test_the_nearest_of_several_targets(attack: MinimumNorm) -> None:
    """These descend one loss, which may lead to another class than the nearest; so they are sent to each in turn.

    DDN's cross-entropy and the binary search of C&W can still stop beside a corner between three classes.
    """
    model, images = linear_model(4, seed=2), edge_images(6, seed=3) * 0.6 + 0.2  # The box is still in the way of some.
    labels = model(images).argmax(dim=1)
    best = torch.full((6,), FREE, dtype=torch.float64)
    for k in range(1, 4):
        targets = (labels + k) % 4
        result = attack(model, images, labels, targets=targets)
        distance = attack.ball.distance(result, images)
        assert torch.equal(model(result).argmax(dim=1) == targets, distance > 0)
        best = torch.where(distance > 0, torch.minimum(best, distance), best)
    ratio = best / exact(attack.ball.norm_name, model, images, labels)
    assert (ratio > 1 - 1e-5).all() and ratio.median() <= 1.01, ratio
    assert (ratio <= (1.01 if isinstance(attack, FMN) else 1.1)).all(), ratio
    untargeted = attack.ball.distance(attack(model, images, labels), images)
    assert (untargeted > best * 0.99).all() and untargeted.median() < 1.05 * best.median()


def test_fewest_values() -> None:
    """The greedy choice of a few values is a hard problem: one more than necessary is what FMN takes at most here."""
    model, images = linear_model(2, seed=2), edge_images(20, seed=3)
    labels = model(images).argmax(dim=1)
    surplus = L0(FREE).distance(FMN(L0(FREE))(model, images, labels), images) - exact("l0", model, images, labels)
    assert (surplus >= 0).all() and (surplus <= 1).all() and surplus.mean() < 0.5, surplus
