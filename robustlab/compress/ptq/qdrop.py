"""QDrop: block reconstruction while activations are quantized only some of the time (Wei et al., ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from robustlab.compress.ptq.blocks import find_blocks
from robustlab.compress.ptq.method import Work
from robustlab.compress.ptq.reconstruction import Reconstruction, reconstruct
from robustlab.core.errors import check_number


@dataclass(frozen=True)
class QDrop(Reconstruction):
    """`BRECQ` with every activation element left float with probability `drop` in each step of the optimisation.

    The input of a block is mixed in the same proportion from what the quantized and what the float layers before it
    produce. Everything is quantized in the result. Published: drop 0.5.
    """

    drop: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("drop", self.drop, 0.0, 1.0, open_low=True)

    def apply(self, work: Work) -> None:
        """Reconstruct the blocks one after another, in the order they run."""
        blocks = find_blocks(work.reference, work.names, work.batches[0][:2])
        reconstruct(work, self, "qdrop", blocks, self.drop)
