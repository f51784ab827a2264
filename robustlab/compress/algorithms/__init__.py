"""The algorithms that training learns, one file each, and their registry."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from robustlab.compress.algorithms import (
    bireal,
    bnn,
    dab,
    dorefa,
    fda,
    irnet,
    lpb,
    lsq,
    lsq_plus,
    pact,
    react,
    recu,
    xnor,
    xnor_plus,
)
from robustlab.compress.contract import Algorithm

_ALL = (
    *(module.ALGORITHM for module in (lsq, lsq_plus)),
    lsq_plus.FREE,
    *(module.ALGORITHM for module in (pact, dorefa, bnn, xnor, bireal, xnor_plus, react, recu, fda, irnet, lpb, dab)),
)
TRAINED: Mapping[str, Algorithm] = MappingProxyType({algorithm.name: algorithm for algorithm in _ALL})
"""Every trained algorithm by its name."""
