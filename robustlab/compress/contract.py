"""The contract of a trained algorithm: what one short file has to say.

It says how a weight becomes integer codes times a scale per output channel (and a zero point), how the input becomes
codes or signs (with its shift and its factors), by which rule gradients pass, what changes while it is trained, and
what it claims. `robustlab.compress.checking` holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from robustlab.compress.coders import InputCoder, OutputMap, WeightCoder
from robustlab.core.errors import invalid
from robustlab.kernels import ConvGeometry

DEPLOYABILITY = {
    "P": "pure: integer accumulation, then scale and bias per output channel; shifts fold into thresholds",
    "S": "per sample: one factor for each image or row on top",
    "M": "output map: one factor for each output position on top",
    "2P": "two planes: two integer accumulations with factors of their own",
    "G": "groups: an integer accumulation for every group of input channels, with scales and zero points of its own",
    "X": "not deployable exactly: refused, or replaced when asked",
}


@dataclass(frozen=True)
class Site:
    """The layer an algorithm is applied to. weight: float32 (O, C / groups, kh, kw) or (O, K).

    inputs: channels C, or features K; geometry: None for a linear layer; rule: an observer of `OBSERVERS`.
    """

    weight: Tensor
    weight_bits: int
    activation_bits: int
    inputs: int
    geometry: ConvGeometry | None
    rule: str


@dataclass(frozen=True)
class Algorithm:
    """One algorithm. Batch norms behind its layers stay and are trained; `freeze` stores them as affines.

    deployability: what a convolution of it is, one of `DEPLOYABILITY`, once it is trained to its end.
    binary, multibit: whether it is for one-bit weights and activations, for 2 to 8 bits, or both.
    ends: whether the first and the last layer, of `first_last_bits`, get it too; else they get plain uniform ones.
    backward: how gradients pass, in words.
    """

    name: str
    summary: str
    source: str
    backward: str
    weight: Callable[[Site], WeightCoder]
    input: Callable[[Site], InputCoder]
    output: Callable[[Site], OutputMap | None] = lambda _site: None
    deployability: str = "P"
    binary: bool = False
    multibit: bool = False
    ends: bool = False

    @property
    def bits(self) -> str:
        """The allowed bits, in words."""
        ranges = ["1 for both"] * self.binary + ["a whole number from 2 to 8"] * self.multibit
        return " or ".join(ranges)

    def allows(self, weights: int, activations: int) -> bool:
        """Whether a layer of these bits can have it."""
        if weights == 1 or activations == 1:
            return self.binary and weights == activations == 1
        return self.multibit

    def check_bits(self, argument: str, weights: object, activations: object) -> None:
        """Raise `ArgumentError` unless the bits are whole numbers that `allows` takes."""
        pair = (weights, activations)
        whole = all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 8 for v in pair)
        if not whole or not self.allows(*pair):  # type: ignore[arg-type]
            raise invalid(argument, pair, f"{self.bits} with algorithm {self.name}")
