"""Attacks that involve two models: made on one and shown to another, or made so that two models disagree."""

from robustlab.attacks.transfer.divergence import Divergence
from robustlab.attacks.transfer.matrix import TransferCell, transfer_matrix
from robustlab.attacks.transfer.transfer import Transfer

__all__ = ["Divergence", "Transfer", "TransferCell", "transfer_matrix"]
