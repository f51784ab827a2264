"""Attacks that look for the nearest adversarial image, rather than for any inside a ball."""

from robustlab.attacks.minimum_norm._search import MinimumNorm
from robustlab.attacks.minimum_norm.cw import CW
from robustlab.attacks.minimum_norm.ddn import DDN
from robustlab.attacks.minimum_norm.deepfool import DeepFool
from robustlab.attacks.minimum_norm.fabt import FABT
from robustlab.attacks.minimum_norm.fmn import FMN

__all__ = ["CW", "DDN", "FABT", "FMN", "DeepFool", "MinimumNorm"]
