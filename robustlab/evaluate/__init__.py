"""Evaluation: models x conditions x data -> a store of per-sample outcomes -> accuracy, speed and size."""

from robustlab.evaluate.api import evaluate
from robustlab.evaluate.conditions import AttackCondition, Clean, Condition, CorruptionCondition, parse_condition
from robustlab.evaluate.listener import Listener, SilentListener
from robustlab.evaluate.results import Example, Results
from robustlab.evaluate.shown import Shown
from robustlab.evaluate.store import Store
from robustlab.evaluate.suites import SUITES, Suite, load_suite
from robustlab.evaluate.systematic import PipelineCondition, PlatformCondition

__all__ = [
    "SUITES",
    "AttackCondition",
    "Clean",
    "Condition",
    "CorruptionCondition",
    "Example",
    "Listener",
    "PipelineCondition",
    "PlatformCondition",
    "Results",
    "Shown",
    "SilentListener",
    "Store",
    "Suite",
    "evaluate",
    "load_suite",
    "parse_condition",
]
