"""BIM and the momentum family: steps of eps / steps from the image itself, all of them made, for images that transfer.

Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", ICLR workshop 2017 (BIM);
Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018 (MI-FGSM);
Xie et al., "Improving transferability of adversarial examples with input diversity", CVPR 2019 (DI-FGSM);
Dong et al., "Evading defenses to transferable adversarial examples by translation-invariant attacks", CVPR 2019 (TI).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustlab.attacks._slugs import Option
from robustlab.attacks.gradient._diversity import Diversity
from robustlab.attacks.gradient._loop import GradientAttack, Schedule
from robustlab.core.errors import check_int, check_number, invalid

_STEP = Option("step_size", "step", "number")
_DECAY = Option("decay", "decay", "number")


@dataclass(frozen=True)
class _Iterative(GradientAttack):
    """Steps of one length from the image itself.

    Attributes:
        steps: number of gradient steps, at least 1.
        step_size: length of a step in the ball's norm and image units, > 0; None means eps / steps.
    """

    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("steps", self.steps, 1)
        if self.step_size is not None:
            check_number("step_size", self.step_size, 0.0, open_low=True)

    @property
    def _length(self) -> float:
        return self.ball.eps / self.steps if self.step_size is None else self.step_size


@dataclass(frozen=True)
class BIM(_Iterative):
    """Iterated FGSM from the image itself; a sample leaves with the first iterate that reaches the goal.

    Kurakin et al. 2017 take steps of 1/255, as many as min(L + 4, 1.25 L) for a radius of L levels: for 8/255 that is
    ``BIM(Linf(8 / 255), steps=10, step_size=1 / 255)``. The default step, eps / steps, is that of Dong et al. 2018.

    Attributes:
        steps: number of gradient steps, at least 1.
        step_size: length of a step in the ball's norm and image units, > 0; None means eps / steps.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).
    """

    name: ClassVar[str] = "bim"
    options: ClassVar[tuple[Option, ...]] = (_STEP,)

    @property
    def schedule(self) -> Schedule:
        """The step size with its default filled in."""
        return Schedule(self.ball, self.steps, self._length, random_start=False)


@dataclass(frozen=True)
class MIFGSM(_Iterative):
    """Momentum iterative FGSM: every step follows a decaying sum of l1-normalised gradients.

    All steps are made, since the images are meant to move other models too. The last iterate is returned; where it does
    not reach the goal, but an earlier one did, the latest of those. Published with 10 steps of eps / 10 and decay 1.

    Attributes:
        steps: number of gradient steps, at least 1.
        step_size: length of a step in the ball's norm and image units, > 0; None means eps / steps.
        decay: of the sum of gradients, >= 0.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).
    """

    decay: float = 1.0

    name: ClassVar[str] = "mifgsm"
    options: ClassVar[tuple[Option, ...]] = (_STEP, _DECAY)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decay", self.decay, 0.0)

    @property
    def schedule(self) -> Schedule:
        """Momentum, no random start."""
        return Schedule(self.ball, self.steps, self._length, random_start=False, decay=self.decay, full=True)


@dataclass(frozen=True)
class DIFGSM(_Iterative):
    """Diverse-input iterative FGSM: in each step the model is shown a randomly shrunk and padded image.

    All steps are made and the last iterate is returned, unseen: what the model answered was about another image. The
    draws are keyed for every sample and step. Published for 299 pixels and sizes from 0.9 of the largest, probability
    0.5 and 10 steps; with ``decay=1`` it is the published M-DI-FGSM.

    Attributes:
        steps: number of gradient steps, at least 1.
        step_size: length of a step in the ball's norm and image units, > 0; None means eps / steps.
        decay: of the sum of gradients (see `MIFGSM`), >= 0; 0: none.
        probability: of the transformation, in [0, 1].
        resize_rate: the smallest size as a part of the image's own, in (0, 1].

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).
    """

    decay: float = 0.0
    probability: float = 0.5
    resize_rate: float = 0.9

    name: ClassVar[str] = "difgsm"
    options: ClassVar[tuple[Option, ...]] = (
        _STEP,
        _DECAY,
        Option("probability", "p", "number"),
        Option("resize_rate", "resize", "number"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decay", self.decay, 0.0)
        check_number("probability", self.probability, 0.0, 1.0)
        check_number("resize_rate", self.resize_rate, 0.0, 1.0, open_low=True)

    @property
    def schedule(self) -> Schedule:
        """Diverse inputs, no random start."""
        diversity = Diversity(self.probability, self.resize_rate)
        return Schedule(
            self.ball, self.steps, self._length, random_start=False, decay=self.decay, diversity=diversity, full=True
        )


@dataclass(frozen=True)
class TIFGSM(_Iterative):
    """Translation-invariant iterative FGSM: the gradient is smoothed by a Gaussian kernel.

    All steps are made, as in `MIFGSM`. Published with a kernel of 15 pixels that spans 3 standard deviations to each
    side and 10 steps; ``decay=1`` is the published MI-TI-FGSM, and ``probability=0.5`` with it TI-DIM.

    Attributes:
        steps: number of gradient steps, at least 1.
        step_size: length of a step in the ball's norm and image units, > 0; None means eps / steps.
        decay: of the sum of gradients (see `MIFGSM`), >= 0; 0: none.
        probability: of showing the model a randomly resized image (see `DIFGSM`), in [0, 1].
        kernel: width of the kernel in pixels, odd, at least 1.
        sigma: how many standard deviations the kernel spans to each side, > 0.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).
    """

    decay: float = 0.0
    probability: float = 0.0
    kernel: int = 15
    sigma: float = 3.0

    name: ClassVar[str] = "tifgsm"
    options: ClassVar[tuple[Option, ...]] = (
        _STEP,
        _DECAY,
        Option("probability", "p", "number"),
        Option("kernel", "kernel", "int"),
        Option("sigma", "sigma", "number"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decay", self.decay, 0.0)
        check_number("probability", self.probability, 0.0, 1.0)
        check_int("kernel", self.kernel, 1)
        if self.kernel % 2 == 0:
            raise invalid("kernel", self.kernel, "an odd whole number >= 1")
        check_number("sigma", self.sigma, 0.0, open_low=True)

    @property
    def schedule(self) -> Schedule:
        """A smoothed gradient, no random start."""
        return Schedule(
            self.ball,
            self.steps,
            self._length,
            random_start=False,
            decay=self.decay,
            smoothing=gaussian_kernel(self.kernel, self.sigma),
            diversity=Diversity(self.probability, 0.9) if self.probability else None,
            full=True,
        )


def gaussian_kernel(width: int, sigma: float) -> Tensor:
    """float64 (width, width), summing to 1: a Gaussian whose edges lie `sigma` standard deviations from its centre."""
    line = torch.exp(-(torch.linspace(-sigma, sigma, width, dtype=torch.float64) ** 2) / 2)
    square = torch.outer(line, line) if width > 1 else torch.ones(1, 1, dtype=torch.float64)
    return square / square.sum()
