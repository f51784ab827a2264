"""Agreement: how far the surrogate, whose gradient attacks follow, is from the artefact that is judged."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from robustlab.core import Tiled, frozen
from robustlab.core.tiles import map_tiles
from robustlab.deploy import ForeignModel


class AgreementRow(TypedDict):
    """One row of `results.json`'s ``agreement``, over clean images.

    different: images whose prediction is another one. largest, mean: of the absolute difference of two logits; span:
    of the artefact's logits the largest magnitude.
    """

    model: str
    images: int
    different: int
    largest: float
    mean: float
    span: float


def compare(name: str, model: nn.Module, images: Tensor, tile: int) -> AgreementRow | None:
    """Compare a foreign model with its surrogate on images (N, 3, H, W); None for a model without one."""
    if not isinstance(model, ForeignModel):
        return None
    with frozen(model), torch.no_grad():
        if model.stand_in(images[:1].expand(tile, -1, -1, -1)) is None:
            return None

        def ask(batch: Tensor) -> Tensor:
            answer = model.stand_in(batch)
            assert answer is not None
            return answer

        surrogate = map_tiles(ask, images, size=tile)
        artefact = Tiled(model, tile)(images)
    difference = (surrogate - artefact).abs()
    return AgreementRow(
        model=name,
        images=len(images),
        different=int((surrogate.argmax(1) != artefact.argmax(1)).sum()),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        span=float(artefact.abs().max()),
    )


def agreement_text(row: AgreementRow) -> str:
    """In words."""
    return (
        f"{row['model']}: surrogate and artefact give {row['different']} of {row['images']} images another class; "
        f"their logits differ by {row['mean']:.3g} on average and {row['largest']:.3g} at most (span {row['span']:.3g})"
    )
