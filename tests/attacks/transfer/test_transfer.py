"""Transfer, ensembles, the matrix and divergence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.attacks import FGSM, PGD, Divergence, Transfer, transfer_matrix
from robustlab.core import ArgumentError, Linf, Tiled
from robustlab.core.keys import sample_keys
from robustlab.deploy import CallableModel
from robustlab.evaluate import AttackCondition

BALL = Linf(16 / 255)
ATTACK = PGD(BALL, steps=4)


def linear(seed: int, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(75, classes)).eval()


A, B, C = linear(1), linear(2), linear(3)
with torch.no_grad():  # relatives, so that something transfers
    B[1].weight.copy_(0.8 * A[1].weight + 0.2 * B[1].weight)
IMAGES = torch.rand(40, 3, 5, 5, generator=torch.Generator().manual_seed(0))
LABELS = A(IMAGES).argmax(1)
KEYS = sample_keys(0, "test", range(40))


def right(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(1) == LABELS


@pytest.mark.parametrize("attack", [ATTACK, FGSM(BALL)])
def test_to_itself_it_is_the_white_box_attack(attack: PGD | FGSM) -> None:
    for model in (A, Tiled(A, 16)):
        transfer = Transfer(attack, [A], early_exit=True).run(model, IMAGES, LABELS, keys=KEYS)
        white = attack.run(Tiled(A, 16 if isinstance(model, Tiled) else 64), IMAGES, LABELS, keys=KEYS)
        assert torch.equal(transfer.images, white.images)
        assert torch.equal(transfer.attacked, white.attacked)


def test_images_come_from_the_source_and_stay_in_the_threat_model() -> None:
    transfer = Transfer(ATTACK, [A])
    result = transfer.run(B, IMAGES, LABELS, keys=KEYS)
    assert bool(BALL.contains(result.images, IMAGES).all())
    wrong = ~right(B, IMAGES)
    assert bool(wrong.any()) and not bool(wrong.all())
    assert torch.equal(result.images[wrong], IMAGES[wrong])
    assert right(B, result.images).sum() < right(B, IMAGES).sum()
    assert int(result.queries.max()) == 1 and result.gradient_calls == 0
    assert transfer.needs_gradient is False  # of the judged model: it only says its classes
    with torch.no_grad():  # all steps are made: further up than what stops at the first image that fools the source
        stops = Transfer(ATTACK, [A], early_exit=True)(B, IMAGES, LABELS, keys=KEYS)
        loss = [nn.functional.cross_entropy(A(x[~wrong]), LABELS[~wrong]) for x in (result.images, stops)]
    assert loss[0] > loss[1]


def test_an_ensemble_is_the_mean_of_its_logits() -> None:
    mean = linear(0)
    with torch.no_grad():
        mean[1].weight.copy_((A[1].weight + C[1].weight) / 2)
        mean[1].bias.copy_((A[1].bias + C[1].bias) / 2)
    ours = Transfer(ATTACK, [A, C])(B, IMAGES, LABELS, keys=KEYS)
    single = Transfer(ATTACK, [mean])(B, IMAGES, LABELS, keys=KEYS)
    assert float((ours - single).abs().max()) < 1e-5


def test_results_do_not_depend_on_batches() -> None:
    transfer, model = Transfer(ATTACK, [A]), Tiled(B, 8)
    whole = transfer(model, IMAGES, LABELS, keys=KEYS)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    again = transfer(model, IMAGES[order], LABELS[order], keys=KEYS[order])
    assert torch.equal(again, whole[order])
    assert torch.equal(transfer(model, IMAGES[5:9], LABELS[5:9], keys=KEYS[5:9]), whole[5:9])
    assert torch.equal(Transfer(PGD(Linf(0.0), steps=2), [A])(B, IMAGES, LABELS), IMAGES)


def test_a_source_that_yields_nan_is_no_success() -> None:
    broken = linear(1)
    with torch.no_grad():
        broken[1].bias[0] = torch.nan
    result = Transfer(ATTACK, [broken]).run(B, IMAGES, LABELS, keys=KEYS)
    fine = right(B, IMAGES)
    assert torch.equal(result.images, IMAGES)
    assert not bool(result.attacked[fine].any())


def test_the_key_of_a_cell_tells_sources_apart() -> None:
    one, two = (AttackCondition(Transfer(ATTACK, [model])) for model in (A, C))
    assert one.key != two.key
    assert one.parameters != two.parameters
    assert one.key == AttackCondition(Transfer(ATTACK, [linear_copy(A)])).key
    assert one.key.startswith("transfer-pgd4-linf-16of255-from-")


def linear_copy(model: nn.Module) -> nn.Module:
    copy = linear(9)
    copy.load_state_dict(model.state_dict())
    return copy


def test_the_matrix_has_the_white_box_attack_on_its_diagonal() -> None:
    models = {"a": A, "b": B, "c": C}
    cells = {(cell.source, cell.target): cell for cell in transfer_matrix(ATTACK, models, IMAGES, LABELS, keys=KEYS)}
    assert set(cells) == {(s, t) for s in models for t in models}
    for name, model in models.items():
        white = ATTACK(Tiled(model), IMAGES, LABELS, keys=KEYS)
        assert cells[name, name].correct == int(right(model, white).sum())
        assert cells[name, name].clean == int(right(model, IMAGES).sum())
    transfer = Transfer(ATTACK, [A])(Tiled(B), IMAGES, LABELS, keys=KEYS)
    assert cells["a", "b"].correct == int(right(B, transfer).sum())
    assert cells["a", "b"].not_attacked == 0


def test_divergence_is_the_compressed_model_wrong_and_the_other_right() -> None:
    diva = Divergence(BALL, A, steps=10)
    result = diva.run(B, IMAGES, LABELS, keys=KEYS)
    assert bool(BALL.contains(result.images, IMAGES).all())
    success = diva.diverges(B, result.images, LABELS)
    assert torch.equal(success, ~right(B, result.images) & right(A, result.images))
    already = diva.diverges(B, IMAGES, LABELS)
    assert bool(already.any())
    assert torch.equal(result.images[already], IMAGES[already])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    tiled = diva(Tiled(B, 8), IMAGES, LABELS, keys=KEYS)
    assert torch.equal(diva(Tiled(B, 8), IMAGES[order], LABELS[order], keys=KEYS[order]), tiled[order])
    assert result.gradient_calls > 0 and int(result.queries.min()) >= 1


def test_a_compressed_model_diverges_from_its_float_model() -> None:
    images, labels = rl.datasets.load_dataset("signs").batch(range(40))
    float_model, small = rl.load("robustlab:signs_float"), rl.load("robustlab:signs_w4a4")
    ball = Linf(4 / 255)
    diva = Divergence(ball, float_model, steps=5)
    success = diva.diverges(small, diva(small, images, labels), labels).double().mean()
    plain = diva.diverges(small, PGD(ball, steps=5)(small, images, labels), labels).double().mean()
    assert success > 1.5 * plain  # DIVA reports 1.9 to 4.2 times


class Blind(nn.Module):
    """Answers without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return B(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Transfer("pgd", [A]),  # type: ignore[arg-type]
        lambda: Transfer(ATTACK, []),
        lambda: Transfer(ATTACK, A),  # type: ignore[arg-type]
        lambda: Transfer(ATTACK, [3]),  # type: ignore[list-item]
        lambda: Transfer(Transfer(ATTACK, [A]), [A]),
        lambda: Transfer(ATTACK, [A, linear(4, 5)])(B, IMAGES, LABELS),
        lambda: Divergence(BALL, 3),  # type: ignore[arg-type]
        lambda: Divergence(BALL, A, weight=0.0),
        lambda: Divergence(BALL, A, steps=0),
        lambda: Divergence(BALL, linear(4, 5))(B, IMAGES, LABELS),
        lambda: Divergence(BALL, A)(B, IMAGES, LABELS, targets=LABELS),
        lambda: Divergence(BALL, A)(A, IMAGES, LABELS),
        lambda: Divergence(BALL, A)(Blind(), IMAGES, LABELS),
        lambda: Divergence(BALL, Blind())(B, IMAGES, LABELS),
        lambda: Divergence(BALL, CallableModel(A, classes=4)),
        lambda: transfer_matrix(ATTACK, {}, IMAGES, LABELS),
    ],
)
def test_bad_arguments_are_refused(bad: object) -> None:
    with pytest.raises(ArgumentError, match="allowed"):
        bad()  # type: ignore[operator]


class Mute(nn.Module):
    """Right on the images that it knows, no answer to others."""

    def __init__(self, inner: nn.Module, known: Tensor) -> None:
        super().__init__()
        self.inner, self.known = inner, known

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        same = (x[:, None] == self.known[None]).flatten(2).all(dim=2).any(dim=1)
        return torch.where(same[:, None], logits, torch.nan)


def test_no_answer_of_the_target_is_not_a_wrong_one() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).eval()
    images = torch.rand(6, 3, 4, 4)
    with torch.no_grad():
        labels = inner(images).argmax(1)
    cells = transfer_matrix(PGD(Linf(0.3), steps=3), {"a": inner, "mute": Mute(inner, images)}, images, labels)
    cell = next(c for c in cells if (c.source, c.target) == ("a", "mute"))
    assert (cell.correct, cell.clean) == (6, 6)
    assert cell.not_attacked == 6
