"""The cross-precision matrix: what is made on one model, judged on every other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.attacks._attack import Attack
from robustlab.attacks._goal import Goal, finite_rows
from robustlab.attacks._victim import Victim, logits_of
from robustlab.attacks.transfer.transfer import craft
from robustlab.core import Progress, SilentProgress, Tiled, frozen
from robustlab.core.errors import check_images, check_labels, invalid
from robustlab.core.keys import sample_keys
from robustlab.core.tiles import DEFAULT_TILE
from robustlab.deploy import unoptimized


@dataclass(frozen=True)
class TransferCell:
    """One cell: images made on `source`, judged on `target`.

    Of `n` images, `correct` are still answered right; `clean` without an attack. not_attacked: images that the source
    could not be attacked with, which are shown as they are and say nothing. Where source and target are one model it is
    the white-box attack.
    """

    source: str
    target: str
    n: int
    correct: int
    clean: int
    not_attacked: int

    @property
    def accuracy(self) -> float:
        """Robust accuracy of the target."""
        return self.correct / self.n


def transfer_matrix(
    attack: Attack,
    models: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    keys: Tensor | None = None,
    tile: int = DEFAULT_TILE,
    progress: Progress | None = None,
) -> list[TransferCell]:
    """All cells of models x models, source by source.

    On the diagonal the attack stops as it does on its own model; elsewhere its images are made as by `Transfer`: a
    gradient attack goes on to its last step. A sample that the target gets wrong without an attack counts as wrong.

    Args:
        models: name -> model; images float32 (N, 3, H, W) in [0, 1] -> logits (N, K).
        keys: int64 (N,), by default ``sample_keys(0, attack.slug, range(N))``.
        progress: told of every source's image tiles.

    Raises `ArgumentError` for no models, no images, or models that do not fit the attack.
    """
    cells: list[TransferCell] = []
    progress = progress or SilentProgress()
    progress.start("transfer", len(models))
    try:
        for row in transfer_rows(attack, models, images, labels, keys=keys, tile=tile):
            cells += row
            progress.advance(1, f"made on {row[0].source}")
    finally:
        progress.finish()
    return cells


def transfer_rows(
    attack: Attack,
    models: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    sources: Mapping[str, nn.Module] | None = None,
    keys: Tensor | None = None,
    tile: int = DEFAULT_TILE,
) -> Iterator[list[TransferCell]]:
    """The rows of `transfer_matrix` one by one, for some `sources` only if they are given."""
    if not models:
        raise invalid("models", models, "a dict of at least one name and model")
    if not len(check_images(images)):
        raise invalid("images", "an empty batch", "at least one image")
    check_labels(labels, len(images))
    keys = sample_keys(0, attack.slug, range(len(images))) if keys is None else keys
    tiled = {name: Tiled(unoptimized(model), tile).eval() for name, model in models.items()}
    clean = {name: _right(model, images, labels) for name, model in tiled.items()}
    for source, model in (models if sources is None else sources).items():
        victim = Victim(tiled[source], len(images))
        made, worked = craft(attack, [model], victim, images, Goal(labels), keys, early_exit=False)
        row = []
        for target, judged in tiled.items():
            shown, attacked = made, worked
            if target == source:
                result = attack.run(judged, images, labels, keys=keys)
                shown, attacked = result.images, result.attacked
            answers, finite = _answers(judged, shown)
            attacked = attacked.cpu() & finite.cpu()  # No answer is not a wrong one.
            right = ((answers == labels) | ~finite) & clean[target]
            row.append(
                TransferCell(
                    source, target, len(images), int(right.sum()), int(clean[target].sum()), int((~attacked).sum())
                )
            )
        yield row


def _answers(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted classes, int64 (N,), and bool (N,): the logits are finite."""
    with torch.no_grad(), frozen(model):
        logits = logits_of(model, images)
    return logits.argmax(1), finite_rows(logits)


def _right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """bool (N,): answered right with finite logits."""
    answers, finite = _answers(model, images)
    return (answers == labels) & finite
