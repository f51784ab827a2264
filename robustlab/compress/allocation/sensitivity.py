"""How much every choice of every layer hurts the network: one layer compressed at a time, judged by a score."""

from __future__ import annotations

import math
from typing import Protocol

from torch import nn

from robustlab.compress.allocation.ledger import Ledger
from robustlab.compress.allocation.problem import Bits, bits_text
from robustlab.compress.allocation.variants import Variants
from robustlab.core.errors import invalid
from robustlab.core.progress import Progress, SilentProgress


class Score(Protocol):
    """How far a model is from the float one, in any unit that adds up; 0 for the float model itself."""

    def __call__(self, model: nn.Module, /) -> float:
        """A finite number."""


def sensitivities(
    variants: Variants, score: Score, *, ledger: Ledger | None = None, progress: Progress | None = None
) -> dict[str, dict[Bits, float]]:
    """Omega_i(b): `score` of the float network with only layer i at bits b, for every layer and choice.

    Measured are the layers as they are deployed, in running order; numbers that `ledger` has are not measured again.
    Raises `ArgumentError` for a score that is not a finite number.
    """
    ledger = ledger or Ledger(None, "")
    progress = progress or SilentProgress()
    progress.start("sensitivity", sum(len(choices) for choices in variants.layers.values()))
    found: dict[str, dict[Bits, float]] = {}
    try:
        for name, choices in variants.layers.items():
            found[name] = {}
            for bits in choices:
                value = ledger.get(name, bits_text(bits))
                if value is None:
                    value = float(score(variants.mixed({name: bits})))
                    if not math.isfinite(value):
                        raise invalid(f"score of layer {name} at {bits_text(bits)}", value, "a finite number")
                    ledger.put(name, bits_text(bits), value)
                found[name][bits] = value
                progress.advance(1, f"{name} {bits_text(bits)}")
    finally:
        progress.finish()
    return found
