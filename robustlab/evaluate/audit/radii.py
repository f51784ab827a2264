"""The same attacks at other radii: one that does not get further there does not work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from robustlab.attacks import PGD, Square
from robustlab.attacks._goal import Goal, margin
from robustlab.core import L2, Ball, Linf
from robustlab.evaluate.audit import probes
from robustlab.evaluate.audit.campaign import BLACK_BOX, PLAIN, Campaign
from robustlab.evaluate.audit.probes import Check, graded
from robustlab.evaluate.audit.result import Curve
from robustlab.evaluate.audit.sources import Source
from robustlab.evaluate.audit.target import Target, logits_in_batches, seeded

RADII = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the threat model's."""


def _ball(ball: Ball, eps: float) -> Ball:
    return Linf(eps) if ball.norm_name == "linf" else L2(eps)


def curve(
    campaign: Campaign, given: Source | None, best: Source, rows: Tensor, steps: int, queries: int
) -> tuple[Curve, list[Check]]:
    """Accuracy against radius with the given and the best gradient, and whether loss and success grow with it."""
    target = campaign.target
    whole = _whole(target)
    radii = [min(target.ball.eps * factor, whole) for factor in RADII]
    named = {} if given is None else {"given": given}
    if best is not given:
        named["best"] = best
    accuracy = {}
    for name, source in named.items():
        attempts = [
            campaign.run(
                f"radius-{name}-{factor:g}", source,
                PGD(_ball(target.ball, eps), steps=steps, loss="margin"), rows, family=PLAIN, counts=False,
            )
            for factor, eps in zip(RADII, radii, strict=True)
        ]  # fmt: skip
        if not any(attempt.failed for attempt in attempts):
            accuracy[name] = tuple(1 - len(attempt.broken) / len(rows) for attempt in attempts)
    searched = _search_radii(campaign, best, rows, radii, queries)
    if searched:
        accuracy["square"] = searched
    margins: tuple[float, ...] = ()
    checks = []
    if given is not None:
        margins = tuple(campaign.measured("growth", lambda: {"margin": _growth(target, given, rows, radii)})["margin"])
        rises = max(b - a for a, b in pairwise(accuracy["given"]))
        falls = max(a - b for a, b in pairwise(margins)) / max(abs(margins[0]), 1e-12)
        bad = rises > 0.1 or falls > 0.2
        fell = accuracy["given"][0] - accuracy["given"][-1]
        text = f"accuracy falls by {100 * fell:.0f} points from {RADII[0]:g} to {RADII[-1]:g} times the radius"
        if bad:
            text += ", but not all the way: it rises in between, or the loss falls"
        still = fell <= 0.02 and accuracy["given"][-1] > 0.1
        checks.append(Check("growth", "fail" if bad or still else "pass", text, {"fall": fell, "rise": rises}))
    return Curve(tuple(radii), accuracy, margins, len(rows)), checks


def _search_radii(
    campaign: Campaign, source: Source, rows: Tensor, radii: Sequence[float], queries: int
) -> tuple[float, ...]:
    if not queries:
        return ()
    target = campaign.target
    plain = Source("given", "given", "no gradient", target.model)
    found = []
    for factor, eps in zip(RADII, radii, strict=True):
        ball = _ball(target.ball, eps)
        attack = Square(ball, steps=max(1, queries // 4))
        name = f"radius-square-{factor:g}"
        attempt = campaign.run(name, plain, attack, rows, family=BLACK_BOX, counts=False)
        if attempt.failed:
            return ()
        found.append(1 - len(attempt.broken) / len(rows))
    return tuple(found)


def _growth(target: Target, given: Source, rows: Tensor, radii: Sequence[float]) -> list[float]:
    """Mean of min(margin, 0) after a step of each radius along the gradient at the image."""
    gradient = probes.gradient(given, target, rows)
    images, goal = target.images[rows], Goal(target.labels[rows])
    values = []
    with seeded(target.seed, "growth"):
        for eps in (0.0, *radii[: RADII.index(1.0) + 1]):
            ball = _ball(target.ball, eps)
            moved = ball.project(images + eps * ball.ascent(gradient), images)
            values.append(float(margin(logits_in_batches(target.model, moved), goal).clamp(max=0).double().mean()))
    return values


def _whole(target: Target) -> float:
    """The radius that holds every image."""
    return 1.0 if target.ball.norm_name == "linf" else math.sqrt(target.images[0].numel())


def unbounded(campaign: Campaign, given: Source | None, best: Source, rows: Tensor, long_steps: int) -> list[Check]:
    """With all images allowed nothing can stay right: an attack that does not see to that does not work."""
    ball = _ball(campaign.target.ball, _whole(campaign.target))
    attack = PGD(ball, steps=max(1, long_steps // 2))

    def left(name: str, source: Source, tempered: bool) -> Check:
        attempt = campaign.run(name, source, attack, rows, family=PLAIN, counts=False, tempered=tempered)
        if attempt.failed:
            return Check(name, "skip", f"could not run: every image allowed, with {source.text}; {attempt.failed}")
        share = 1 - len(attempt.broken) / len(rows)
        scaled = ", logits scaled down" if tempered else ""
        text = f"{100 * share:.0f} % stay right when every image is allowed, with {source.text}{scaled}"
        return Check(name, graded(share, 0.05, 0.15), text, {"accuracy": share})

    checks = [] if given is None else [left("unbounded", given, False)]
    if best is not given or checks[0].status != "pass":
        checks.append(left("unbounded-best", best, True))
    return checks
