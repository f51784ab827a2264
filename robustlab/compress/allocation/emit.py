"""From the bits of every layer to the spec that `compress` takes."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from robustlab.compress.allocation.problem import Bits
from robustlab.compress.spec import Spec, made_for


def allocation_spec(
    model: nn.Module, allocation: Mapping[str, Bits], spec: Spec | None = None, notes: Mapping[str, Any] | None = None
) -> Spec:
    """`spec` with the bits of every layer of `allocation` by its full name, for this model alone.

    Its weights and activations are the pair that most layers have. notes: where it comes from.
    """
    (weights, activations), _ = Counter(allocation.values()).most_common(1)[0]
    layers = {glob.escape(name): bits for name, bits in allocation.items()}
    return replace(
        spec or Spec(),
        weights=weights,
        activations=activations,
        layers=layers,
        made_for=made_for(model),
        notes=notes or {},
    )
