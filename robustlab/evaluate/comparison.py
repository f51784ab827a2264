"""A model's answers under a condition compared with its answers under a reference: flips and divergence, by sample."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustlab.core import StoreError
from robustlab.evaluate.outcomes import Array

KEPT_BYTES = 2**28  # of reference logits; what does not fit is computed again


@dataclass(frozen=True, eq=False)
class Comparison:
    """flipped: bool (n,), whether the prediction is another one. divergence: float32 (n,), KL(reference || condition).

    The divergence is that of the softmax of the logits, in nats; NaN where logits are not finite, which is a flip too
    unless they are not finite under the reference either.
    """

    flipped: Array
    divergence: Array

    def payload(self) -> dict[str, Any]:
        """As JSON can hold it."""
        values = [None if math.isnan(v) else v for v in self.divergence.astype(float).tolist()]
        return {"flipped": self.flipped.astype(int).tolist(), "divergence": values}


def compare(reference: Tensor, logits: Tensor) -> Comparison:
    """Compare logits (n, K) with those of the reference, sample by sample."""
    before, after = reference.double(), logits.double()
    good_before, good_after = (torch.isfinite(x).all(dim=1) for x in (before, after))
    both = good_before & good_after
    safe_before, safe_after = (x.masked_fill(~both[:, None], 0.0) for x in (before, after))
    log_p, log_q = safe_before.log_softmax(dim=1), safe_after.log_softmax(dim=1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1).clamp(min=0)
    moved = safe_before.numpy().argmax(axis=1) != safe_after.numpy().argmax(axis=1)
    flipped = np.where(both.numpy(), moved, good_before.numpy() != good_after.numpy())
    return Comparison(flipped, np.where(both.numpy(), divergence.numpy(), np.nan).astype(np.float32))


def join_comparisons(parts: Sequence[Comparison]) -> Comparison:
    """Of consecutive samples as one."""
    return Comparison(
        np.concatenate([part.flipped for part in parts]), np.concatenate([part.divergence for part in parts])
    )


def read_comparison(payload: Mapping[str, Any], count: int) -> Comparison:
    """What `Comparison.payload` wrote of `count` samples; raises `StoreError` for anything else."""
    try:
        flipped = np.asarray(payload["flipped"], dtype=bool)
        divergence = np.asarray([np.nan if v is None else float(v) for v in payload["divergence"]], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError("a comparison in the result store is malformed; delete the file to start over") from error
    if flipped.shape != (count,) or divergence.shape != (count,):
        raise StoreError(f"a comparison in the result store is not of {count} samples; delete the file to start over")
    return Comparison(flipped, divergence)


class LogitCache:
    """Logits float32 (n, K) by model and first sample; the oldest go when there are more than `KEPT_BYTES`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, range], Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, model: str, ids: range) -> Tensor | None:
        """What was put for these samples, if it is still there."""
        return self._kept.get((model, ids))

    def put(self, model: str, ids: range, logits: Tensor) -> None:
        """Keep logits of these samples."""
        if (model, ids) in self._kept:
            return
        self._kept[model, ids] = logits.float()
        self._bytes += logits.numel() * 4
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= gone.numel() * 4
