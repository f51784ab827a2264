"""Adversarial images as files: an attack over a data set, kept part by part, so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robustlab.attacks import Attack
from robustlab.core import Progress, RobustlabError, StoreError, Tiled, frozen
from robustlab.core.errors import check_choice, invalid
from robustlab.core.keys import derive, integers, sample_keys
from robustlab.core.tiles import tiles
from robustlab.evaluate.conditions import AttackCondition, Condition
from robustlab.evaluate.metrics import wilson
from robustlab.evaluate.plan import Plan, Shard, Subject, read_batch

PART = 256  # images in a file; a part that is there is not made again
NO_ANSWER = -1
TARGETS = ("none", "next", "random")


class CraftedRow(TypedDict):
    """What came of one attack. Accuracies are fractions; norms are those of the attack's ball, over its successes.

    `parted`: images that the model gets wrong and the authority of a `Divergence` right; `parted_before`: without it.
    """

    model: str
    attack: str
    target: str
    n: int
    clean: float
    robust: float
    ci_low: float
    ci_high: float
    successes: int
    not_attacked: int
    norm: str
    norm_median: float | None
    norm_max: float | None
    queries_median: float
    queries_total: int
    gradient_calls: int
    parted: NotRequired[int]
    parted_before: NotRequired[int]


@dataclass(frozen=True, eq=False)
class Part:
    """Adversarial images of consecutive samples, and what the model said to them.

    images: float32 (n, 3, H, W). ids, labels, targets (-1 for none), clean (the prediction without attack), prediction,
    queries: int64 (n,). attacked: bool (n,). gradients: int64 (1,), how many.
    """

    images: Tensor
    ids: Tensor
    labels: Tensor
    targets: Tensor
    clean: Tensor
    prediction: Tensor
    attacked: Tensor
    queries: Tensor
    gradients: Tensor

    @property
    def success(self) -> Tensor:
        """bool (n,): the model was right, and says what the attack wants; with a target: it did not say that before."""
        sound = self.attacked & (self.prediction != NO_ANSWER)
        untargeted = (self.clean == self.labels) & (self.prediction != self.labels)
        targeted = (self.clean != self.targets) & (self.prediction == self.targets)
        return sound & torch.where(self.targets < 0, untargeted, targeted)


def choose_targets(rule: str, labels: Tensor, classes: Sequence[str], keys: Tensor) -> Tensor | None:
    """The classes (N,) that a targeted attack wants: None, the next class, another one at random, or one by its name.

    With one class for all, a sample of that class has the target -1 and is not attacked. Raises `ArgumentError`.
    """
    if rule == "none":
        return None
    if rule == "next":
        return (labels + 1) % len(classes)
    if rule == "random":
        step = integers(derive(keys, "target"), (), 1, len(classes))
        return (labels + step.to(labels.device)) % len(classes)
    check_choice("target", rule, (*TARGETS, *classes))
    chosen = list(classes).index(rule)
    return torch.where(labels == chosen, -1, chosen)


def craft(plan: Plan, target: str, progress: Progress) -> Iterator[tuple[AttackCondition, Part]]:
    """Attack the plan's one model with each of its conditions, all of them attacks, part by part.

    Parts are read from ``plan.out / slug / part-00000.safetensors`` where they are there for the same model, data,
    attack, seed, tile and target, and written there otherwise. Raises `StoreError` for a file that is damaged, and
    `ArgumentError` where there are parts of other settings, before anything is attacked: results are never overwritten.
    """
    (subject,) = plan.subjects
    choose_targets(target, torch.zeros(1, dtype=torch.int64), plan.data.class_names, torch.zeros(1, dtype=torch.int64))
    for condition in plan.conditions:
        _check_folder(plan, subject, condition, target)
    progress.start("attack", len(plan.conditions) * plan.count)
    try:
        with frozen(subject.model):
            tiled = Tiled(subject.attacked, plan.tile).eval()
            for condition in plan.conditions:
                if not isinstance(condition, AttackCondition):
                    raise invalid("attack", condition.key, "an attack such as pgd20-linf-8of255")
                for path, shard in _shards(plan, condition).items():
                    key = f"{plan.key(subject, condition, shard)} {target}"
                    part = _read(path)
                    if part is None:
                        part = _make(plan, tiled, condition, target, shard.ids)
                        _write(path, key, part)
                    progress.advance(len(part.ids), f"{condition.key} · {int(part.success.sum())} of {len(part.ids)}")
                    yield condition, part
    finally:
        progress.finish()


def _shards(plan: Plan, condition: Condition) -> dict[Path, Shard]:
    """The files of an attack, and the images in each."""
    return {
        plan.out / condition.key / f"part-{index:05}.safetensors": Shard(index, start, stop)
        for index, (start, stop) in enumerate(tiles(plan.count, PART))
    }


def _check_folder(plan: Plan, subject: Subject, condition: Condition, target: str) -> None:
    """Raise `ArgumentError` where the folder of an attack has parts of other settings."""
    shards = _shards(plan, condition)
    for path in sorted((plan.out / condition.key).glob("part-*.safetensors")):
        shard = shards.get(path)
        if shard is None or _key(path) != f"{plan.key(subject, condition, shard)} {target}":
            allowed = "a folder without images of another model, data set, number of images, seed, tile or target"
            raise invalid("out", str(path.parent), f"{allowed}; choose another, or remove these")


def _make(plan: Plan, model: Tiled, condition: AttackCondition, target: str, ids: range) -> Part:
    images, labels = (t.to(plan.device) for t in read_batch(plan.data, ids))
    keys = sample_keys(plan.seed, condition.key, ids)
    wanted = choose_targets(target, labels, plan.data.class_names, keys)
    attack = condition.attack
    if not isinstance(attack, Attack):
        raise invalid("attack", condition.key, "an attack of robustlab.attacks")
    rows = torch.arange(len(labels)) if wanted is None else torch.nonzero(wanted >= 0).flatten()
    found, attacked = images.clone(), torch.zeros(len(labels), dtype=torch.bool)
    queries, gradients = torch.zeros(len(labels), dtype=torch.int64), 0
    if len(rows):
        chosen = None if wanted is None else wanted[rows]
        result = attack.run(model, images[rows], labels[rows], targets=chosen, keys=keys[rows])
        found[rows], attacked[rows] = result.images, result.attacked.cpu()
        queries[rows], gradients = result.queries, result.gradient_calls
    inside = condition.contains(found, images)
    if not bool(inside.all()):
        raise RobustlabError(
            f"attack {condition.key} left its threat model on {int((~inside).sum())} of {len(ids)} images; "
            "allowed: inside it"
        )
    return Part(
        images=found.cpu(),
        ids=torch.tensor(list(ids)),
        labels=labels.cpu(),
        targets=torch.full_like(labels, -1).cpu() if wanted is None else wanted.cpu(),
        clean=_answers(model, images),
        prediction=_answers(model, found),
        attacked=attacked,
        queries=queries,
        gradients=torch.tensor([gradients]),
    )


def _answers(model: Tiled, images: Tensor) -> Tensor:
    """int64 (n,): the class with the largest logit, -1 where logits are not finite."""
    with torch.no_grad():
        logits = model(images).cpu()
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), NO_ANSWER)


def _write(path: Path, key: str, part: Part) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    # Not save_file, which gives nobody else the right to read the file.
    temporary.write_bytes(save({name: value.contiguous() for name, value in vars(part).items()}, {"key": key}))
    temporary.replace(path)


def _key(path: Path) -> str:
    """What a file of images was made with."""
    try:
        with safe_open(path, "pt") as file:
            return str((file.metadata() or {}).get("key", ""))
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path} cannot be read ({error}); remove it, and its images are made again")


def _read(path: Path) -> Part | None:
    """The part in a file, or None where there is none."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return Part(**{name: file.get_tensor(name) for name in Part.__dataclass_fields__})
    except (SafetensorError, OSError, TypeError) as error:
        raise _damaged(path, error) from error


