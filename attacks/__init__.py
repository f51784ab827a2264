"""Attacks: images in, images in the threat model out; and bits of the model itself.

>>> from robustlab.attacks._attack import Attack, AttackResult
from robustlab.attacks.adapters import TorchAttack
from robustlab.attacks.black_box import HopSkipJump, NES, SPSA, Square
from robustlab.attacks.faults import BitSearch, FaultCurve, FaultPoint, Flip, PARTS as FAULT_PARTS, RandomFlips, flipped
from robustlab.attacks.gradient import BIM, DIFGSM, FGSM, MIFGSM, PGD, TIFGSM
from robustlab.attacks.minimum_norm import CW, DDN, DeepFool, FABT, FMN, MinimumNorm
from robustlab.attacks.registry import ATTACKS, parse_attack
from robustlab.attacks.transfer import Divergence, Transfer, TransferCell, transfer_matrix

__all__ = ["ATTACKS", "Attack", "AttackResult", "BIM", "BitSearch", "CW", "DDN", "DIFGSM", "DeepFool", "Divergence", "FABT", "FAULT_PARTS", "FGSM", "FMN", "FaultCurve", "FaultPoint", "Flip", "HopSkipJump", "MIFGSM", "MinimumNorm", "NES", "PGD", "RandomFlips", "SPSA", "Square", "TIFGSM", "TorchAttack", "Transfer", "TransferCell", "flipped", "parse_attack", "transfer_matrix"]
