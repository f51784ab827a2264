"""PGD: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, section 2.1.

x(t+1) = Projection(x(t) + alpha * ascent(grad_x J(x(t), y))), ascent = sign for l_inf, g / ||g||_2 for l_2, and for l_1
equal parts on the 1 % largest values (Tramer and Boneh, "Adversarial training and robustness for multiple
perturbations", NeurIPS 2019, section 4.1), with the projection onto ball and box at once (Croce and Hein, "Mind the
box", ICML 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustlab.attacks._goal import LOSSES
from robustlab.attacks._slugs import Option, check_flag
from robustlab.attacks.gradient._loop import GradientAttack, Schedule
from robustlab.core.errors import check_choice, check_int, check_number, invalid

_RELATIVE_STEP = 2.5  # Madry et al. 2018, section 5: "2.5 eps / steps", so that every corner of the ball is in reach.


@dataclass(frozen=True)
class PGD(GradientAttack):
    """Projected steepest ascent of a loss, from a uniform draw in the ball.

    The last iterate is returned, and for a sample that is broken earlier the iterate that broke it. Published for
    CIFAR-10 with Linf(8/255): 7 steps (training) and 20 steps (evaluation) of 2/255, random start, cross-entropy; with
    the margin loss of Carlini & Wagner, 30 steps, in the same paper.

    Attributes:
        steps: number of gradient steps, at least 1.
        step_size: length of a step in the ball's norm and image units, > 0; None means 2.5 * eps / steps.
        random_start: start at a uniform draw in the ball, or at the image.
        loss: "ce" (cross-entropy), "margin" (largest other logit minus the label's) or "dlr" (difference of logits
            ratio, Croce & Hein 2020; at least 3 classes, 4 with targets).
        restarts: number of random starts; a sample takes another only while it survives, and the iterate with the
            largest loss is kept. More than 1 needs a random start.
        eot: gradients averaged in each step (expectation over the randomness of the model, Athalye et al. 2018).
        full: make all steps even after the goal is reached, for images that are to move other models too.

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
    loss: Literal["ce", "margin", "dlr"] = "ce"
    restarts: int = 1
    eot: int = 1
    full: bool = False

    name: ClassVar[str] = "pgd"
    options: ClassVar[tuple[Option, ...]] = (
        Option("step_size", "step", "number"),
        Option("random_start", "nostart", "flag"),
        Option("loss", "", "choice", ("ce", "margin", "dlr")),
        Option("restarts", "restarts", "int"),
        Option("eot", "eot", "int"),
        Option("full", "full", "flag"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        if self.step_size is not None:
            check_number("step_size", self.step_size, 0.0, open_low=True)
        check_flag("random_start", self.random_start)
        check_choice("loss", self.loss, LOSSES)
        check_int("restarts", self.restarts, 1)
        check_int("eot", self.eot, 1)
        check_flag("full", self.full)
        if self.restarts > 1 and not self.random_start:
            raise invalid("restarts", self.restarts, "1 without a random start, since every start would be the same")

    @property
    def draws(self) -> int:
        """`eot`."""
        return self.eot

    @property
    def schedule(self) -> Schedule:
        """The step size with its default filled in."""
        step_size = _RELATIVE_STEP * self.ball.eps / self.steps if self.step_size is None else self.step_size
        return Schedule(
            self.ball,
            self.steps,
            step_size,
            self.random_start,
            loss=LOSSES[self.loss],
            restarts=self.restarts,
            full=self.full,
        )
