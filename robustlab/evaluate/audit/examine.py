"""The course of an audit: measure, attack with the gradient as given, escalate until the number stops falling."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.attacks import APGDCE, NES, PGD, Attack, HopSkipJump, Square
from robustlab.core import Ball
from robustlab.core.errors import check_int
from robustlab.evaluate.audit import probes, radii
from robustlab.evaluate.audit.campaign import ADAPTIVE, BLACK_BOX, PLAIN, TRANSFER, Attempt, Campaign, union
from robustlab.evaluate.audit.grade import verdict
from robustlab.evaluate.audit.probes import Check, graded
from robustlab.evaluate.audit.result import Audit, Share
from robustlab.evaluate.audit.sources import Source, is_exact, make_sources
from robustlab.evaluate.audit.target import JUDGE_DRAWS, Target, seeded

TARGETS = 4
"""How many of the nearest classes a round aims at."""
DEAD = 0.95
"""Share of images without a gradient from which on longer attacks with it are not worth their time."""
PAYING = {
    "more-steps": ((0.04, 3), (0.25, 5)),
    "other-gradients": ((0.01, 2), (0.05, 4)),
    "black-box": ((0.01, 2), (0.03, 3)),
}
"""Share of all images, and number of them, from which on attacks that should not find more warn, and fail."""
PROBE = 2 / 255
STRIDES = (0.25, 1.0)
"""Steps of the longer attacks, of eps; the first is that of Madry et al. 2018 for CIFAR-10. PGD-100 by default takes a
tenth of it: too short where a network jumps, as a quantized one does, since it then tries few points that differ."""
STABLE = 0.01
"""Share of all images up to which a round of attacks counts as having found nothing more."""


@dataclass(frozen=True)
class Settings:
    """Budgets.

    Attributes:
        steps: of the first attack with every gradient.
        long_steps: of the attacks that show whether more steps still pay.
        queries: of the search without a gradient.
        probe_images: images that are measured, and attacked at other radii.
        rounds: at most so many rounds of the strongest attacks.
    """

    steps: int = 20
    long_steps: int = 100
    queries: int = 500
    probe_images: int = 32
    rounds: int = 3

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("long_steps", 1), ("queries", 0), ("probe_images", 1), ("rounds", 0)):
            check_int(name, getattr(self, name), low)

    def as_json(self) -> dict[str, int]:
        """The fields."""
        return asdict(self)


def examine(
    campaign: Campaign, clean: Tensor, reference: nn.Module | None, settings: Settings, facts: dict[str, Any]
) -> Audit:
    """Run the whole audit of a campaign's target, of which the samples `clean` are right without attack."""
    target, n = campaign.target, len(clean)
    ball = target.ball
    with seeded(target.seed, "sources"):
        sources = make_sources(
            target.model, target.images, ball.eps if ball.norm_name == "linf" else 2 / 255,
            random=target.random, reference=reference,
        )  # fmt: skip
    given, others = sources[0], [s for s in sources[1:] if s.name != "around"]
    around = next(s for s in sources if s.name == "around")
    probed = campaign.rows[: settings.probe_images]
    checks = [_random(target)]

    naive = campaign.run("pgd", given, PGD(ball, steps=settings.steps), campaign.rows, family=PLAIN)
    attackable = not naive.failed
    first = campaign.accuracy if attackable else None
    if attackable:
        checks += _measure(campaign, sources, probed)
        dead = next(c for c in checks if c.name == "zero-gradient").numbers["images"] >= DEAD
        longer = [] if dead else _plain(campaign, given, settings)
        text = f"{settings.long_steps} steps, longer ones, restarts and the margin"
        checks.append(_paying("more-steps", text, longer, n))
    else:
        checks.append(Check("zero-gradient", "fail", "the model has no gradient", {"images": 1.0, "pixels": 1.0}))
    survivors = campaign.survivors
    doubtful = any(check.name in ("slope", "ascent") and check.status != "pass" for check in checks)
    compared = survivors[: 2 * settings.probe_images]  # Rounds of the best ones see the others.
    shown = round(n * len(compared) / max(1, len(survivors)))
    adaptive = _adaptive(campaign, others, compared, settings)
    if doubtful or target.random or not attackable:
        others = [*others, around]
        still = compared[campaign.left[compared]]
        adaptive += _adaptive(campaign, [around], still, settings)
        _estimate(campaign, given, still, settings)
    search = _search(campaign, given, compared, settings.queries, "square")
    if search is not None and search.failed:
        search = _decide(campaign, given, compared, settings.queries)

    usable = [given, *others] if attackable else others
    ranked = _ranked(usable, adaptive)
    jumps = not target.random and any(check.name == "slope" and check.status == "warn" for check in checks)
    stable = _escalate(campaign, ranked, given, settings, n, patience=2 if jumps else 1)
    trusted = attackable and all(check.status != "fail" for check in checks)  # Else random starts would be its merit.
    reached = union(_again(campaign, given, settings)) if trusted else set()
    checks.append(_paying("other-gradients", "gradients other than the one given", adaptive, shown, reached))
    if search is not None:
        text = f"search without a gradient, {settings.queries} queries,"
        checks.append(_paying("black-box", text, [search], shown, reached))
    best = ranked[0]
    curve, grown = radii.curve(campaign, given if attackable else None, best, probed, settings.steps, settings.queries)
    checks += grown
    unbounded = radii.unbounded(campaign, given if attackable else None, best, probed, settings.long_steps)
    checks += unbounded
    checks.append(_finite(campaign, n))
    lowest = campaign.accuracy
    start = float(clean.float().mean())
    plain = len(union([a for a in campaign.attempts if a.family == PLAIN]))
    white = start - plain / n
    decided = verdict(
        checks,
        gap=100 * (white - lowest),
        weak=0.0 if first is None else 100 * (first - white),
        attackable=attackable,
        stable=stable,
        noise=100 / n,
        blind=all(check.status in ("fail", "skip") for check in unbounded),
    )
    achieved = {a.name: a.first for a in campaign.attempts if a.first}
    return Audit(
        ball=ball.slug,
        images=n,
        grade=decided.grade,
        reasons=decided.reasons,
        clean=Share.of(int(clean.sum()), n),
        naive=None if first is None else Share.of(round(first * n), n),
        white_box=None if first is None else Share.of(round(white * n), n),
        robust=Share.of(len(campaign.survivors), n),
        achieved=achieved,
        checks=tuple(checks),
        attempts=tuple(campaign.attempts),
        curve=curve,
        stable=stable,
        limits=tuple(_limits(target, reference, search, n)),
        **facts,
    )


