"""What robustlab asks of a model that does not run in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustlab.core.access import Access

if TYPE_CHECKING:
    from robustlab.deploy.inspection import LayerCost


class ForeignModel(nn.Module):
    """A model whose forward pass is somebody else's runtime. Shape: images (N, 3, H, W) in [0, 1] -> logits (N, K).

    Attributes:
        robustlab_access: ``gradient``, ``scores`` or ``labels``; with labels the logits are 1 for the class, else 0.
        gradient: ``surrogate:NAME``, or ``none``.
        scheme: the bits most weights have, such as ``w8a8``; ``float32``; or ``unknown``.
        source: the file, or the name of the function.
        file_bytes: size of the file, 0 where there is none.
    """

    robustlab_access: Access = "scores"
    gradient: str = "none"
    scheme: str = "unknown"
    source: str = ""
    file_bytes: int = 0

    def layer_costs(self, images: Tensor) -> list[LayerCost]:
        """Costs of its layers for `images`, as far as they are known."""
        return []

    def stand_in(self, images: Tensor) -> Tensor | None:
        """Logits (N, K) of the surrogate whose gradient stands in; None for a model without one."""
        return None


class _StandIn(torch.autograd.Function):
    """Forward: what the runtime said. Backward: to the surrogate's logits."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, scores: Tensor) -> Tensor:
        """The runtime's scores."""
        return scores.to(surrogate.device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Hand the gradient to the surrogate."""
        return grads[0], None


def with_gradient_of(surrogate: Tensor, scores: Tensor) -> Tensor:
    """`scores` (N, K) of a model, with a gradient that goes to the logits (N, K) of its surrogate."""
    result: Tensor = _StandIn.apply(surrogate, scores)
    return result


def foreign_of(model: nn.Module) -> ForeignModel | None:
    """The model itself if it runs elsewhere, else None."""
    return model if isinstance(model, ForeignModel) else None
