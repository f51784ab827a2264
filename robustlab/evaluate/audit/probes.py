"""What is measured of a model before it is believed: each probe gives numbers and passes, warns or fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from robustlab.attacks._goal import Goal, cross_entropy, margin
from robustlab.attacks._victim import logits_and_gradient
from robustlab.core import frozen
from robustlab.core.keys import derive, integers, sample_keys
from robustlab.evaluate.audit.sources import Source
from robustlab.evaluate.audit.target import Target, logits_in_batches, seeded

Status = Literal["pass", "warn", "fail", "skip"]
STEPS = (1 / 255, 2 / 255, 4 / 255)
DIRECTIONS = 24
VANISHED = 1e-20
"""A cross-entropy whose gradient has a smaller mean magnitude is saturated: no honest margin is that large."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: short, stable, with dashes.
        status: ``pass``; ``warn``: unusual, not proof; ``fail``: the gradient or the number cannot be trusted;
            ``skip``: does not apply.
        text: one sentence with the numbers.
        numbers: what was measured.
    """

    name: str
    status: Status
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def graded(value: float, warn: float, fail: float) -> Status:
    """``fail`` from `fail` on, ``warn`` from `warn` on; where fail < warn, small values are the bad ones."""
    if fail < warn:
        return "fail" if value <= fail else "warn" if value <= warn else "pass"
    return "fail" if value >= fail else "warn" if value >= warn else "pass"


def gradient(source: Source, target: Target, rows: Tensor, *, saturating: bool = False) -> Tensor:
    """Gradient (n, C, H, W) of the loss at the images `rows`."""
    loss = cross_entropy if saturating else margin
    with source.active() as model, seeded(target.seed, f"gradient/{source.name}"), frozen(model):
        parts = [
            logits_and_gradient(model, target.images[some], Goal(target.labels[some]), loss)[1]
            for some in rows.split(64)
        ]
    return torch.cat(parts)


def zero_gradients(target: Target, source: Source, rows: Tensor) -> tuple[Check, Check]:
    """Checks ``zero-gradient`` and ``saturation`` of the gradient as given, on the images `rows`."""
    flat = gradient(source, target, rows).flatten(1)
    finite = torch.isfinite(flat).all(1)
    dead = ~(flat != 0).any(1) | ~finite
    images, pixels = float(dead.float().mean()), float((flat == 0).float().mean())
    status: Status = "fail" if images >= 0.05 or pixels >= 0.9 else "warn" if images > 0 or pixels >= 0.5 else "pass"
    text = f"{100 * images:.0f} % of images and {100 * pixels:.0f} % of pixels have no gradient"
    first = Check("zero-gradient", status, text, {"images": images, "pixels": pixels})
    loss_gradient = gradient(source, target, rows, saturating=True).flatten(1).double().abs().mean(1)
    vanished = (loss_gradient < VANISHED) & ~dead
    share = float(vanished.float().mean())
    weak = float(loss_gradient.median())
    text = f"the cross-entropy is saturated on {100 * share:.0f} % of images; median mean-gradient {weak:.1e}"
    return first, Check("saturation", graded(share, 0.02, 0.1), text, {"images": share, "median": weak})


def finite_differences(target: Target, source: Source, rows: Tensor, *, exact: bool) -> tuple[Check, Check]:
    """Checks ``slope`` and ``ascent``: does the model's own output move as the gradient says?

    Slope: the correlation, over random sign directions, of the change of the margin over +-1/255 and what the gradient
    predicts, larger steps tried where that is small (a quantized network moves in steps). Ascent: how often a step
    along the gradient raises the margin more than the same step in the best of `DIRECTIONS` random directions.

    exact: the gradient is the derivative of what the model computes, and no stand-in for steps. Then outputs that do
    not follow it are no matter of steps that are coarse: the function is broken into pieces that the gradient hides.
    """
    images, labels = target.images[rows], Goal(target.labels[rows])
    slopes = gradient(source, target, rows)
    keys = sample_keys(target.seed, "audit-directions", range(len(rows)))
    steps = [h for h in STEPS if h <= max(target.ball.eps, STEPS[0])]
    correlations, wins = [], []
    moves = torch.zeros(len(rows), dtype=torch.bool)
    with seeded(target.seed, "slopes"), frozen(target.model):

        def value(moved: Tensor) -> Tensor:
            return margin(logits_in_batches(target.model, moved.clamp(0, 1)), labels).double()

        here = value(images)
        up_along = torch.stack([value(images + h * slopes.sign()) for h in steps]) - here
        for index, h in enumerate(steps):
            up, down, predicted = [], [], []
            for k in range(DIRECTIONS):
                direction = integers(derive(keys, str(k)), images.shape[1:], 0, 2).to(images) * 2 - 1
                plus, minus = (images + h * direction).clamp(0, 1), (images - h * direction).clamp(0, 1)
                up.append(value(plus))
                down.append(value(minus))
                predicted.append(((plus - minus) * slopes).flatten(1).double().sum(1))
            moved = torch.stack(up) - torch.stack(down)
            moves |= (moved != 0).any(dim=0)
            correlations.append(_cosine(moved, torch.stack(predicted)))
            best = torch.maximum(torch.stack(up).amax(0), torch.stack(down).amax(0)) - here
            wins.append(float((up_along[index] > best).double().mean()))
    still = float((~moves).float().mean())
    if still > STILL:
        text = f"outputs do not change at all on {100 * still:.0f} % of images, steps to {round(255 * steps[-1])}/255"
        return Check("slope", "warn", text, {"still": still}), Check("ascent", "skip", text)
    slope, ascent = max(correlations), max(wins)
    numbers = {f"{round(255 * h)}of255": c for h, c in zip(steps, correlations, strict=True)}
    text = (
        f"outputs change as the gradient predicts with correlation {slope:.2f}, steps to {round(255 * steps[-1])}/255"
    )
    first = Check("slope", graded(slope, *(EXACT_SLOPE if exact else SLOPE)), text, numbers)
    text = f"a step along the gradient beats the best of {2 * DIRECTIONS} random ones on {100 * ascent:.0f} % of images"
    return first, Check("ascent", graded(ascent, *ASCENT), text, {"share": ascent})


SLOPE = (0.3, 0.1)
"""Where a gradient stands in for steps: random directions of a few levels move a 4-bit network mostly by rounding."""
EXACT_SLOPE = (0.5, 0.3)
"""Where it is exact. Trained float networks have 0.85 to 1.0."""
STILL = 0.5
"""Share of images whose outputs no random step changes, above which there is nothing to compare a gradient with."""
ASCENT = (0.9, 0.7)
AGREEMENT = (0.2, 0.05)


def _cosine(a: Tensor, b: Tensor) -> float:
    """Mean over images of the cosine along the first dimension; 0 where either is 0 or not finite."""
    scale = a.norm(dim=0) * b.norm(dim=0)
    each = (a * b).sum(0) / scale.clamp(min=1e-300)
    return float(torch.where(torch.isfinite(each) & (scale > 0), each, torch.zeros_like(each)).mean())


def agreement(target: Target, sources: list[Source], rows: Tensor) -> Check:
    """Check ``surrogates``: the cosine between the given gradient and those that can stand in for it."""
    others = [s for s in sources if s.kind in ("surrogate", "repair") and s.name != "smooth"]
    if not others:
        return Check("surrogates", "skip", "no operation of the model needs another gradient")
    given = gradient(sources[0], target, rows).flatten(1).double().T
    numbers = {s.name: _cosine(given, gradient(s, target, rows).flatten(1).double().T) for s in others}
    least = min(numbers.values())
    text = "cosine of the given gradient with " + ", ".join(f"{k} {v:.2f}" for k, v in numbers.items())
    return Check("surrogates", graded(least, *AGREEMENT), text, numbers)
