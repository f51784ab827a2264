"""Bi-Real Net's quantizers: a triangular gradient for the activations (Liu et al. 2018, "Bi-Real Net")."""

from __future__ import annotations

from robustlab.compress.contract import Algorithm
from robustlab.compress.quantizers import ActivationBinarizer, WeightBinarizer

ALGORITHM = Algorithm(
    name="bireal",
    summary="signs, a scale mean |w| per output channel, a triangular gradient for activations",
    source="Liu et al. 2018, Bi-Real Net",
    backward="2 - 2|x| on |x| < 1 for activations, 1 where |w| <= 1 for weights",
    weight=lambda _site: WeightBinarizer(),
    input=lambda _site: ActivationBinarizer(),
    binary=True,
)
