"""Numbers for people: bytes, operations, times, percentages, and the names of conditions in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

MISSING = "–"

_ATTACKS = {
    "fgsm": "FGSM",
    "bim": "BIM",
    "pgd": "PGD",
    "mifgsm": "MI-FGSM",
    "difgsm": "DI-FGSM",
    "tifgsm": "TI-FGSM",
    "apgdce": "APGD-CE",
    "apgddlr": "APGD-DLR",
    "apgdt": "APGD-T",
    "ddn": "DDN",
    "fmn": "FMN",
    "fabt": "FAB-T",
    "cw": "C&W",
    "deepfool": "DeepFool",
    "square": "Square",
    "nes": "NES",
    "spsa": "SPSA",
    "hopskipjump": "HopSkipJump",
    "autoattack": "AutoAttack",
}
_NORMS = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1", "l0": "ℓ0"}
_ATTACK_KEY = re.compile(
    r"(?P<name>[a-z][a-z.+-]*?)(?P<steps>\d*)-(?P<norm>linf|l0|l1|l2)(?:-(?P<eps>[0-9.]+(?:of255|e[+-]?[0-9]+)?))?"
    r"(?P<options>(?:-[a-z0-9.+]+)*)"
)
_OPTIONS = {"nostart": "no random start", "uint8": "8-bit images"}
_CORRUPTION_KEY = re.compile(r"^(?P<name>[a-z][a-z0-9.+-]*)-(?P<severity>[1-5])$")


def _scaled(value: float | None, units: tuple[str, ...], step: float = 1000.0) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    index = 0
    while abs(value) >= step * 0.9995 and index + 1 < len(units):
        value /= step
        index += 1
    return f"{_three_digits(value)} {units[index]}".rstrip()


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent; whole numbers stay whole."""
    if value == 0 or (value == round(value) and abs(value) < 1000):
        return f"{value:.0f}"
    value = float(f"{value:.3g}")
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 6)}f}"


def bytes_text(value: float | None) -> str:
    """``73.2 kB``: decimal units, three digits."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def macs_text(value: float | None) -> str:
    """``20.4 MMAC`` per image."""
    return _scaled(value, ("MAC", "kMAC", "MMAC", "GMAC", "TMAC"))


def bit_operations_text(value: float | None) -> str:
    """``1.31 GBOP`` per image (MACs x weight bits x activation bits)."""
    return _scaled(value, ("BOP", "kBOP", "MBOP", "GBOP", "TBOP"))


def milliseconds_text(value: float | None) -> str:
    """``3.21 ms``; microseconds below 1 and seconds from 1000 on."""
    if value is None or not math.isfinite(value):
        return MISSING
    return _scaled(value * 1000, ("µs", "ms", "s"))


def seconds_text(value: float | None) -> str:
    """``48 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate_text(value: float | None) -> str:
    """Images per second, three digits: ``412``, ``1 530``."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 100:
        return _three_digits(value)
    digits = math.floor(math.log10(value)) - 2
    return count_text(round(value / 10**digits) * 10**digits)


def count_text(value: int | None) -> str:
    """``21 500``: thousands set apart by a narrow no-break space."""
    return MISSING if value is None else f"{value:,}".replace(",", "\u202f")


def percent_text(value: float | None) -> str:
    """A share in [0, 1] as ``97.4``: percent with one decimal, without the sign."""
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def nats_text(value: float | None) -> str:
    """A divergence with three decimals, without the unit."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.3f}"


def condition_kind(key: str) -> str:
    """``clean``, ``attack``, ``corruption`` or ``other``, from the spelling of a condition's key."""
    if key == "clean":
        return "clean"
    if _ATTACK_KEY.fullmatch(key):
        return "attack"
    return "corruption" if _CORRUPTION_KEY.match(key) else "other"


def condition_title(key: str) -> str:
    """A key in words: ``pgd20-linf-8of255`` -> ``PGD-20 ℓ∞ 8/255``, ``contrast-3`` -> ``contrast 3``."""
    attack = _ATTACK_KEY.fullmatch(key)
    if attack:
        name = _ATTACKS.get(attack["name"], attack["name"])
        steps = f"-{attack['steps']}" if attack["steps"] else ""
        radius = [attack["eps"]] if attack["eps"] else []
        options = [_OPTIONS.get(word, word.replace("step", "step ")) for word in attack["options"].split("-")[1:]]
        return (
            " ".join([f"{name}{steps}", _NORMS[attack["norm"]], ", ".join([*radius, *options])])
            .replace("of255", "/255")
            .strip()
        )
    return key.replace("-", " ")


def short_name(name: str, limit: int = 28) -> str:
    """A model's name as a plot has room for it: the middle of a long one is left out."""
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}…{name[len(name) - (limit - 1 - head) :]}"


def left_out_text(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """One line per model and need: which conditions it gives too little for."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["gives"], row["needs"]), []).append(row["condition"])
    return [
        f"{model} gives {gives}, and {needs} {'is' if needs == 'gradient' else 'are'} needed by {', '.join(keys)}"
        if needs != "bits"
        else f"the bits of {model} are in another runtime, and {', '.join(keys)} would change them"
        for (model, gives, needs), keys in groups.items()
    ]
