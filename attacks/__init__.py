"""Attacks: images in, images in the threat model out; and bits of the model itself.

>>> from robustlab.attacks import PGD, parse_attack
>>> from robustlab.core import Linf
>>> parse_attack("pgd20-linf-8of255") == PGD(Linf(8 / 255), steps=20)
True
"""

from robustlab.attacks._attack import Attack, AttackResult
from robustlab.attacks.adapters import TorchAttack
from robustlab.attacks.black_box import NES, SPSA, HopSkipJump, Square
from robustlab.attacks.ensemble import AutoAttack, Cascade, CascadeResult, PartResult
from robustlab.attacks.faults import PARTS as FAULT_PARTS
from robustlab.attacks.faults import BitSearch, FaultCurve, FaultPoint, Flip, RandomFlips, flipped
from robustlab.attacks.gradient import APGDCE, APGDDLR, APGDT, BIM, DIFGSM, FGSM, MIFGSM, PGD, TIFGSM
from robustlab.attacks.minimum_norm import CW, DDN, FABT, FMN, DeepFool, MinimumNorm
from robustlab.attacks.registry import ATTACKS, parse_attack
from robustlab.attacks.transfer import Divergence, Transfer, TransferCell, transfer_matrix

__all__ = [
    "APGDCE",
    "APGDDLR",
    "APGDT",
    "ATTACKS",
    "BIM",
    "CW",
    "DDN",
    "DIFGSM",
    "FABT",
    "FAULT_PARTS",
    "FGSM",
    "FMN",
    "MIFGSM",
    "NES",
    "PGD",
    "SPSA",
    "TIFGSM",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "BitSearch",
    "Cascade",
    "CascadeResult",
    "DeepFool",
    "Divergence",
    "FaultCurve",
    "FaultPoint",
    "Flip",
    "HopSkipJump",
    "MinimumNorm",
    "PartResult",
    "RandomFlips",
    "Square",
    "TorchAttack",
    "Transfer",
    "TransferCell",
    "flipped",
    "parse_attack",
    "transfer_matrix",
]
