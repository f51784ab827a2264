"""Option values that several commands read, as text from the command line."""

from __future__ import annotations

import re

from robustlab.cli.errors import bad_value


def images_limit(text: str) -> int | float | None:
    """``all`` -> None, ``500`` -> 500, ``0.1`` -> 0.1. Raises an error of one line for anything else."""
    allowed = "a whole number of images >= 1, a fraction between 0 and 1, or all"
    if text == "all":
        return None
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) >= 1:
        return int(text)
    if re.fullmatch(r"0?\.[0-9]{1,9}", text) and float(text) > 0:
        return float(text)
    raise bad_value("--limit", text, allowed)


def scheme_bits(text: str) -> tuple[int, int]:
    """``w4a8`` -> (4, 8): bits of weights and activations, 2 to 8 each. Raises an error of one line."""
    match = re.fullmatch(r"w([2-8])a([2-8])", text)
    if match is None:
        raise bad_value(
            "--compress",
            text,
            "w2a2 to w8a8 such as w4a8, or none (a binary network has to be trained: robustlab compress --epochs)",
        )
    return int(match[1]), int(match[2])
