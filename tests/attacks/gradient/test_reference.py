"""Deterministic attacks walk the same path as those of torchattacks and foolbox, step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.attacks import BIM, DIFGSM, MIFGSM, PGD, TIFGSM, Attack
from robustlab.attacks.gradient._diversity import Diversity, shrink
from robustlab.attacks.gradient.iterative import gaussian_kernel
from robustlab.core import L1, L2, Linf
from robustlab.core.keys import sample_keys

WHY = "differential test; pip install 'robustlab[reference]'"
EPS, STEP = 1 / 64, 1 / 256  # With images in 256ths every sum is exact.


def images() -> Tensor:
    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return 0.2 + (x * 128).floor() / 256


def network() -> nn.Module:
    """Smooth, and with margins that the balls here do not cross: nobody leaves early."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.Tanh(), nn.Flatten(), nn.Linear(512, 5))
    with torch.no_grad():
        net[3].bias[0] += 6  # type: ignore[operator,index]
    return net.eval()


LABELS = torch.zeros(12, dtype=torch.int64)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", ["PGD", "PGDL2", "BIM", "MIFGSM", "TIFGSM"])
def test_same_path_as_torchattacks(name: str, steps: int) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason=WHY)
    net, x = network(), images()
    ours: Attack
    if name == "PGD":
        ours = PGD(Linf(EPS), steps, STEP, random_start=False, full=True)
        theirs = torchattacks.PGD(net, EPS, STEP, steps, random_start=False)
    elif name == "PGDL2":
        ours = PGD(L2(0.12), steps, 0.04, random_start=False)
        theirs = torchattacks.PGDL2(net, 0.12, 0.04, steps, random_start=False)
    elif name == "BIM":
        ours, theirs = BIM(Linf(EPS), steps, STEP), torchattacks.BIM(net, EPS, STEP, steps)
    elif name == "MIFGSM":
        ours, theirs = MIFGSM(Linf(EPS), steps, STEP), torchattacks.MIFGSM(net, EPS, STEP, steps)
    else:
        ours = TIFGSM(Linf(EPS), steps, STEP)
        theirs = torchattacks.TIFGSM(net, EPS, STEP, steps, diversity_prob=0.0)
    result = ours.run(net, x, LABELS)
    assert result.gradient_calls == 12 * steps and not torch.equal(result.images, x)
    torch.testing.assert_close(result.images, theirs(x, LABELS), rtol=0, atol=2e-6)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "momentum"])
def test_same_path_as_foolbox(norm: str, steps: int) -> None:
    foolbox = pytest.importorskip("foolbox", reason=WHY)
    net, x = network(), images()
    arguments = {"steps": steps, "random_start": False}
    ours: Attack
    if norm == "linf":
        ours = PGD(Linf(EPS), steps, STEP, random_start=False)
        theirs = foolbox.attacks.LinfPGD(abs_stepsize=STEP, **arguments)
    elif norm == "l2":
        ours = PGD(L2(0.12), steps, 0.04, random_start=False)
        theirs = foolbox.attacks.L2PGD(abs_stepsize=0.04, **arguments)
    elif norm == "l1":
        ours = PGD(L1(0.35), steps, 0.1, random_start=False)
        theirs = foolbox.attacks.SparseL1DescentAttack(quantile=0.99, abs_stepsize=0.1, **arguments)
    else:
        ours = MIFGSM(Linf(EPS), steps, STEP)
        theirs = foolbox.attacks.LinfMomentumIterativeFastGradientMethod(momentum=1.0, abs_stepsize=STEP, **arguments)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    _, adversarial, _ = theirs(model, x, LABELS, epsilons=ours.ball.eps)
    mine = ours(net, x, LABELS)
    if norm == "momentum":  # Where the sum is 0 but for rounding, its sign is rounding too.
        same = (mine - adversarial).abs() <= 2e-6
        assert same.float().mean() > 0.995
        mine, adversarial = mine[same], adversarial[same]
    torch.testing.assert_close(mine, adversarial, rtol=0, atol=2e-6)


def test_the_kernel_is_that_of_torchattacks() -> None:
    torchattacks = pytest.importorskip("torchattacks", reason=WHY)
    theirs = torchattacks.TIFGSM(network()).kernel_generation()
    torch.testing.assert_close(gaussian_kernel(15, 3.0).float(), torch.as_tensor(theirs).float().reshape(-1, 15, 15)[0])


def test_a_diverse_view_is_resizing_and_padding() -> None:
    x = images()
    size = torch.tensor([[7, 7]] * 6 + [[5, 6]] * 6)
    start = torch.tensor([[0, 1]] * 6 + [[2, 1]] * 6)
    ours = shrink(x, size, start)
    first = F.pad(F.interpolate(x[:6], size=(7, 7), mode="bilinear", align_corners=False), (1, 0, 0, 1))
    second = F.pad(F.interpolate(x[6:], size=(5, 6), mode="bilinear", align_corners=False), (1, 1, 2, 1))
    torch.testing.assert_close(ours, torch.cat([first, second]), rtol=0, atol=1e-6)


def test_diverse_views_are_drawn_for_every_sample_and_step() -> None:
    diversity, keys = Diversity(0.5, 0.5), sample_keys(0, "views", range(400))
    x = torch.ones(400, 1, 8, 8)
    draws = diversity.draw(keys, 0, x.device)
    sizes = (diversity.view(draws)(x) > 0).any(dim=2).sum(dim=2).flatten()
    assert 0.4 < float((sizes == 8).float().mean()) < 0.6 and set(sizes.tolist()) == {4, 5, 6, 7, 8}
    assert not torch.equal(draws, diversity.draw(keys, 1, x.device))
    assert torch.equal(draws[5:9], diversity.draw(keys[5:9], 0, x.device))


@pytest.mark.parametrize("ball", [Linf(EPS), L2(0.12)])
def test_without_diversity_the_path_is_that_of_mifgsm(ball: Linf | L2) -> None:
    net, x = network(), images()
    diverse = DIFGSM(ball, steps=5, step_size=ball.eps / 2, decay=1.0, probability=0.0)
    plain = MIFGSM(ball, steps=5, step_size=ball.eps / 2, decay=1.0)
    found = plain(net, x, LABELS)
    assert torch.equal(diverse(net, x, LABELS), found)
    assert torch.allclose(ball.distance(found, x), torch.tensor(ball.eps, dtype=torch.float64), rtol=1e-3)
