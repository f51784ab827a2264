"""The attacks of an audit, one after the other: each sees what is left, and what it breaks is judged on the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robustlab.attacks import PGD, Attack
from robustlab.core import ArgumentError, Progress
from robustlab.core.keys import sample_keys
from robustlab.core.tiles import tiles
from robustlab.evaluate.audit.ledger import Ledger
from robustlab.evaluate.audit.sources import Source, Tempered
from robustlab.evaluate.audit.target import BATCH, Target, logits_in_batches, seeded

PLAIN, ADAPTIVE, TRANSFER, BLACK_BOX = "white-box", "adaptive", "transfer", "black-box"


@dataclass(frozen=True)
class Attempt:
    """One attack that was run.

    Attributes:
        name: unique within an audit.
        family: ``white-box`` (the gradient as given), ``adaptive`` (another gradient of the same model), ``transfer``
            (the gradient of another model) or ``black-box``.
        text: what it is, for people.
        tried: samples it was given; broken: ids of those it broke.
        first: how many of them nothing had broken before.
        seconds: of this run, or of the run that did it.
        failed: why it could not run; empty if it could.
        silent: ids of samples that it could not attack, because the model gave values that are not finite.
    """

    name: str
    family: str
    text: str
    tried: int
    broken: tuple[int, ...]
    first: int
    seconds: float
    failed: str = ""
    silent: tuple[int, ...] = ()


class Campaign:
    """Runs attacks on a target, keeps what they break, and remembers what was broken by what.

    Attributes:
        target: the model and its images.
        rows: int64 (n,), samples that the model gets right without attack.
        attempts: what was run, in order.
        left: bool over all samples: right, and not broken by anything yet.
    """

    def __init__(self, target: Target, clean: Tensor, ledger: Ledger, progress: Progress) -> None:
        self.target = target
        self.rows = torch.nonzero(clean).flatten()
        self.left = clean.clone()
        self.attempts: list[Attempt] = []
        self._ledger = ledger
        self._progress = progress

    @property
    def survivors(self) -> Tensor:
        """int64 (n,): samples that nothing has broken."""
        return torch.nonzero(self.left).flatten()

    @property
    def accuracy(self) -> float:
        """Robust accuracy over all samples, with everything that was run."""
        return float(self.left.float().mean())

    def run(
        self,
        name: str,
        source: Source,
        attack: Attack,
        rows: Tensor,
        *,
        family: str,
        rank: int | None = None,
        tempered: bool = False,
        counts: bool = True,
    ) -> Attempt:
        """Attack the samples `rows` through a source.

        rank: aim at the class with the rank-th largest logit among the others. tempered: scale the logits down. counts:
        whether it is listed and takes what it breaks from `left`; not so for an attack with another ball than the
        target's, which is judged in its own.
        """
        text = f"{attack.slug}{', logits scaled down' if tempered else ''}, {source.text}"
        target = replace(self.target, ball=attack.ball)

        def work() -> dict[str, Any]:
            begin, failed = time.perf_counter(), ""
            broken = silent = torch.zeros(len(rows), dtype=torch.bool)
            try:
                if len(rows):
                    broken, silent = self._attack(name, source, attack, rows, rank, tempered, target)
            except ArgumentError as error:
                failed = str(error)
            seconds = round(time.perf_counter() - begin, 3)
            found = {"broken": rows[broken].tolist(), "silent": rows[silent].tolist()}
            return {**found, "seconds": seconds, "failed": failed}

        self._progress.start(name, len(rows))
        try:
            found = self._ledger.get(f"attack/{name}", work)
        finally:
            self._progress.finish()
        broken = tuple(found["broken"])
        first = sum(bool(self.left[i]) for i in broken)
        silent = tuple(found["silent"])
        attempt = Attempt(name, family, text, len(rows), broken, first, found["seconds"], found["failed"], silent)
        if counts:
            self.left[list(broken)] = False
            self.attempts.append(attempt)
        return attempt

    def _attack(
        self,
        name: str,
        source: Source,
        attack: Attack,
        rows: Tensor,
        rank: int | None,
        tempered: bool,
        target: Target,
    ) -> tuple[Tensor, Tensor]:
        parts, silent = [], []
        keys = sample_keys(target.seed, f"audit/{name}", rows)
        with source.active() as given, seeded(target.seed, f"attack/{name}"), quiet():
            model = Tempered(given) if tempered else given
            if source.draws > 1 and isinstance(attack, PGD):
                attack = replace(attack, eot=source.draws)
            for start, stop in tiles(len(rows), BATCH):
                some = rows[start:stop]
                images, labels = target.images[some], target.labels[some]
                aims = None
                if rank is not None:
                    aims = runners_up(logits_in_batches(model, images), labels, rank)
                result = attack.run(model, images, labels, targets=aims, keys=keys[start:stop])
                parts.append(target.broken(result.images, some, f"{name}/{start}"))
                silent.append(~result.attacked & ~parts[-1])
                self._progress.advance(stop - start, f"{int(torch.cat(parts).sum())} broken")
        return torch.cat(parts), torch.cat(silent)

    def measured(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A measurement that is kept as attempts are."""
        return dict(self._ledger.get(name, work))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of attacks: an audit says these things itself."""
    logger = logging.getLogger("robustlab.attacks")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def union(attempts: Sequence[Attempt]) -> set[int]:
    """Ids of everything that was broken."""
    return {index for attempt in attempts for index in attempt.broken}


def as_json(attempt: Attempt) -> dict[str, Any]:
    """For the result's file."""
    return {**asdict(attempt), "broken": list(attempt.broken), "silent": list(attempt.silent)}


def runners_up(logits: Tensor, labels: Tensor, rank: int) -> Tensor:
    """The class with the rank-th largest logit among those that are not the label, int64 (N,); rank from 0."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.sort(others, dim=1, descending=True, stable=True).indices[:, rank]