def summary(model: str, condition: AttackCondition, target: str, parts: Sequence[Part], norms: Tensor) -> CraftedRow:
    """The row of one attack; `norms` (n,) are those of all its perturbations in the norm of its ball."""

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    success, clean, labels = joined("success"), joined("clean"), joined("labels")
    queries = joined("queries")
    attacked = joined("attacked") & (joined("prediction") != NO_ANSWER)  # No answer is not a wrong one.
    right = clean == labels
    robust = int((torch.where(attacked, joined("prediction"), clean) == labels).sum())
    low, high = wilson(robust, len(labels))
    broken = norms[success].double().numpy()
    asked = queries[queries > 0].double().numpy()
    return CraftedRow(
        model=model,
        attack=condition.key,
        target=target,
        n=len(labels),
        clean=float(right.double().mean()),
        robust=robust / len(labels),
        ci_low=low,
        ci_high=high,
        successes=int(success.sum()),
        not_attacked=int((~attacked & (joined("targets") >= 0 if target != "none" else right)).sum()),
        norm=condition.attack.ball.norm_name,
        norm_median=float(np.median(broken)) if len(broken) else None,
        norm_max=float(broken.max()) if len(broken) else None,
        queries_median=float(np.median(asked)) if len(asked) else 0.0,
        queries_total=int(queries.sum()),
        gradient_calls=int(joined("gradients").sum()),
    )


_SAME = ("model", "data", "seed", "tile")


def earlier_rows(path: Path, run: dict[str, object]) -> list[CraftedRow]:
    """The rows of an earlier report of the same model, data, seed and tile; none without a file.

    Raises `ArgumentError` for a report of another run, and `StoreError` for a file that is no report.
    """
    if not path.is_file():
        return []
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        rows, other = report["attacks"], [name for name in _SAME if report["run"][name] != run[name]]
        known = [row for row in rows if isinstance(row["attack"], str)]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StoreError(f"{path} is no report of attacks ({error}); choose another folder, or remove it") from error
    if other:
        allowed = f"a folder without a report of another {' or '.join(other)}; choose another, or remove {path.name}"
        raise invalid("out", str(path.parent), allowed)
    return known


def write_rows(path: Path, rows: Sequence[CraftedRow], run: dict[str, object]) -> None:
    """``{"schema": 1, "run": ..., "attacks": [...]}`` as JSON, after what the file says of other attacks."""
    new = {row["attack"] for row in rows}
    kept = [row for row in earlier_rows(path, run) if row["attack"] not in new]
    content = {"schema": 1, "run": run, "attacks": [*kept, *rows]}
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