def _random(target: Target) -> Check:
    if not target.random:
        return Check("randomness", "pass", "the same images give the same logits")
    text = f"the model is random: an image counts as broken if it is wrong in most of {JUDGE_DRAWS} passes"
    return Check("randomness", "fail", text)


def _finite(campaign: Campaign, n: int) -> Check:
    """Whether the model kept giving finite values under attack; where it did not, nothing has been shown."""
    silent = {index for attempt in campaign.attempts for index in attempt.silent}
    share = len(silent) / n
    text = f"values that are not finite kept {len(silent)} images ({100 * share:.0f} %) from being attacked"
    return Check("finite", graded(share, min(0.5 / n, 0.05), 0.05), text, {"images": float(len(silent))})


def _measure(campaign: Campaign, sources: Sequence[Source], rows: Tensor) -> list[Check]:
    target, given = campaign.target, sources[0]
    exact = not target.random and is_exact(target.model, target.images[:2])

    def work() -> dict[str, Any]:
        found = [
            *probes.zero_gradients(target, given, rows),
            *probes.finite_differences(target, given, rows, exact=exact),
            probes.agreement(target, list(sources), rows),
        ]
        return {"checks": [asdict(check) for check in found]}

    return [Check(**check) for check in campaign.measured("probes", work)["checks"]]


