"""Attacks by name: every attack has a slug that says all of it, and the slug gives the attack back."""

from __future__ import annotations

import re

from robustlab.attacks._attack import Attack
from robustlab.attacks.fgsm import FGSM
from robustlab.attacks.pgd import PGD
from robustlab.core import L2, Ball, Linf
from robustlab.core.balls import parse_eps
from robustlab.core.errors import ArgumentError, invalid

ATTACKS: dict[str, str] = {
    "fgsm": "fgsm-BALL: one step of length eps (Goodfellow et al. 2015)",
    "pgd": "pgdSTEPS-BALL[-stepSIZE][-nostart]: projected gradient ascent (Madry et al. 2018)",
}
"""Name -> grammar of its slug and what it is."""

GRAMMAR = "fgsm-BALL or pgdSTEPS-BALL[-stepSIZE][-nostart], BALL = linf-EPS or l2-EPS, EPS and SIZE like 8of255 or 0.5"

_BALLS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2}
_NUMBER = r"[0-9][0-9.]*(?:of255|e[+-]?[0-9]+)?"
_SLUG = re.compile(
    rf"(?:(?P<fgsm>fgsm)|pgd(?P<steps>[0-9]{{1,6}}))-(?P<norm>linf|l2)-(?P<eps>{_NUMBER})"
    rf"(?:-step(?P<step>{_NUMBER}))?(?P<nostart>-nostart)?"
)


def parse_attack(slug: str) -> Attack:
    """The attack that a slug such as ``pgd20-linf-8of255`` describes; ``parse_attack(attack.slug) == attack``.

    Raises `ArgumentError` that states the grammar.
    """
    match = _SLUG.fullmatch(slug) if isinstance(slug, str) else None
    if match is None or (match["fgsm"] and (match["step"] or match["nostart"])):
        raise invalid("attack", slug, GRAMMAR)
    try:
        ball = _BALLS[match["norm"]](parse_eps(match["eps"]))
        if match["fgsm"]:
            return FGSM(ball)
        step_size = parse_eps(match["step"]) if match["step"] else None
        return PGD(ball, int(match["steps"]), step_size, random_start=not match["nostart"])
    except ArgumentError as error:
        raise invalid("attack", slug, f"{GRAMMAR} ({error})") from error
