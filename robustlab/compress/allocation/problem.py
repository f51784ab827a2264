"""An allocation problem: the choices of every layer, what each costs, and what each does to the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robustlab.compress.allocation.solver import solve
from robustlab.core.errors import ArgumentError, invalid

Bits = tuple[int, int]
"""(weight bits, activation bits)."""

Allocation = dict[str, Bits]
"""The bits of every layer, in the order the layers run."""


def bits_text(bits: Bits) -> str:
    """Such as ``w4a8``."""
    return f"w{bits[0]}a{bits[1]}"


@dataclass(frozen=True)
class Problem:
    """Layers in running order, each with the cost and the loss of every choice it has.

    costs: whole numbers in `unit`, ``bytes`` or ``ns``; fixed: what the network costs besides them. losses: the
    sensitivity of the layer to the choice; they are taken to add up. A layer with one choice costs but is not decided.
    """

    costs: Mapping[str, Mapping[Bits, int]]
    losses: Mapping[str, Mapping[Bits, float]]
    fixed: int = 0
    unit: str = "bytes"

    def __post_init__(self) -> None:
        if {n: set(v) for n, v in self.costs.items()} != {n: set(v) for n, v in self.losses.items()}:
            raise invalid("losses", sorted(self.losses), "those of the layers and choices that costs has")
        if not self.costs:
            raise invalid("costs", {}, "at least one layer")

    @property
    def free(self) -> tuple[str, ...]:
        """Layers that have more than one choice."""
        return tuple(name for name, choices in self.costs.items() if len(choices) > 1)

    @property
    def cheapest(self) -> int:
        """The least that any allocation costs: the smallest feasible budget."""
        return self.fixed + sum(min(layer.values()) for layer in self.costs.values())

    def cost(self, allocation: Mapping[str, Bits]) -> int:
        """Of the whole network, in `unit`."""
        return self.fixed + sum(layer[allocation[name]] for name, layer in self.costs.items())

    def loss(self, allocation: Mapping[str, Bits]) -> float:
        """Sum of the sensitivities, added in running order."""
        return float(sum(self.losses[name][allocation[name]] for name in self.costs))

    def solve(self, budget: int) -> Allocation:
        """The allocation with the least loss that costs at most `budget`; see `robustlab.compress.allocation.solve`.

        Raises `ArgumentError` that names the smallest feasible budget.
        """
        self.check_budget(budget)
        costs = [list(layer.values()) for layer in self.costs.values()]
        losses = [[self.losses[name][bits] for bits in layer] for name, layer in self.costs.items()]
        picks = solve(costs, losses, budget - self.fixed)
        return {name: list(layer)[pick] for (name, layer), pick in zip(self.costs.items(), picks, strict=True)}

    def check_budget(self, budget: int) -> int:
        """Return `budget` if some allocation costs no more; otherwise raise `ArgumentError`."""
        if budget < self.cheapest:
            raise ArgumentError(
                f"budget is {budget} {self.unit}; allowed: at least {self.cheapest} {self.unit}, what the fewest bits "
                "of every layer cost"
            )
        return budget

    def uniforms(self) -> dict[Bits, Allocation]:
        """The allocations that give the same bits to all free layers, by these bits, in order of weight bits."""
        free = self.free
        shared = [bits for bits in next(iter(self.costs.values())) if not free]
        if free:
            shared = [bits for bits in self.costs[free[0]] if all(bits in self.costs[name] for name in free)]
        return {
            bits: {name: bits if name in free else next(iter(layer)) for name, layer in self.costs.items()}
            for bits in sorted(shared)
        }

    def uniform_within(self, budget: int) -> tuple[Bits, Allocation] | None:
        """The uniform allocation with the least loss that costs at most `budget`; None if none does."""
        fitting = [(bits, found) for bits, found in self.uniforms().items() if self.cost(found) <= budget]
        return min(fitting, key=lambda pair: self.loss(pair[1]), default=None)

    def random(self, budget: int, seed: int) -> Allocation:
        """A random allocation that costs at most `budget`, and more than it with any one layer at its next dearer bits.

        Layers draw a choice each; while that is too dear a random layer goes down to its next cheaper choice, then
        random layers go up while the budget allows it. The same seed gives the same allocation.
        """
        self.check_budget(budget)
        generator = np.random.default_rng(seed)
        ladders = {name: sorted(layer, key=lambda bits: layer[bits]) for name, layer in self.costs.items()}
        names = list(ladders)
        place = {name: int(generator.integers(len(ladder))) for name, ladder in ladders.items()}

        def cost() -> int:
            return self.cost({name: ladders[name][place[name]] for name in names})

        while cost() > budget:
            able = [name for name in names if place[name] > 0]
            place[able[int(generator.integers(len(able)))]] -= 1
        able = [name for name in names if place[name] + 1 < len(ladders[name])]
        while able:
            name = able[int(generator.integers(len(able)))]
            place[name] += 1
            if cost() > budget:
                place[name] -= 1
                able.remove(name)
            elif place[name] + 1 == len(ladders[name]):
                able.remove(name)
        return {name: ladders[name][place[name]] for name in names}