def _plain(campaign: Campaign, given: Source, settings: Settings) -> list[Attempt]:
    ball = campaign.target.ball
    plan: list[tuple[str, Attack]] = [
        ("pgd-margin", _strides(ball, settings.long_steps, STRIDES[0])),
        ("pgd-strides", _strides(ball, settings.long_steps, STRIDES[1])),
        ("pgd-restarts", PGD(ball, steps=settings.long_steps, restarts=2)),
        ("apgd", APGDCE(ball, steps=settings.long_steps)),
    ]
    return [campaign.run(name, given, attack, campaign.survivors, family=PLAIN) for name, attack in plan]


def _strides(ball: Ball, steps: int, stride: float, restarts: int = 1) -> PGD:
    return PGD(ball, steps=steps, step_size=stride * ball.eps, loss="margin", restarts=restarts)


def _again(campaign: Campaign, given: Source, settings: Settings) -> list[Attempt]:
    """The gradient as given on the images that only something else has broken, with a budget like that of the others.

    Where the model jumps, as a quantized one does, whoever tries more points breaks more images. Only those that the
    given gradient misses with as many points are hidden by it. Not for a gradient that a check has failed.
    """
    ball = campaign.target.ball
    plain = union([a for a in campaign.attempts if a.family == PLAIN])
    missed = torch.tensor(sorted(union(campaign.attempts) - plain), dtype=torch.int64)
    steps = settings.long_steps
    plan: list[tuple[str, Attack, int | None]] = [
        ("again-margin", _strides(ball, steps, STRIDES[0], restarts=5), None),
        ("again-strides", _strides(ball, steps, STRIDES[1], restarts=5), None),
        ("again-apgd", APGDCE(ball, steps=steps, restarts=5), None),
    ]
    plan += [
        (f"again-target{rank}", _strides(ball, steps, STRIDES[0], restarts=2), rank)
        for rank in range(min(TARGETS, campaign.target.classes - 1))
    ]
    found = []
    for name, attack, rank in plan:
        if not len(missed):
            break
        found.append(campaign.run(name, given, attack, missed, family=PLAIN, rank=rank))
        missed = missed[[index not in found[-1].broken for index in missed.tolist()]]
    return found


def _paying(name: str, what: str, attempts: Sequence[Attempt], n: int, reached: Collection[int] = frozenset()) -> Check:
    """Whether attacks that should find nothing more broke images, of the n that those they were given stand for.

    reached: images that do not count, because the gradient as given breaks them as well.
    """
    if not attempts:
        return Check(name, "skip", f"nothing to try: {what}")
    if all(attempt.failed for attempt in attempts):
        return Check(name, "skip", f"could not run: {what}; {attempts[0].failed}")
    if not n:
        return Check(name, "skip", f"no image was left to try: {what}")
    broken = len(union(attempts).difference(reached))
    warn, fail = (max(share, (least - 0.5) / n) for share, least in PAYING[name])
    status = graded(broken / n, warn, fail)
    if name == "more-steps" and status == "fail":  # An attack that was too short is no model that masks.
        status = "warn"
    text = f"{what} broke {broken} images ({100 * broken / n:.0f} %) that the attacks before had left"
    return Check(name, status, text, {"broken": float(broken), "images": float(n)})


def _adaptive(campaign: Campaign, others: Sequence[Source], rows: Tensor, settings: Settings) -> list[Attempt]:
    """Every other gradient on the same images, so that they can be compared."""
    found = []
    for source in others:
        family = TRANSFER if source.kind == "transfer" else ADAPTIVE
        ball, name = campaign.target.ball, source.name
        attack = PGD(ball, steps=settings.steps, loss="margin")
        found.append(campaign.run(f"{name}-margin", source, attack, rows, family=family))
        if name != "around":
            attack = PGD(ball, steps=settings.steps)
            found.append(campaign.run(f"{name}-tempered", source, attack, rows, family=family, tempered=True))
    return found


