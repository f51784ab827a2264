"""PGD: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, section 2.1.

x(t+1) = Projection(x(t) + alpha * ascent(grad_x J(x(t), y))), ascent = sign for l_inf and g / ||g||_2 for l_2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustlab.attacks._slugs import Option, check_flag
from robustlab.attacks.gradient._loop import GradientAttack, Schedule
from robustlab.core.errors import check_int, check_number

_RELATIVE_STEP = 2.5  # Madry et al. 2018, section 5: "2.5 eps / steps", so that every corner of the ball is in reach.


@dataclass(frozen=True)
class PGD(GradientAttack):
    """Projected steepest ascent of the cross-entropy, from a uniform draw in the ball.

    The last iterate is returned, and for a sample that is broken earlier the iterate that broke it. Published for
    CIFAR-10 with Linf(8/255): 7 steps (training) and 20 steps (evaluation) of 2/255, random start.

    Attributes:
        steps: number of gradient steps, at least 1.
        step_size: length of a step in the ball's norm and image units, > 0; None means 2.5 * eps / steps.
        random_start: start at a uniform draw in the ball, or at the image.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).

    Example:
        >>> import torch
        >>> from robustlab.core import L2
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images = torch.full((2, 3, 2, 2), 0.5)
        >>> labels = model(images).argmax(dim=1)
        >>> attack = PGD(L2(0.5), steps=5, random_start=False)
        >>> attack.slug
        'pgd5-l2-0.5-nostart'
        >>> bool(L2(0.5).contains(attack(model, images, labels), images).all())
        True
    """

    steps: int = 20
    step_size: float | None = None
    random_start: bool = True

    name: ClassVar[str] = "pgd"
    options: ClassVar[tuple[Option, ...]] = (
        Option("step_size", "step", "number"),
        Option("random_start", "nostart", "flag"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        if self.step_size is not None:
            check_number("step_size", self.step_size, 0.0, open_low=True)
        check_flag("random_start", self.random_start)

    @property
    def schedule(self) -> Schedule:
        """The step size with its default filled in."""
        step_size = _RELATIVE_STEP * self.ball.eps / self.steps if self.step_size is None else self.step_size
        return Schedule(self.ball, self.steps, step_size, self.random_start)
