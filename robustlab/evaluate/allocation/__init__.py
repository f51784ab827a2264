"""Bit allocation for deployed models: costs in bytes or time of this machine, scores clean, corrupted or attacked."""

from robustlab.evaluate.allocation.allocate import COSTS, Allocated, allocate
from robustlab.evaluate.allocation.costs import Costs, byte_costs, latency_costs, network_nanoseconds
from robustlab.evaluate.allocation.scores import SCORES, KLScore, make_score, score_conditions

__all__ = [
    "COSTS",
    "SCORES",
    "Allocated",
    "Costs",
    "KLScore",
    "allocate",
    "byte_costs",
    "latency_costs",
    "make_score",
    "network_nanoseconds",
    "score_conditions",
]
