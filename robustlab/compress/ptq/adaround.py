"""AdaRound: rounding learned layer by layer (Nagel et al., ICML 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from robustlab.compress.ptq.method import Work
from robustlab.compress.ptq.reconstruction import Reconstruction, reconstruct


@dataclass(frozen=True)
class AdaRound(Reconstruction):
    """min over V of |W x - W(V) x^|^2 + regularization * sum(1 - |2 h(V) - 1|^beta), layer by layer (eq. 25).

    x is the float input of the layer, x^ its input behind the quantized layers before it, fake-quantized; the
    activation function behind the layer is not part of the objective. Steps of activations are not learned.
    """

    step_rate: float = 0.0

    def apply(self, work: Work) -> None:
        """Learn the rounding of the layers one after another, in the order they run."""
        reconstruct(work, self, "adaround", [(name, (name,)) for name in work.names])
