"""`allocate`: from a float model, a few images and a budget to the bits of every layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from robustlab.compress import Spec
from robustlab.compress.allocation import (
    DEFAULT_CHOICES,
    Bits,
    Budget,
    Ledger,
    Problem,
    Variants,
    make_variants,
    parse_budget,
    sensitivities,
)
from robustlab.compress.allocation.variants import check_choices
from robustlab.core import Progress
from robustlab.core.digest import update_digest
from robustlab.core.errors import check_choice
from robustlab.deploy import deploy, fingerprint
from robustlab.evaluate.allocation.costs import byte_costs, latency_costs, network_nanoseconds
from robustlab.evaluate.allocation.scores import KLScore, make_score, score_conditions

COSTS = {"bytes": "bytes", "latency": "ns"}
"""What can be counted, and its unit."""


@dataclass(frozen=True)
class Allocated:
    """Bits of every layer with the least predicted score within a budget, and what came of them.

    layers: in running order. budget, cost: in the unit of `problem`. predicted: sum of the sensitivities; joint: the
    score of the network with all these layers at once. How far they are apart is how far sensitivities fail to add up.
    uniform: (bits, cost, predicted, joint) of the uniform allocation with the least predicted score within the budget,
    None if none fits. retimed: measured nanoseconds of the chosen network, optimized; None where bytes are the cost.
    """

    layers: dict[str, Bits]
    budget: int
    cost: int
    predicted: float
    joint: float
    uniform: tuple[Bits, int, float, float] | None
    retimed: int | None
    problem: Problem


def allocate(
    model: nn.Module,
    calibration: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    budget: str | Budget,
    cost: str = "bytes",
    score: str | Sequence[str] = "clean",
    choices: Sequence[Bits] = DEFAULT_CHOICES,
    spec: Spec | None = None,
    ledger: Path | None = None,
    progress: Progress | None = None,
) -> Allocated:
    """Choose bits for every layer of a float model (bit allocation of OHQ 2023, by an exact dynamic programme).

    calibration: batches that set activation ranges. images, labels: what the sensitivities are measured on; neither
    should be what the result is judged on. budget: as `robustlab.compress.allocation.parse_budget` takes it. cost:
    ``bytes`` of the file, or ``latency`` of this machine at batch 1. score: see `make_score`. spec: all else that
    `compress` is to be told, see `robustlab.compress.allocation.make_variants`; its seed is that of corruptions and
    attacks too. ledger: a JSON file that keeps the sensitivities: a run that was killed goes on, and another budget or
    cost measures none again.
    The same arguments give the same bits, but for ``latency``, which is measured anew.
    Raises `ArgumentError` before anything is measured where it can: bad names, bits, a budget that cannot be read; and
    for an infeasible budget one that names the smallest feasible one.
    """
    check_choice("cost", cost, COSTS)
    spec = spec or Spec()
    wanted = parse_budget(budget) if isinstance(budget, str) else budget
    wanted.check_unit(COSTS[cost])
    check_choices(choices)
    wanted.check_widths([weights for weights, _ in choices])
    conditions = score_conditions(score)
    variants = make_variants(model, calibration, choices, spec, finish=deploy, progress=progress)
    costs = byte_costs(variants) if cost == "bytes" else latency_costs(variants, images, progress=progress)
    nothing = {name: dict.fromkeys(layer, 0.0) for name, layer in costs.layers.items()}
    limit = wanted.within(Problem(costs.layers, nothing, costs.fixed, costs.unit))
    judged = make_score(conditions, variants.base, images, labels, seed=spec.seed, progress=progress)
    identity = _identity(variants, judged)
    losses = sensitivities(variants, judged, ledger=Ledger(ledger, identity), progress=progress)
    problem = Problem(costs.layers, losses, costs.fixed, costs.unit)
    return _solved(variants, problem, limit, judged, images, progress)


def _solved(
    variants: Variants,
    problem: Problem,
    limit: int,
    score: KLScore,
    images: Tensor,
    progress: Progress | None,
) -> Allocated:
    chosen = problem.solve(limit)
    network = variants.mixed(chosen)
    beside = problem.uniform_within(limit)
    uniform = None
    if beside is not None:
        bits, same = beside
        uniform = (bits, problem.cost(same), problem.loss(same), score(variants.mixed(same)))
    retimed = None
    if problem.unit == "ns":
        retimed = network_nanoseconds({"chosen": network}, images, progress=progress)["chosen"]
    return Allocated(
        layers=chosen,
        budget=limit,
        cost=problem.cost(chosen),
        predicted=problem.loss(chosen),
        joint=score(network),
        uniform=uniform,
        retimed=retimed,
        problem=problem,
    )


def _identity(variants: Variants, score: KLScore) -> str:
    """What sensitivities depend on: the layers they are measured with, the network around them, and the images."""
    digest = hashlib.sha256(fingerprint(variants.base).encode())
    update_digest(digest, "images", score.images)
    update_digest(digest, "reference", score.reference)
    for network in variants.networks.values():
        digest.update(fingerprint(network).encode())
    return digest.hexdigest()
