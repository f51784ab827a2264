"""Compression: quantizers, binarizers, calibration and straight-through training.

A compressed model is the float architecture with its layers swapped; it is still trainable. `freeze` turns it into
the exact integer simulation that `robustlab.deploy.deploy` packs. `TRAINED` lists the algorithms that training learns,
`deployability` says what the kernels make of each layer, and `check_model` holds a model to the contract.
"""

from robustlab.compress.algorithms import TRAINED
from robustlab.compress.checking import LayerReport, check_model
from robustlab.compress.compress import compress
from robustlab.compress.contract import DEPLOYABILITY, Algorithm
from robustlab.compress.deployable import LayerDeployability, deployability
from robustlab.compress.freeze import freeze
from robustlab.compress.norms import reestimate_batch_norms
from robustlab.compress.training import TrainConfig, fit, qat

__all__ = [
    "DEPLOYABILITY",
    "TRAINED",
    "Algorithm",
    "LayerDeployability",
    "LayerReport",
    "TrainConfig",
    "check_model",
    "compress",
    "deployability",
    "fit",
    "freeze",
    "qat",
    "reestimate_batch_norms",
]
