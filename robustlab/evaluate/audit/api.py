"""`audit`: should a model's robust accuracy be believed, and how low is it really?"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.core import Ball, DataError, Linf, Progress, SilentProgress, frozen
from robustlab.core.balls import parse_ball
from robustlab.core.errors import check_int, invalid
from robustlab.core.tiles import DEFAULT_TILE
from robustlab.datasets import Dataset
from robustlab.deploy import fingerprint, gradient_kind, load, model_name
from robustlab.evaluate.audit import examine
from robustlab.evaluate.audit.campaign import Campaign
from robustlab.evaluate.audit.examine import Settings
from robustlab.evaluate.audit.ledger import Ledger
from robustlab.evaluate.audit.result import Audit
from robustlab.evaluate.audit.target import Target, is_random, logits_in_batches, seeded
from robustlab.evaluate.data import open_data
from robustlab.evaluate.environment import torch_minor, versions
from robustlab.evaluate.plan import check_out, count_images, read_batch
from robustlab.evaluate.probe import check_answers, check_parameters
from robustlab.evaluate.store import digest
from robustlab.evaluate.suspicion import IMAGES, warn_of_preprocessing

VERSION = 3
"""Raised when the same audit gives other results."""
DEFAULT_LIMIT = 100


def audit(
    model: nn.Module | str,
    data: Dataset | str,
    *,
    ball: Ball | str | None = None,
    reference: nn.Module | str | None = None,
    limit: int | float | None = DEFAULT_LIMIT,
    out: str | Path | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Look for reasons not to believe a model's robust accuracy, and attack it until the number stops falling.

    The gradient is measured (zeros, saturation, finite differences of the model itself), the model is attacked with it,
    and with everything else that could give a direction: straight-through estimators in place of operations without a
    gradient, other surrogates, averages over randomness, a reference model, and search without a gradient. Every image
    that an attack returns is checked against the threat model and judged by the model as given.

    Args:
        model: an `nn.Module` that takes float32 (N, C, H, W) in [0, 1] and returns logits (N, K), or what `load` takes.
            On the CPU.
        data: a data set, or its name.
        ball: the threat model, or its slug; by default ``Linf(2 / 255)``.
        reference: a model with a gradient that should be similar, such as the float network that `model` was made of.
        limit: the first so many images, or a fraction of all.
        out: a folder that keeps finished parts, so that a stopped audit goes on, and gets ``audit.json``.
        seed: of everything random, what the model draws from torch, NumPy or `random` included.
        settings: budgets of the attacks.
        progress: told how far the work is.

    Raises `RobustlabError` for bad input, before any work.
    """
    begin = time.perf_counter()
    progress = progress or SilentProgress()
    check_int("seed", seed, 0)
    settings = settings or Settings()
    chosen = _ball(ball)
    folder = None if out is None else check_out(out)
    count_images(limit, 1)
    network = _model("model", model)
    other = None if reference is None else _model("reference", reference)
    dataset = open_data(data, [network])
    images, labels = _images(network, other, dataset, limit)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise invalid("out", str(out), f"a folder that can be written ({error.strerror})") from error
    key = digest(
        {
            "version": VERSION,
            "model": fingerprint(network),
            "gradient": gradient_kind(network),
            "reference": "" if other is None else fingerprint(other),
            "data": dataset.fingerprint,
            "images": len(images),
            "ball": chosen.slug,
            "seed": seed,
            "settings": repr(settings),
            "torch": torch_minor(),
        }
    )
    ledger = Ledger(folder, key)
    with ExitStack() as stack:
        for used in (network, other):
            if used is not None:
                stack.enter_context(frozen(used))
        _check_finite(network, images, seed)
        shifting = is_random(network, images[: min(8, len(images))], seed)
        target = Target(network, chosen, images, labels, seed, shifting, len(dataset.class_names))
        step = max(1, len(images) // IMAGES)
        warn_of_preprocessing(model_name(network), network, images[::step][:IMAGES], labels[::step][:IMAGES])
        clean = target.right(images, labels, "clean")
        if not bool(clean.any()):
            raise DataError(
                f"model {model_name(network)} gets none of the {len(images)} images right: nothing to audit"
            )
        campaign = Campaign(target, clean, ledger, progress)
        facts: dict[str, Any] = {
            "model": model_name(network),
            "data": dataset.name,
            "run": {
                "versions": versions(),
                "seed": seed,
                "settings": settings.as_json(),
                "gradient": gradient_kind(network),
                "random": shifting,
                "reference": None if other is None else model_name(other),
                "key": key,
            },
        }
        found = examine.examine(campaign, clean, other, settings, facts)
    found.run["seconds"] = round(time.perf_counter() - begin, 2)  # type: ignore[index]
    found.run["parts_from_store"] = ledger.reused  # type: ignore[index]
    if folder is not None:
        found.write(folder)
    return found


def _check_finite(network: nn.Module, images: Tensor, seed: int) -> None:
    with seeded(seed, "finite"), frozen(network):
        unanswered = int((~torch.isfinite(logits_in_batches(network, images)).all(dim=1)).sum())
    if unanswered:
        raise invalid(
            f"model {model_name(network)}",
            f"logits that are not finite on {unanswered} of {len(images)} images without attack",
            "a model that answers with finite logits",
        )


def _ball(ball: Ball | str | None) -> Ball:
    if ball is None:
        return Linf(2 / 255)
    chosen = parse_ball(ball) if isinstance(ball, str) else ball
    if not isinstance(chosen, Ball):
        raise invalid("ball", ball, "a ball such as Linf(8 / 255), or its slug such as linf-8of255")
    if not can_audit(chosen):
        raise invalid("ball", chosen.slug, "an linf or l2 ball of finite radius > 0")
    return chosen


def can_audit(ball: Ball) -> bool:
    """Whether an audit knows attacks for this threat model: linf or l2, of a finite radius above 0."""
    return ball.norm_name in ("linf", "l2") and 0 < ball.eps < float("inf")


def _model(argument: str, model: nn.Module | str) -> nn.Module:
    if not isinstance(model, (str, nn.Module)):
        raise invalid(argument, type(model).__name__, "a torch.nn.Module, robustlab:NAME or the path of a model file")
    network = load(model) if isinstance(model, str) else model
    check_parameters(argument, network)
    if any(t.device.type != "cpu" for t in (*network.parameters(), *network.buffers())):
        raise invalid(argument, "on another device", "a model on the CPU")
    return network


def _images(
    network: nn.Module, other: nn.Module | None, dataset: Dataset, limit: int | float | None
) -> tuple[Tensor, Tensor]:
    if not len(dataset):
        raise DataError(f"data set {dataset.name} is empty; allowed: at least one image")
    if len(dataset.class_names) < 2:
        raise invalid("data", dataset.name, "a data set of at least 2 classes")
    images, labels = read_batch(dataset, range(count_images(limit, len(dataset))))
    for model in (network, other):
        if model is not None:
            check_answers(model_name(model), model, images[:1], dataset, min(DEFAULT_TILE, 8))
    return images, labels


__all__ = ["DEFAULT_LIMIT", "VERSION", "audit"]
