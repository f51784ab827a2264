"""Faults as conditions: ``faults-random-16``, ``faults-bfa-8``, ``faults-random-4-zero-points+scales``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from robustlab.attacks import FAULT_PARTS, BitSearch, Flip, RandomFlips, flipped
from robustlab.attacks.faults import Memory
from robustlab.core import ArgumentError
from robustlab.core.errors import invalid
from robustlab.deploy import unoptimized
from robustlab.evaluate.binding import Setting
from robustlab.evaluate.conditions import Clean, Condition
from robustlab.evaluate.shown import Shown

SEARCH_IMAGES = 64
"""A search knows so many images, the first of the data set."""
GRAMMAR = f"faults-random-N or faults-bfa-N, then -PART or -PART+PART of {', '.join(FAULT_PARTS)}"
_KEY = re.compile(r"faults-(random|bfa)-([0-9]{1,9})(?:-([a-z+-]+))?")


@dataclass(frozen=True)
class FaultCondition(Clean):
    """Clean images, shown to the model with bits flipped where its kernels read them.

    Random faults are no adversary: an answer that is not finite is a wrong one. A search never flips a bit after which
    an answer on its images is not finite.
    """

    fault: RandomFlips | BitSearch

    @property
    def key(self) -> str:  # type: ignore[override]
        """Such as ``faults-bfa-8``."""
        return f"faults-{self.fault.slug}"

    @property
    def version(self) -> int:  # type: ignore[override]
        """That of the fault."""
        return self.fault.version

    @property
    def parameters(self) -> str:  # type: ignore[override]
        """The fault in full; its seed is that of the run."""
        return f"{self.fault!r} {SEARCH_IMAGES if self.needs_gradient else 0}"

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Of a search."""
        return isinstance(self.fault, BitSearch)

    @property
    def adversarial(self) -> bool:  # type: ignore[override]
        """A search is somebody's."""
        return self.needs_gradient

    depends_on_model = True
    needs_bits = True

    def show(self, images: Tensor, labels: Tensor, keys: Tensor, model: nn.Module | None) -> Shown:
        """See `Condition.show`."""
        return Shown(images, torch.full((len(images),), self.adversarial))

    def bind(self, setting: Setting) -> Condition:
        """The flips of one model, made when they are first needed."""
        try:
            bits = Memory(unoptimized(setting.model), self.fault.parts).bits
            wanted = self.fault.count if isinstance(self.fault, RandomFlips) else 1
            if wanted is not None and wanted > bits:
                raise invalid("count", wanted, f"at most the {bits} bits there are")
        except ArgumentError as error:
            raise ArgumentError(f"condition {self.key} on model {setting.name}: {error}") from error
        return _Bound(self.fault, setting)


@dataclass(frozen=True)
class _Bound(FaultCondition):
    """The faults of one model."""

    setting: Setting
    _flips: list[tuple[Flip, ...]] = field(default_factory=list)

    def flips(self) -> tuple[Flip, ...]:
        """Searched or drawn once."""
        if not self._flips:
            if isinstance(self.fault, BitSearch):
                found = self.fault.draw(self.setting.model, *self.setting.first(SEARCH_IMAGES))
            else:
                found = replace(self.fault, seed=self.setting.seed).draw(self.setting.model)
            self._flips.append(found)
        return self._flips[0]

    @contextmanager
    def altered(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model without its programs, which hold copies, and with its bits flipped."""
        plain = unoptimized(model)
        with flipped(plain, self.flips()):
            yield plain


def parse_faults(key: str) -> FaultCondition:
    """The condition of a key. Raises `ArgumentError` that states the grammar."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise invalid("condition", key, GRAMMAR)
    parts = tuple(match[3].split("+")) if match[3] else ("weights",)
    try:
        if match[1] == "random":
            return FaultCondition(RandomFlips(int(match[2]), parts=parts))
        return FaultCondition(BitSearch(int(match[2]), parts, until=None))
    except ArgumentError as error:
        raise invalid("condition", key, f"{GRAMMAR} ({error})") from error
