"""Attacks by name: every attack has a slug that says all of it, and the slug gives the attack back."""

from __future__ import annotations

import difflib
import re

from robustlab.attacks._attack import Attack
from robustlab.attacks._slugs import grammar, read_options
from robustlab.attacks.adapters.torchattacks import PREFIX, TorchAttack
from robustlab.attacks.black_box import NES, SPSA, HopSkipJump, Square
from robustlab.attacks.ensemble import AutoAttack
from robustlab.attacks.gradient import APGDCE, APGDDLR, APGDT, BIM, DIFGSM, FGSM, MIFGSM, PGD, TIFGSM
from robustlab.attacks.minimum_norm import CW, DDN, FABT, FMN, DeepFool
from robustlab.core.balls import BALLS, parse_ball
from robustlab.core.errors import ArgumentError, invalid

_CLASSES: tuple[type[Attack], ...] = (
    FGSM,
    BIM,
    PGD,
    APGDCE,
    APGDDLR,
    APGDT,
    MIFGSM,
    DIFGSM,
    TIFGSM,
    Square,
    NES,
    SPSA,
    HopSkipJump,
    DDN,
    FMN,
    FABT,
    CW,
    DeepFool,
    AutoAttack,
)

_BY_NAME = {attack.name: attack for attack in _CLASSES}

ATTACKS: dict[str, str] = {
    attack.name: f"{grammar(attack)}: {(attack.__doc__ or '').splitlines()[0].rstrip('.')}" for attack in _CLASSES
}
ATTACKS["torchattacks"] = "torchattacks:NAME(key=value, ...): any attack of torchattacks, held to its threat model"
"""Name -> grammar of its slug and what it is."""

_SLUG = re.compile(
    rf"(?P<name>[a-z]+)(?P<steps>[0-9]{{1,6}})?-(?P<ball>(?:{'|'.join(BALLS)})(?:-[0-9][0-9.]*(?:of255|e[+-]?[0-9]+)?)?"
    r"(?:-uint8)?)"
    r"(?P<rest>(?:-.*)?)"
)


def parse_attack(slug: str) -> Attack:
    """The attack that a slug such as ``pgd20-linf-8of255`` describes; ``parse_attack(attack.slug) == attack``.

    ``torchattacks:NAME(key=value, ...)`` is an attack of that library.

    Raises `ArgumentError` that states the grammar.
    """
    if isinstance(slug, str) and slug.startswith(PREFIX):
        return TorchAttack.parse(slug)
    match = _SLUG.fullmatch(slug) if isinstance(slug, str) else None
    if match is None or match["name"] not in _BY_NAME:
        raise invalid("attack", slug, _help(slug))
    attack = _BY_NAME[match["name"]]
    allowed = grammar(attack) + _BALL_GRAMMAR
    options = read_options(attack, match["rest"])
    has_steps = "STEPS" in grammar(attack)
    if options is None or has_steps != (match["steps"] is not None):
        raise invalid("attack", slug, allowed)
    if has_steps:
        options["steps"] = int(match["steps"])
    try:
        return attack(parse_ball(match["ball"]), **options)
    except ArgumentError as error:
        raise invalid("attack", slug, f"{allowed} ({error})") from error


def _help(slug: object) -> str:
    """What is allowed where nothing fits: the grammar of the attack that was meant, or all names and the nearest."""
    letters = re.match(r"[a-z]*", slug if isinstance(slug, str) else "")
    name = letters.group() if letters else ""
    if name in _BY_NAME:
        return grammar(_BY_NAME[name]) + _BALL_GRAMMAR
    near = difflib.get_close_matches(name, _BY_NAME, n=1)
    hint = f" (did you mean {grammar(_BY_NAME[near[0]])}?)" if near else ""
    return f"{', '.join(_BY_NAME)} with a ball, such as pgd20-linf-8of255{hint}; robustlab list attacks has the grammar"


_BALL_GRAMMAR = f", BALL = {' or '.join(f'{name}-EPS[-uint8]' for name in BALLS)}, EPS and SIZE like 8of255 or 0.5"
