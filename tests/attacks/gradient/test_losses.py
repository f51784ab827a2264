"""The losses against their formulas, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.attacks import APGDDLR, APGDT, PGD
from robustlab.attacks._goal import LOSSES, Goal
from robustlab.core import ArgumentError, Linf

LOGITS = torch.tensor([[3.0, 1.0, 2.0, -1.0, 0.5]])


def test_dlr_by_hand() -> None:
    dlr = LOSSES["dlr"]
    assert float(dlr(LOGITS, Goal(torch.tensor([0])))) == pytest.approx(-(3 - 2) / (3 - 1))
    assert float(dlr(LOGITS, Goal(torch.tensor([1])))) == pytest.approx((3 - 1) / (3 - 1))
    targeted = dlr(LOGITS, Goal(torch.tensor([0]), torch.tensor([3])))
    assert float(targeted) == pytest.approx(-(3 + 1) / (3 - (1 + 0.5) / 2))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), scale=st.floats(0.01, 100), shift=st.floats(-5, 5), targeted=st.booleans())
def test_dlr_sees_neither_scale_nor_shift_and_has_the_sign_of_success(
    seed: int, scale: float, shift: float, targeted: bool
) -> None:
    logits = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).double()
    goal = Goal(torch.arange(8) % 6, (torch.arange(8) + 1) % 6 if targeted else None)
    dlr = LOSSES["dlr"](logits, goal)
    torch.testing.assert_close(LOSSES["dlr"](logits * scale + shift, goal), dlr)
    assert torch.equal(LOSSES["margin"](logits, goal) > 0, goal.reached(logits))
    assert targeted or torch.equal(dlr > 0, goal.reached(logits))


def test_too_few_classes_are_refused() -> None:
    images, labels = torch.full((2, 3, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64)
    for classes in (2, 3):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, classes))
        torch.nn.init.zeros_(model[1].weight)
        model[1].bias.data = torch.arange(classes, 0, -1.0)
        refusing = [APGDT(Linf(0.1), steps=2)]
        refusing += [APGDDLR(Linf(0.1), steps=2), PGD(Linf(0.1), loss="dlr")] if classes == 2 else []
        for attack in refusing:
            with pytest.raises(ArgumentError, match=rf"^model is .*{classes} classes.*DLR"):
                attack(model, images, labels)
        with pytest.raises(ArgumentError, match="targeted DLR"):
            PGD(Linf(0.1), loss="dlr")(model, images, labels, targets=labels + 1)
