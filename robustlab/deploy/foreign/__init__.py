"""Models that were made elsewhere, run by what they were made for: the verdict on an attack is always taken there."""

from robustlab.deploy.foreign.base import ForeignModel, foreign_of
from robustlab.deploy.foreign.callables import CallableModel
from robustlab.deploy.foreign.preprocessing import Preprocessing
from robustlab.deploy.foreign.torch_model import TorchModel, from_torch

__all__ = ["CallableModel", "ForeignModel", "Preprocessing", "TorchModel", "foreign_of", "from_torch"]
