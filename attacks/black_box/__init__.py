"""Attacks that see only what a model answers: its scores, or nothing but its labels."""

from robustlab.attacks.black_box.hopskipjump import HopSkipJump
from robustlab.attacks.black_box.nes import NES
from robustlab.attacks.black_box.spsa import SPSA
from robustlab.attacks.black_box.square import Square

__all__ = ["NES", "SPSA", "HopSkipJump", "Square"]
