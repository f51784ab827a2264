"""Attacks inside a ball that follow the gradient of a loss."""

from robustlab.attacks.gradient.apgd import APGDCE, APGDDLR, APGDT
from robustlab.attacks.gradient.fgsm import FGSM
from robustlab.attacks.gradient.iterative import BIM, DIFGSM, MIFGSM, TIFGSM
from robustlab.attacks.gradient.pgd import PGD

__all__ = ["APGDCE", "APGDDLR", "APGDT", "BIM", "DIFGSM", "FGSM", "MIFGSM", "PGD", "TIFGSM"]