def _search(campaign: Campaign, given: Source, rows: Tensor, queries: int, name: str) -> Attempt | None:
    """Square with a number of queries, none for 0."""
    if not queries:
        return None
    source = replace(given, text="no gradient")
    return campaign.run(name, source, Square(campaign.target.ball, steps=queries), rows, family=BLACK_BOX)


def _decide(campaign: Campaign, given: Source, rows: Tensor, queries: int) -> Attempt:
    """HopSkipJump, for a model that gives classes alone; it needs ten times the queries of a search on scores."""
    attack = HopSkipJump(campaign.target.ball, steps=10 * queries)
    return campaign.run("hopskipjump", replace(given, text="labels alone"), attack, rows, family=BLACK_BOX)


def _estimate(campaign: Campaign, given: Source, rows: Tensor, settings: Settings) -> None:
    """NES with probes as long as the steps of a quantized model, where the gradient itself is in doubt."""
    if settings.queries:
        samples = 50
        attack = NES(campaign.target.ball, steps=max(1, 2 * settings.queries // samples), samples=samples, probe=PROBE)
        campaign.run("nes", replace(given, text="no gradient"), attack, rows, family=BLACK_BOX)


def _ranked(usable: Sequence[Source], adaptive: Sequence[Attempt]) -> list[Source]:
    """Sources by what they broke; the given gradient, where there is one, before those that broke nothing.

    Noise around the image costs several gradients each, so it comes last unless it broke most.
    """
    broke = {s.name: len(union([a for a in adaptive if a.name.rpartition("-")[0] == s.name])) for s in usable}
    best, *rest = sorted(usable, key=lambda s: -broke[s.name])
    return [best, *sorted(rest, key=lambda s: s.name == "around")]


def _escalate(
    campaign: Campaign, ranked: Sequence[Source], given: Source, settings: Settings, n: int, *, patience: int
) -> bool:
    """Rounds of the strongest attacks with the best sources until `patience` of them break nearly nothing.

    Returns whether the last one did so.
    """
    ball = campaign.target.ball
    idle = 0
    for number in range(1, settings.rounds + 1):
        before = len(campaign.survivors)
        for source in ranked[: 2 if number == 1 else 1]:
            for stride, kind in zip(STRIDES, ("margin", "strides"), strict=True):
                attack = _strides(ball, settings.long_steps * number, stride)
                name = f"round{number}-{source.name}-{kind}"
                campaign.run(name, source, attack, campaign.survivors, family=_family(source))
            for rank in range(min(TARGETS, campaign.target.classes - 1)):
                attack = _strides(ball, max(1, settings.long_steps // 2 * number), STRIDES[0])
                name = f"round{number}-{source.name}-target{rank}"
                campaign.run(name, source, attack, campaign.survivors, family=_family(source), rank=rank)
            attack = PGD(ball, steps=settings.long_steps * number)
            name = f"round{number}-{source.name}-tempered"
            campaign.run(name, source, attack, campaign.survivors, family=_family(source), tempered=True)
        _search(campaign, given, campaign.survivors, 2 * number * settings.queries, f"round{number}-square")
        idle = idle + 1 if before - len(campaign.survivors) <= max(1, STABLE * n) else 0
        if idle == patience:
            return True
    return idle > 0 or not len(campaign.survivors)


def _family(source: Source) -> str:
    return {"given": PLAIN, "transfer": TRANSFER}.get(source.kind, ADAPTIVE)


def _limits(target: Target, reference: nn.Module | None, search: Attempt | None, n: int) -> list[str]:
    limits = [
        "attacks find an upper bound: only certification can say that no other attack breaks more",
        f"on {n} images the 95 % interval of a share is up to {100 * 1.96 * math.sqrt(0.25 / n):.0f} points either way",
    ]
    if search is None:
        limits.append("no search without a gradient was run")
    if reference is None:
        limits.append("no reference model was given to transfer from")
    if target.random:
        limits.append(
            f"the model is random: images near the edge of {JUDGE_DRAWS // 2} of {JUDGE_DRAWS} passes can go either way"
        )
    return limits
