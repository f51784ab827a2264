"""Attacks inside a ball that follow the gradient of a loss."""

from robustlab.attacks.gradient.fgsm import FGSM
from robustlab.attacks.gradient.iterative import BIM, DIFGSM, MIFGSM, TIFGSM
from robustlab.attacks.gradient.pgd import PGD

__all__ = ["BIM", "DIFGSM", "FGSM", "MIFGSM", "PGD", "TIFGSM"]
