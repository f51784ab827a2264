"""Audits: whether a robust accuracy is believed, and how low it really is."""

from robustlab.evaluate.audit.api import audit
from robustlab.evaluate.audit.campaign import Attempt
from robustlab.evaluate.audit.examine import Settings
from robustlab.evaluate.audit.grade import GRADES, below
from robustlab.evaluate.audit.probes import Check
from robustlab.evaluate.audit.result import Audit, Curve, Share

__all__ = ["GRADES", "Attempt", "Audit", "Check", "Curve", "Settings", "Share", "audit", "below"]
