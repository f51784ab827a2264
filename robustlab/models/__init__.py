"""Architectures and the zoo: a specification in, an `nn.Module` from images in [0, 1] to logits out."""

from robustlab.models.info import ModelInfo, info_of, set_info
from robustlab.models.registry import build, check_architecture
from robustlab.models.zoo import BUNDLED, MODELS, open_zoo

__all__ = ["BUNDLED", "MODELS", "ModelInfo", "build", "check_architecture", "info_of", "open_zoo", "set_info"]
