"""What an audit found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robustlab.core.errors import invalid
from robustlab.evaluate.audit.campaign import Attempt, as_json
from robustlab.evaluate.audit.probes import Check
from robustlab.evaluate.metrics import wilson

SCHEMA = 1
FILE_NAME = "audit.json"


@dataclass(frozen=True)
class Share:
    """A share of images with its 95 % Wilson interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, n: int) -> Share:
        """`count` of `n` images."""
        return cls(count / n, *wilson(count, n))


@dataclass(frozen=True)
class Curve:
    """Robust accuracy against the radius, on the images of the probes, and how far the margin had come.

    Attributes:
        eps: radii, rising.
        accuracy: name of an attack -> robust accuracy among images that are right without attack, one per radius.
        margin: mean over images of min(margin, 0) after the attack with the gradient as given, one per radius.
        images: how many.
    """

    eps: tuple[float, ...]
    accuracy: Mapping[str, tuple[float, ...]]
    margin: tuple[float, ...]
    images: int


@dataclass(frozen=True)
class Audit:
    """The verdict on a model's robust accuracy.

    Attributes:
        model, data, ball, images: what was audited, and on how many images.
        grade: A to F; reasons: why, the weightiest first.
        clean: accuracy without attack.
        naive: robust accuracy under plain PGD with the gradient as given; None where the model has none.
        white_box: the same with everything that was run with the gradient as given; None likewise.
        robust: the lowest robust accuracy: an image counts only if nothing that was run broke it.
        achieved: name of an attempt -> how many images it was the first to break.
        checks, attempts: everything that was measured and run.
        curve: accuracy against radius.
        stable: whether the last round of attacks broke nearly nothing more.
        limits: what this audit cannot say.
        run: versions, seed, settings, seconds.
    """

    model: str
    data: str
    ball: str
    images: int
    grade: str
    reasons: tuple[str, ...]
    clean: Share
    naive: Share | None
    white_box: Share | None
    robust: Share
    achieved: Mapping[str, int]
    checks: tuple[Check, ...]
    attempts: tuple[Attempt, ...]
    curve: Curve
    stable: bool
    limits: tuple[str, ...]
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def achieved_by(self) -> str:
        """The attempt that was first to break most images; empty if nothing was broken."""
        return max(self.achieved, key=lambda name: self.achieved[name], default="")

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values. Later versions add names, and never change these."""
        content = asdict(self)
        content["attempts"] = [as_json(attempt) for attempt in self.attempts]
        return {"schema": SCHEMA, **json.loads(json.dumps(content), parse_constant=lambda _: None)}

    def write(self, folder: Path) -> Path:
        """Write ``audit.json`` into an existing folder, atomically."""
        path = folder / FILE_NAME
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise invalid("out", str(folder), f"a folder that can be written ({error.strerror})") from error
        return path

    def lines(self) -> list[str]:
        """The report for a terminal, at most 30 lines."""
        return report_lines(self)


def percent(share: Share | float) -> str:
    """Such as ``48.4 % (41.5 to 55.3)``."""
    if isinstance(share, float):
        return f"{100 * share:.1f} %"
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


_MARK = {"pass": "ok", "warn": "warn", "fail": "FAIL", "skip": "-"}


def report_lines(audit: Audit) -> list[str]:
    """See `Audit.lines`."""
    naive = "none: the model has no gradient" if audit.naive is None else percent(audit.naive)
    lines = [
        f"audit      {audit.model} on {audit.images} images of {audit.data}, {audit.ball}",
        f"grade      {audit.grade}: {audit.reasons[0]}",
        f"clean      {percent(audit.clean)}",
        f"first      {naive}  plain PGD, the gradient as given",
        f"white-box  {'none' if audit.white_box is None else percent(audit.white_box)}  more steps, losses and starts",
        f"lowest     {percent(audit.robust)}  everything together, judged on the model itself",
    ]
    best = sorted(audit.achieved.items(), key=lambda item: -item[1])
    texts = {attempt.name: attempt.text for attempt in audit.attempts}
    lines += [f"  broke    {count} images first: {name} ({texts[name]})"[:160] for name, count in best[:4]]
    if len(best) > 4:
        lines.append(f"  broke    {sum(count for _, count in best[4:])} images first: {len(best) - 4} others")
    width = max(len(check.name) for check in audit.checks)
    lines += [f"{_MARK[c.status]:<5}{c.name:<{width}}  {c.text}"[:160] for c in audit.checks if c.status != "skip"]
    lines += [f"limit      {limit}"[:160] for limit in audit.limits[:3]]
    return lines
