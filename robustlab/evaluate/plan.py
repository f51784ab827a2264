"""The plan of an evaluation: every input resolved and checked before any work is done or any file written."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from robustlab.core import DataError, frozen
from robustlab.core.access import LEVELS, Access, access_of, runs_elsewhere
from robustlab.core.errors import check_choice, check_images, check_int, check_labels, invalid
from robustlab.core.tiles import tiles
from robustlab.datasets import Dataset
from robustlab.deploy import ForeignModel, PackedLayer, fingerprint, gradient_kind, load, model_name, optimize, scheme
from robustlab.evaluate.binding import Bindable, Setting, Source
from robustlab.evaluate.conditions import Condition, needed_access, needs_bits
from robustlab.evaluate.data import open_data
from robustlab.evaluate.differentiable import differentiable
from robustlab.evaluate.environment import torch_minor
from robustlab.evaluate.probe import check_answers, check_parameters
from robustlab.evaluate.sampling import Restricted
from robustlab.evaluate.store import SCHEMA, digest
from robustlab.evaluate.suites import CUSTOM, Suite, load_suite
from robustlab.evaluate.suspicion import IMAGES, warn_of_preprocessing
from robustlab.evaluate.transferred import TransferCondition
from robustlab.kernels import backend

_log = logging.getLogger(__name__)

# Samples per cell of the store. It is part of every key and therefore fixed: it may not depend on the batch size.
# Round limits are whole shards, so that a larger one finds the cells of a smaller one.
SHARD = 500

MAX_TILE = 65_536

Model = nn.Module | str
Models = Model | Sequence[Model] | Mapping[str, Model]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under evaluation: on the device, with what identifies it.

    attacked: what attacks are given, which answers exactly as `model` does; see `robustlab.evaluate.differentiable`.
    """

    name: str
    source: str
    model: nn.Module
    attacked: nn.Module
    fingerprint: str
    gradient: str
    scheme: str
    access: Access = "gradient"

    def lacks(self, condition: Condition) -> bool:
        """Whether the model does not give what a condition needs, which then attacks none of its images."""
        if needs_bits(condition) and runs_elsewhere(self.model):
            return True
        needed = needed_access(condition)
        return LEVELS.index(needed) > LEVELS.index(self.access)


