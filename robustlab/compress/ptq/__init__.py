"""Post-training quantization: methods that need images but no labels and no training.

Each takes a calibrated compressed model and its float original, and leaves integer weight codes on a fixed grid, biases
and activation grids, all of which `freeze`, `deploy` and `save` treat like any other.
"""

from robustlab.compress.ptq.adaround import AdaRound
from robustlab.compress.ptq.bias_correction import BiasCorrection
from robustlab.compress.ptq.brecq import BRECQ
from robustlab.compress.ptq.equalization import CrossLayerEqualization
from robustlab.compress.ptq.gptq import GPTQ
from robustlab.compress.ptq.method import Method, Work
from robustlab.compress.ptq.qdrop import QDrop
from robustlab.compress.ptq.statistics_correction import correct_statistics

METHODS: dict[str, Method] = {
    "bias_correction": BiasCorrection(),
    "cle": CrossLayerEqualization(),
    "gptq": GPTQ(),
    "adaround": AdaRound(),
    "brecq": BRECQ(),
    "qdrop": QDrop(),
}
"""By name, with the default hyper-parameters."""

__all__ = [
    "BRECQ",
    "GPTQ",
    "METHODS",
    "AdaRound",
    "BiasCorrection",
    "CrossLayerEqualization",
    "Method",
    "QDrop",
    "Work",
    "correct_statistics",
]
