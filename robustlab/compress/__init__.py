"""Compression: quantizers, binarizers, calibration and straight-through training.

A compressed model is the float architecture with its layers swapped; it is still trainable. `freeze` turns it into
the exact integer simulation that `robustlab.deploy.deploy` packs. `TRAINED` lists the algorithms that training learns,
`deployability` says what the kernels make of each layer, and `check_model` holds a model to the contract. A
`Spec` holds all that `compress` is told, for `compress_with` and TOML files.
"""

from robustlab.compress.algorithms import TRAINED
from robustlab.compress.checking import LayerReport, check_model
from robustlab.compress.compress import compress, compress_with
from robustlab.compress.contract import DEPLOYABILITY, Algorithm
from robustlab.compress.deployable import LayerDeployability, deployability
from robustlab.compress.freeze import freeze
from robustlab.compress.spec import MadeFor, Spec, describe_layers, made_for, read_spec, write_spec
from robustlab.compress.training import TrainConfig, fit, qat
from robustlab.compress.weight_grid import WeightScheme

__all__ = [
    "DEPLOYABILITY",
    "TRAINED",
    "Algorithm",
    "LayerDeployability",
    "LayerReport",
    "MadeFor",
    "Spec",
    "TrainConfig",
    "WeightScheme",
    "check_model",
    "compress",
    "compress_with",
    "deployability",
    "describe_layers",
    "fit",
    "freeze",
    "made_for",
    "qat",
    "read_spec",
    "write_spec",
]
