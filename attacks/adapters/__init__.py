"""Attacks of other libraries, run on any model of ours and held to their threat model."""

from robustlab.attacks.adapters.torchattacks import TorchAttack

__all__ = ["TorchAttack"]
