"""BRECQ: rounding and activation steps learned block by block (Li et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from robustlab.compress.ptq.blocks import find_blocks
from robustlab.compress.ptq.method import Work
from robustlab.compress.ptq.reconstruction import Reconstruction, reconstruct


@dataclass(frozen=True)
class BRECQ(Reconstruction):
    """AdaRound's variables and regularizer on the output of whole blocks, with the steps of activations learned too.

    Blocks are those of `robustlab.compress.ptq.blocks.find_blocks`, such as residual blocks. The squared error of the
    block's output is not weighted by a Fisher estimate.
    """

    def apply(self, work: Work) -> None:
        """Reconstruct the blocks one after another, in the order they run."""
        blocks = find_blocks(work.reference, work.names, work.batches[0][:2])
        reconstruct(work, self, "brecq", blocks)
