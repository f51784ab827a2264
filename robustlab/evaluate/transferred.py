"""Transfer as a condition: ``transfer-pgd20-linf-8of255``, made on every other model of the run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.attacks import Attack, Transfer, parse_attack
from robustlab.core.errors import invalid
from robustlab.evaluate.binding import Setting, Source
from robustlab.evaluate.conditions import Condition
from robustlab.evaluate.shown import Shown

PREFIX = "transfer-"


@dataclass(frozen=True)
class TransferCondition:
    """Images made on the other models of the run, one after the other; a sample counts as right if none fools it.

    The sources are part of a cell's key, so that with another set of models it is another cell.
    """

    attack: Attack
    sources: tuple[Source, ...] = ()

    depends_on_model = True
    adversarial = True
    needs_gradient = False

    @property
    def key(self) -> str:
        """Such as ``transfer-pgd20-linf-8of255``."""
        return PREFIX + self.attack.slug

    @property
    def version(self) -> int:
        """Its own, which is that of `Transfer`, and the attack's."""
        return 1000 * Transfer.version + self.attack.version

    @property
    def parameters(self) -> str:
        """The attack in full, and the fingerprints of the sources, in no order."""
        return f"{self.attack!r} from {sorted(source.identity for source in self.sources)}"

    def bind(self, setting: Setting) -> Condition:
        """The condition of one model, with the others that can be attacked as its sources."""
        able = [s for s in setting.others if s.differentiable or not self.attack.needs_gradient]
        if not able:
            raise invalid(
                "models",
                setting.name,
                f"another model beside it that condition {self.key} can make its images on",
            )
        return TransferCondition(self.attack, tuple(sorted(able, key=lambda source: source.identity)))

    def show(self, images: Tensor, labels: Tensor, keys: Tensor, model: nn.Module | None) -> Shown:
        """Source by source, for the samples that the model still gets right."""
        assert model is not None, "a transfer condition is given its model"
        shown, attacked = images.clone(), torch.zeros(len(images), dtype=torch.bool)
        rows = torch.arange(len(images))
        for source in self.sources:
            result = Transfer(self.attack, [source.model]).run(model, images[rows], labels[rows], keys=keys[rows])
            shown[rows] = result.images
            attacked[rows] |= result.attacked.cpu()
            with torch.no_grad():
                logits = model(result.images)
            # Without an answer nothing is shown: the next source gets its turn.
            left = (logits.argmax(1) == labels[rows]) | ~torch.isfinite(logits).all(dim=1)
            rows = rows[left.cpu()]
            if not len(rows):
                break
        return Shown(shown, attacked.to(images.device))

    def contains(self, shown: Tensor, images: Tensor) -> Tensor:
        """See `Condition.contains`."""
        return self.attack.ball.contains(shown, images)


def parse_transfer(key: str) -> TransferCondition:
    """The condition of a key. Raises `ArgumentError` as `parse_attack`."""
    return TransferCondition(parse_attack(key.removeprefix(PREFIX)))
