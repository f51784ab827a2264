"""Faults in the memory of a deployed model: bits that flip at random, and bits that somebody chose."""

from robustlab.attacks.faults._memory import PARTS, Flip, Memory, flipped
from robustlab.attacks.faults.bit_search import BitSearch
from robustlab.attacks.faults.curve import FaultCurve, FaultPoint
from robustlab.attacks.faults.random_flips import RandomFlips

__all__ = ["PARTS", "BitSearch", "FaultCurve", "FaultPoint", "Flip", "Memory", "RandomFlips", "flipped"]
