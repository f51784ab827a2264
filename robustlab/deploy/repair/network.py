"""A network with its backward pass repaired."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.deploy.repair.graph import repair_graph
from robustlab.deploy.repair.interception import Repair, Scope


class Repaired(nn.Module):
    """A network with its backward pass repaired, or, with `smooth`, with steps smoothed forward as well.

    Args:
        model: images (N, C, H, W) -> logits (N, K).
        scope: what is repaired. ``rounding``: rounding, signs, casts to whole numbers and quantizers; ``steps``: also
            comparisons, and functions of one's own whose backward is 0; ``all``: also what saturates, ripples or left
            the graph.
        smooth: run a smooth network instead.

    Attributes:
        seen: names of what was repaired in any call so far.

    Shape: images (N, C, H, W) -> logits (N, K); with ``smooth=False`` exactly those of the network.
    """

    def __init__(self, model: nn.Module, *, scope: Scope = "all", smooth: bool = False) -> None:
        super().__init__()
        self.model = model
        self.scope: Scope = scope
        self.smooth = smooth
        self.seen: set[str] = set()

    def forward(self, images: Tensor) -> Tensor:
        """Logits, with a gradient towards `images` if that is asked for."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            logits: Tensor = self.model(images)
            return logits
        with Repair(images, scope=self.scope, smooth=self.smooth) as mode:
            logits = self.model(images)
        self.seen |= mode.seen
        if logits.requires_grad:
            self.seen |= repair_graph(logits, functions=self.scope != "rounding")
        return logits
