"""Attacks made of attacks."""

from robustlab.attacks.ensemble.autoattack import AutoAttack
from robustlab.attacks.ensemble.cascade import Cascade, CascadeResult, PartResult

__all__ = ["AutoAttack", "Cascade", "CascadeResult", "PartResult"]