@dataclass(frozen=True)
class Shard:
    """Samples start to stop (excluded) of the data set."""

    index: int
    start: int
    stop: int

    @property
    def ids(self) -> range:
        """Sample ids."""
        return range(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Plan:
    """What is evaluated, how. `count` images from the start of `data`, in shards of `SHARD`.

    `left_out` has the conditions of the suite that cannot be had here, and why.
    """

    subjects: tuple[Subject, ...]
    data: Dataset
    suite: Suite
    limit: int | float | None
    count: int
    batch_size: int
    tile: int
    seed: int
    device: str
    out: Path
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions of the suite."""
        return self.suite.conditions

    @property
    def in_flight(self) -> int:
        """Images in memory at once: `batch_size` in whole tiles, at least one tile and at most a shard."""
        return min(max(self.batch_size // self.tile, 1) * self.tile, max(SHARD, self.tile))

    def shards(self) -> Iterator[Shard]:
        """All shards; only the last one can be partial."""
        for index, (start, stop) in enumerate(tiles(self.count, SHARD)):
            yield Shard(index, start, stop)

    def bound(self, subject: Subject, condition: Condition) -> Condition:
        """The condition as it is for one of the models: see `robustlab.evaluate.binding`."""
        if not isinstance(condition, Bindable) or subject.lacks(condition):
            return condition
        others = tuple(
            Source(f"{other.fingerprint} {other.gradient}", other.attacked, other.gradient != "none")
            for other in self.subjects
            if other is not subject
        )
        first = partial(_first, self.data, self.device)
        return condition.bind(Setting(subject.name, subject.model, others, first, self.seed))

    def key(self, subject: Subject | None, condition: Condition, shard: Shard) -> str:
        """The key of a cell, or, without a subject, of the images that all models are shown in it."""
        condition = condition if subject is None else self.bound(subject, condition)
        return digest(
            {
                "schema": SCHEMA,
                "model": "" if subject is None else subject.fingerprint,
                "gradient": "" if subject is None or not condition.needs_gradient else subject.gradient,
                "data": self.data.fingerprint,
                "condition": [condition.key, condition.version, condition.parameters],
                "samples": [shard.start, shard.stop],
                "seed": self.seed,
                "tile": self.tile,
                "torch": torch_minor(),
                "device": self.device,
            }
        )


def _check_device(device: object) -> str:
    return str(check_choice("device", device, ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]))


def count_images(limit: int | float | None, available: int) -> int:
    """How many images a limit means: a count (at most what there is), or a fraction in (0, 1), rounded up."""
    allowed = "a whole number >= 1, or a fraction between 0 and 1"
    if limit is None:
        return available
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
        raise invalid("limit", limit, allowed)
    if isinstance(limit, float):
        if not limit < 1:
            raise invalid("limit", limit, allowed)
        return max(1, math.ceil(limit * available))
    return min(limit, available)


def check_out(out: object) -> Path:
    """The folder for results if it is one, or can be made; nothing is made yet."""
    if not isinstance(out, (str, Path)) or not str(out):
        raise invalid("out", out, "the path of a folder")
    path = Path(out)
    allowed = "a folder that can be written"
    try:
        ground = next(p for p in [path.absolute(), *path.absolute().parents] if p.exists())
        if not ground.is_dir() or not os.access(ground, os.W_OK | os.X_OK):
            raise invalid("out", str(out), f"{allowed}; {ground} is not")
    except OSError as error:
        raise invalid("out", str(out), f"{allowed}; {error.strerror}") from None
    return path


@dataclass(frozen=True, eq=False)
class _Named:
    """A loaded model, its name in the results, and where it came from."""

    name: str
    source: str
    model: nn.Module


def _load_models(models: object) -> list[_Named]:
    loaded: list[_Named] = []
    for given, model in _named_models(models):
        module = load(model) if isinstance(model, str) else model
        name = given or model_name(module)
        if name in [other.name for other in loaded]:
            raise invalid("models", name, "each name once; a dict of name -> model gives names")
        check_parameters(name, module)
        source = model if isinstance(model, str) else f"{type(model).__module__}.{type(model).__qualname__}"
        if isinstance(module, ForeignModel) and module.source:
            source = module.source
        loaded.append(_Named(name, source, module))
    return loaded


def _named_models(models: object) -> list[tuple[str | None, Model]]:
    allowed = "a model, the name or path of one, a list of those, or a dict of name -> model"
    entries: list[tuple[object, object]]
    if isinstance(models, (str, nn.Module)):
        entries = [(None, models)]
    elif isinstance(models, Mapping):
        entries = list(models.items())
    elif isinstance(models, Sequence):
        entries = [(None, model) for model in models]
    else:
        raise invalid("models", models, allowed)
    if not entries:
        raise invalid("models", models, f"{allowed}; at least one")
    named: list[tuple[str | None, Model]] = []
    for name, model in entries:
        if not isinstance(model, (str, nn.Module)):
            raise invalid("models", model, allowed)
        if name is not None and not (
            isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= 100
        ):
            raise invalid("name of a model", name, "up to 100 printable characters")
        named.append((name, model))
    return named


def _place(model: nn.Module, device: str) -> nn.Module:
    """The model itself if it is on the device, else a copy there: a caller's model is never moved."""
    tensors = [*model.parameters(), *model.buffers()]
    return model if all(t.device.type == device for t in tensors) else copy.deepcopy(model).to(device)


def _optimized(model: nn.Module, device: str) -> nn.Module:
    """A model with packed layers as the programs that give the same bits faster; any other model as it is."""
    if device != "cpu" or not any(isinstance(module, PackedLayer) for module in model.modules()):
        return model
    with frozen(model):
        return optimize(model)


def _subject(named: _Named, images: Tensor, data: Dataset, tile: int, device: str, *, gradients: bool) -> Subject:
    """A model, checked on one tile of images; with `gradients`, one that has none gets the gradient "none"."""
    placed = _optimized(_place(named.model, device), device)
    check_answers(named.name, placed, images.to(device), data, tile)
    access, attacked, gradient = access_of(named.model), placed, gradient_kind(named.model)
    if gradients and access == "gradient":
        found = differentiable(named.name, placed, images.to(device), tile)
        attacked, gradient = found.model, found.gradient
    if access == "gradient" and gradient == "none":
        access = "scores"
    return Subject(
        name=named.name,
        source=named.source,
        model=placed,
        attacked=attacked,
        fingerprint=fingerprint(named.model),
        gradient=gradient if access == "gradient" else "none",
        scheme=scheme(named.model),
        access=access,
    )


def read_batch(data: Dataset, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images and labels of samples, checked: the runner relies on range, shape and labels."""
    images, labels = data.batch(ids)
    check_images(images, f"images of {data.name}")
    if len(images) != len(ids):
        raise invalid(f"images of {data.name}", f"a batch of {len(images)}", f"a batch of {len(ids)}")
    return images, check_labels(labels, len(ids), len(data.class_names), f"labels of {data.name}")


def _first(data: Dataset, device: str, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` images and labels from the start of a data set."""
    images, labels = read_batch(data, range(min(count, len(data))))
    return images.to(device), labels.to(device)


def _available(suite: Suite, data: Dataset) -> tuple[Suite, dict[str, str]]:
    """The suite without the conditions that cannot be had here, and why they cannot.

    Nothing is left out of a list that was given by hand: there, and where the reference or all of a suite would be
    missing, `ArgumentError` says why.
    """
    reasons = {c.key: c.unavailable(data) for c in suite.conditions if isinstance(c, Restricted)}
    left_out = {key: reason for key, reason in reasons.items() if reason is not None}
    if not left_out:
        return suite, {}
    kept = tuple(condition for condition in suite.conditions if condition.key not in left_out)
    first = next(iter(left_out))
    if suite.name == CUSTOM or not kept or suite.reference in left_out:
        key = suite.reference if suite.reference in left_out else first
        raise invalid("condition", key, f"what can be had here: {left_out[str(key)]}")
    return replace(suite, conditions=kept), left_out


def make_plan(
    models: Models,
    data: Dataset | str,
    suite: str | Path | Sequence[str | Condition] | Suite,
    *,
    out: str | Path,
    limit: int | float | None,
    batch_size: int,
    tile: int,
    seed: int,
    device: str,
) -> Plan:
    """Check every input. Raises `RobustlabError` before any work; nothing is written."""
    check_int("batch_size", batch_size, 1)
    check_int("tile", tile, 1, MAX_TILE)
    check_int("seed", seed, 0)
    count_images(limit, 1)
    device = _check_device(device)
    folder = check_out(out)
    chosen = load_suite(suite)
    backend()  # an unknown ROBUSTLAB_KERNELS is refused before anything is opened
    loaded = _load_models(models)
    dataset = open_data(data, [named.model for named in loaded])
    if not len(dataset):
        raise DataError(f"data set {dataset.name} is empty; allowed: at least one image")
    count = count_images(limit, len(dataset))
    if chosen.prediction is not None:
        chosen.prediction.check_data(chosen.name, dataset)
    chosen, left_out = _available(chosen, dataset)
    images, _ = read_batch(dataset, range(min(tile, count)))
    gradients = any(_differentiates(condition) for condition in chosen.conditions)
    if gradients and len(dataset.class_names) < 2:
        raise invalid("data", dataset.name, "a data set of at least 2 classes, since the suite has gradient attacks")
    subjects = tuple(_subject(named, images, dataset, tile, device, gradients=gradients) for named in loaded)
    plan = Plan(subjects, dataset, chosen, limit, count, batch_size, tile, seed, device, folder, left_out)
    for condition in plan.conditions:
        for subject in subjects:
            plan.bound(subject, condition)  # what does not fit is refused here
    _say_left_out(plan)
    _check_preprocessing(subjects, dataset, device)
    return plan


_APPLY: dict[Access, str] = {"scores": "square5000-linf-8of255", "labels": "hopskipjump1000-l2-0.5"}


def _say_left_out(plan: Plan) -> None:
    """Say in the log which conditions a model gives too little for, and where no attack is left, one that is."""
    for subject in plan.subjects:
        lacking = [condition for condition in plan.conditions if subject.lacks(condition)]
        bits = [condition.key for condition in lacking if needs_bits(condition)]
        other = [condition.key for condition in lacking if not needs_bits(condition)]
        if bits:
            _log.warning("the bits of model %s are in another runtime; left out: %s", subject.name, ", ".join(bits))
        if other:
            attacked = any(c.adversarial and not subject.lacks(c) for c in plan.conditions)
            hint = "" if attacked else f"; no attack of {plan.suite.name} applies, {_APPLY[subject.access]} does"
            _log.warning("model %s gives %s; left out: %s%s", subject.name, subject.access, ", ".join(other), hint)


def _check_preprocessing(subjects: Sequence[Subject], data: Dataset, device: str) -> None:
    """Say in the log where a foreign model is probably not shown what it was trained on."""
    foreign = [subject for subject in subjects if isinstance(subject.model, ForeignModel)]
    if foreign:
        shown = min(IMAGES, len(data))
        images, labels = (t.to(device) for t in read_batch(data, [i * len(data) // shown for i in range(shown)]))
        for subject in foreign:
            warn_of_preprocessing(subject.name, subject.model, images, labels)


def _differentiates(condition: Condition) -> bool:
    """Whether a model's gradient is used, be it another model's than the one that is judged."""
    made = isinstance(condition, TransferCondition) and condition.attack.needs_gradient
    return condition.needs_gradient or made
