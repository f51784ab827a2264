"""Bit allocation: which layer gets how many bits, under a budget of bytes or of time (OHQ 2023; QuantFace, RobuQ 2025).

Every layer has a few `Bits` to choose from. `Variants` makes each layer at each choice once, `sensitivities` measures
what a choice does to the network while all other layers stay float, and `Problem.solve` picks the choices whose
sensitivities sum to the least within the budget, exactly. What a choice costs and which images are shown is up to the
caller; `robustlab.evaluate.allocation` has costs in bytes and microseconds, and the scores.
"""

from robustlab.compress.allocation.budget import Budget, parse_budget
from robustlab.compress.allocation.emit import allocation_spec
from robustlab.compress.allocation.ledger import Ledger
from robustlab.compress.allocation.problem import Bits, Problem, bits_text
from robustlab.compress.allocation.sensitivity import Score, sensitivities
from robustlab.compress.allocation.solver import solve
from robustlab.compress.allocation.variants import DEFAULT_CHOICES, Variants, make_variants

__all__ = [
    "DEFAULT_CHOICES",
    "Bits",
    "Budget",
    "Ledger",
    "Problem",
    "Score",
    "Variants",
    "allocation_spec",
    "bits_text",
    "make_variants",
    "parse_budget",
    "sensitivities",
    "solve",
]
