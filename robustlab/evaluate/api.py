"""`evaluate`: the whole way from models and data to results."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

from robustlab.core import Progress, SilentProgress
from robustlab.core.errors import invalid
from robustlab.datasets import Dataset
from robustlab.deploy import ForeignModel
from robustlab.evaluate import agreement as _agreement
from robustlab.evaluate import efficiency as _efficiency
from robustlab.evaluate import parity as _parity
from robustlab.evaluate.agreement import AgreementRow
from robustlab.evaluate.conditions import Condition, needed_access, needs_bits
from robustlab.evaluate.efficiency import EfficiencyRow
from robustlab.evaluate.environment import hardware, torch_minor, versions
from robustlab.evaluate.listener import Listener, SilentListener
from robustlab.evaluate.natural import NaturalRow, natural_rows
from robustlab.evaluate.parity import ParityRow
from robustlab.evaluate.plan import SHARD, Models, Plan, Shard, Subject, make_plan, read_batch
from robustlab.evaluate.results import Example, Results
from robustlab.evaluate.runner import GridResult, image_key, run_grid
from robustlab.evaluate.sampling import Restricted
from robustlab.evaluate.store import FILE_NAME, Store, digest
from robustlab.evaluate.suites import Suite


def evaluate(
    models: Models,
    data: Dataset | str,
    suite: str | Path | Sequence[str | Condition] | Suite = "quick",
    *,
    out: str | Path = "robustlab-run",
    limit: int | float | None = None,
    batch_size: int = 512,
    tile: int = 64,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    listener: Listener | None = None,
    efficiency: bool = True,
) -> Results:
    """Measure models under every condition of a suite, and what they cost.

    Args:
        models: an `nn.Module`, a spec such as ``robustlab:signs_w4a4`` or a path, a list of those, or a dict of name ->
            model. Models take float32 (N, 3, H, W) in [0, 1] and return logits (N, classes).
        data: a data set, or its name.
        suite: the name of a suite, the path of a TOML file, or a list of conditions.
        out: the folder for ``results.sqlite``, ``results.json`` and ``results.csv``. What its store already has is not
            computed again.
        limit: the first so many images, or a fraction of all in (0, 1).
        batch_size: images in memory at once, rounded to whole tiles. Never changes a result.
        tile: images per call of a model. The last bits of float models depend on it, so it is part of every key.
        seed: of everything random.
        device: ``cpu`` or ``cuda``.
        progress: told how far the work is, in tiles.
        listener: told of rows as they come in.
        efficiency: measure latency, throughput and memory.

    Raises `RobustlabError` for bad input, before any work and with nothing written.
    """
    progress = progress or SilentProgress()
    listener = listener or SilentListener()
    plan = make_plan(
        models, data, suite, out=out, limit=limit, batch_size=batch_size, tile=tile, seed=seed, device=device
    )
    with _open_store(plan.out) as store:
        listener.planned([s.name for s in plan.subjects], [c.key for c in plan.conditions], plan.count)
        machine = hardware(plan.device)
        grid = run_grid(plan, store, progress, listener)
        parity = _measure_parity(plan, store, machine, progress, listener)
        costs = _measure_efficiency(plan, store, machine, progress, listener) if efficiency else []
        results = Results(
            run=_describe_run(plan, grid, machine),
            cells=grid.cells,
            efficiency=costs,
            parity=parity,
            examples=_examples(plan, store, grid),
            class_names=tuple(plan.data.class_names),
            spread=grid.spread,
            natural=_natural(plan, grid),
            agreement=_measure_agreement(plan, store, machine),
        )
    results.write(plan.out)
    return results


def _natural(plan: Plan, grid: GridResult) -> list[NaturalRow]:
    size = tuple(plan.data.image_size)
    rows = natural_rows(grid.correct, classes=len(plan.data.class_names), image_size=size)
    return rows if plan.suite.prediction is None else [*rows, *plan.suite.prediction.rows(grid.correct)]


def _open_store(out: Path) -> Store:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid("out", str(out), f"a folder that can be written; {error.strerror}") from error
    return Store(out / FILE_NAME)


def _measurement_key(kind: str, plan: Plan, subject: Subject, machine: dict[str, Any], images: int) -> str:
    return digest(
        {
            "kind": kind,
            "model": subject.fingerprint,
            "hardware": machine,
            "torch": torch_minor(),
            "tile": plan.tile,
            "data": plan.data.fingerprint,
            "images": images,
        }
    )


def _measure_efficiency(
    plan: Plan, store: Store, machine: dict[str, Any], progress: Progress, listener: Listener
) -> list[EfficiencyRow]:
    rows: list[EfficiencyRow] = []
    # One whole tile, whatever the limit: images repeat if there are too few.
    tile, _ = read_batch(plan.data, [i % len(plan.data) for i in range(plan.tile)])
    progress.start("efficiency", len(plan.subjects))
    try:
        for subject in plan.subjects:
            key = _measurement_key("efficiency", plan, subject, machine, plan.tile)
            found = store.measurement(key)
            if found is None:
                found = dict(_efficiency.measure(subject.name, subject.model, tile.to(plan.device), plan.device))
                store.put_measurement(key, "efficiency", found)
            rows.append(cast(EfficiencyRow, {**found, "model": subject.name}))
            listener.efficiency(rows[-1])
            progress.advance(1, subject.name)
    finally:
        progress.finish()
    return rows


def _measure_parity(
    plan: Plan, store: Store, machine: dict[str, Any], progress: Progress, listener: Listener
) -> list[ParityRow]:
    rows: list[ParityRow] = []
    count = min(plan.count, _parity.IMAGES)
    images, _ = read_batch(plan.data, range(count))
    progress.start("parity", len(plan.subjects))
    try:
        for subject in plan.subjects:
            key = _measurement_key("parity", plan, subject, machine, count)
            found: Any = store.measurement(key)
            if found is None:
                found = _parity.compare(subject.name, subject.model, images.to(plan.device), plan.tile)
                if found is not None:
                    store.put_measurement(key, "parity", dict(found))
            if found is not None:
                rows.append(cast(ParityRow, {**found, "model": subject.name}))
                listener.parity(rows[-1])
            progress.advance(1, subject.name)
    finally:
        progress.finish()
    return rows


def _measure_agreement(plan: Plan, store: Store, machine: dict[str, Any]) -> list[AgreementRow]:
    rows: list[AgreementRow] = []
    count = min(plan.count, _parity.IMAGES)
    for subject in plan.subjects:
        if not isinstance(subject.model, ForeignModel):
            continue
        key = _measurement_key("agreement", plan, subject, machine, count)
        found: Any = store.measurement(key)
        if found is None:
            images, _ = read_batch(plan.data, range(count))
            found = _agreement.compare(subject.name, subject.model, images.to(plan.device), plan.tile)
            if found is not None:
                store.put_measurement(key, "agreement", dict(found))
        if found is not None:
            rows.append(cast(AgreementRow, {**found, "model": subject.name}))
    return rows


def _left_out(plan: Plan) -> list[dict[str, str]]:
    """Conditions that a model does not give enough for: what they need, and what it gives."""
    return [
        {"model": s.name, "condition": c.key, "needs": "bits" if needs_bits(c) else needed_access(c), "gives": s.access}
        for s in plan.subjects
        for c in plan.conditions
        if s.lacks(c)
    ]


def _examples(plan: Plan, store: Store, grid: GridResult) -> list[Example]:
    examples: list[Example] = []
    first: Shard = next(plan.shards())
    for condition in plan.conditions:
        groups = [(s.name, [s]) for s in plan.subjects] if condition.depends_on_model else [(None, list(plan.subjects))]
        for made_for, subjects in groups:
            key = image_key(plan, subjects[0], condition, first)
            for e in store.examples(key):
                predictions = {s.name: grid.predictions[s.name, condition.key][e.sample] for s in subjects}
                examples.append(Example(condition.key, made_for, e.sample, e.label, predictions, e.png, key))
    return examples


def _libraries(plan: Plan) -> dict[str, str]:
    """Of the decoders and codecs that conditions ran through."""
    found: dict[str, str] = {}
    for condition in plan.conditions:
        if isinstance(condition, Restricted):
            found |= condition.libraries()
    return {name: text for name, text in found.items() if name != "torch"}


def _describe_run(plan: Plan, grid: GridResult, machine: dict[str, Any]) -> dict[str, Any]:
    return {
        "versions": {**versions(), **_libraries(plan)},
        "seed": plan.seed,
        "hardware": machine,
        "configuration": {
            "models": {
                s.name: {
                    "source": s.source,
                    "fingerprint": s.fingerprint,
                    "scheme": s.scheme,
                    "gradient": s.gradient,
                    "access": s.access,
                }
                for s in plan.subjects
            },
            "data": {
                "name": plan.data.name,
                "fingerprint": plan.data.fingerprint,
                "images": len(plan.data),
                "image_size": list(plan.data.image_size),
            },
            "suite": plan.suite.name,
            "reference": plan.suite.reference,
            "left_out": dict(plan.left_out),
            "conditions": {c.key: c.version for c in plan.conditions},
            "limit": plan.limit,
            "images": plan.count,
            "tile": plan.tile,
            "batch_size": plan.batch_size,
            "shard": SHARD,
        },
        "left_out": _left_out(plan),
        "cells_from_store": grid.from_store,
        "cells_computed": grid.computed,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
