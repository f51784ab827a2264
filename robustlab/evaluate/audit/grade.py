"""From what was measured to one letter, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustlab.core.errors import check_choice
from robustlab.evaluate.audit.probes import Check

GRADES = ("A", "B", "C", "D", "E", "F")
GAPS = (3.0, 6.0, 12.0, 25.0, 50.0)
"""Largest gap in points between what the gradient as given reaches and the lowest number that A to E allow."""
WEAK = 3.0
"""Points that stronger attacks with the same gradient may gain on PGD-20 for an A; more is a B, not a mask."""


@dataclass(frozen=True)
class Verdict:
    """A letter from A to F and the reasons for it, the weightiest first."""

    grade: str
    reasons: tuple[str, ...]


def verdict(
    checks: Sequence[Check],
    *,
    gap: float,
    weak: float,
    attackable: bool,
    stable: bool,
    noise: float,
    blind: bool = False,
) -> Verdict:
    """The grade of a model.

    gap: points between the lowest number and the lowest that the gradient as given reaches (without a gradient:
    accuracy without attack). weak: points between that and the first number, plain PGD. attackable: the model has a
    gradient. stable: the last round broke nearly nothing more. noise: points that one image is worth; two images are
    never held against a model. blind: no gradient that was found breaks the model even when every image is allowed.
    """
    failed = [check for check in checks if check.status == "fail"]
    warned = [check for check in checks if check.status == "warn"]
    level = 0 if gap <= 2 * noise + 1e-9 else sum(gap > bound + 1e-9 for bound in GAPS)
    reasons = [check.text for check in failed]
    if weak > max(WEAK, 2 * noise) + 1e-9:
        reasons.insert(0, f"the first attack was too weak: the gradient as given breaks {weak:.1f} points more")
        level = max(level, 1)
    if gap > max(GAPS[0], 2 * noise) + 1e-9:
        reasons.insert(0, f"the gradient as given hides {gap:.1f} points")
    if not attackable:
        reasons.insert(0, "the model has no gradient: a gradient attack cannot run, or says that nothing breaks")
    if warned or not stable:
        level = max(level, 1)
        reasons += [check.text for check in warned]
        if not stable:
            reasons.append("the last round of attacks still broke images: the lowest number is not the end")
    if failed or not attackable:
        level = max(level, 2)
    if len(failed) >= 4:
        level = max(level, 3)
    if blind:
        level = len(GRADES) - 1
        reasons.insert(0, "no gradient breaks it even when every image is allowed: the lowest number is no evidence")
    return Verdict(GRADES[level], tuple(reasons) or ("nothing suspicious was found",))


def below(grade: str, wanted: str) -> bool:
    """Whether `grade` is worse than `wanted`, each from A to F."""
    for name, value in (("grade", grade), ("fail_below", wanted)):
        check_choice(name, value, GRADES)
    return GRADES.index(grade) > GRADES.index(wanted)
