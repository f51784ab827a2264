"""Compression: quantizers, binarizers, calibration and straight-through training.

A compressed model is the float architecture with its layers swapped; it is still trainable. `freeze` turns it into
the exact integer simulation that `robustlab.deploy.deploy` packs.
"""

from robustlab.compress.compress import compress
from robustlab.compress.freeze import freeze
from robustlab.compress.training import TrainConfig, fit, qat

__all__ = ["TrainConfig", "compress", "fit", "freeze", "qat"]
