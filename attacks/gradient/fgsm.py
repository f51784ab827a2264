"""FGSM: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, section 4.

x' = x + eps * sign(grad_x J(x, y)) for the l_inf ball; x' = x + eps * g / ||g||_2 for the l_2 ball; in the l_1 ball the
step goes in equal parts to the 1 % of the values with the largest gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustlab.attacks.gradient._loop import GradientAttack, Schedule


@dataclass(frozen=True)
class FGSM(GradientAttack):
    """One step of length eps along the steepest ascent of the cross-entropy, from the image itself.

    Published with eps 0.25 on MNIST and 0.1 on CIFAR-10; 1/255 to 8/255 are usual today.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> import torch
        >>> from robustlab.core import Linf
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.full((2, 3, 2, 2), 0.5)
        >>> labels = model(images).argmax(dim=1)
        >>> adversarial = FGSM(Linf(8 / 255))(model, images, labels)
        >>> bool(Linf(8 / 255).contains(adversarial, images).all())
        True
    """

    name: ClassVar[str] = "fgsm"

    @property
    def schedule(self) -> Schedule:
        """One step of length eps, no random start."""
        return Schedule(self.ball, steps=1, step_size=self.ball.eps, random_start=False)
