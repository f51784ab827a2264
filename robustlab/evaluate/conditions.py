"""Conditions: what is done to the inputs in one cell of the evaluation grid.

A condition makes what the model is shown, and says afterwards whether that is inside its own threat model. Its key
carries its parameters, and its `version` is raised when its results change: both are part of every cell's key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from robustlab.attacks import ATTACKS, parse_attack
from robustlab.core import Ball
from robustlab.core.access import LEVELS, Access
from robustlab.core.errors import check_int, invalid
from robustlab.datasets.corruptions import CORRUPTIONS, corrupt, find, resolve
from robustlab.datasets.systematic.pipeline import REFERENCE_KEY
from robustlab.datasets.systematic.platforms import PLATFORMS
from robustlab.evaluate.shown import Shown, inside_box, nobody
from robustlab.evaluate.systematic import parse_systematic

KEY_PATTERN = re.compile(r"[a-z0-9.+-]+")
# As one writes it, and as keys spell it.
_ORIGINAL = re.compile(r"imagecorruptions[:-](?P<name>[a-z_-]+)-(?P<severity>[0-9]+)")
SEVERITIES = (1, 2, 3, 4, 5)


class AttackResult(Protocol):
    """What an attack hands back: images in its threat model, and which samples it could work on (bool (N,))."""

    @property
    def images(self) -> Tensor:
        """float32 (N, 3, H, W) in [0, 1]."""

    @property
    def attacked(self) -> Tensor:
        """bool (N,): False where logits or gradients that are not finite stopped the attack."""


class Attack(Protocol):
    """The part of an attack that a condition uses; see `robustlab.attacks`."""

    @property
    def ball(self) -> Ball:
        """The threat model."""

    @property
    def slug(self) -> str:
        """Key over [a-z0-9.+-]."""

    @property
    def version(self) -> int:
        """Raised when the attack's results change."""

    @property
    def needs_gradient(self) -> bool:
        """Whether the attack differentiates the model."""

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, keys: Tensor) -> AttackResult:
        """Attack a batch."""


class Condition(Protocol):
    """What the runner needs of a condition. Anything with these members can be part of a suite given as a list."""

    @property
    def key(self) -> str:
        """Name over the alphabet [a-z0-9.+-] that carries the parameters."""

    @property
    def version(self) -> int:
        """Raised when the condition's results change."""

    @property
    def parameters(self) -> str:
        """Every parameter in full, for the key of a cell."""

    @property
    def depends_on_model(self) -> bool:
        """False: the images are made once and shown to all models."""

    @property
    def adversarial(self) -> bool:
        """True: somebody tries to make the model fail, so that an answer that is not finite is no success."""

    @property
    def needs_gradient(self) -> bool:
        """Whether the model's gradient is used."""

    def show(self, images: Tensor, labels: Tensor, keys: Tensor, model: nn.Module | None) -> Shown:
        """Make what is shown in place of `images`; `model` is given where the condition depends on it."""

    def contains(self, shown: Tensor, images: Tensor) -> Tensor:
        """bool (N,), sample by sample: whether `shown` is inside the condition's threat model around `images`."""


@dataclass(frozen=True)
class Clean:
    """The images as they are."""

    key = "clean"
    version = 1
    parameters = ""
    depends_on_model = False
    adversarial = False
    needs_gradient = False

    def show(self, images: Tensor, labels: Tensor, keys: Tensor, model: nn.Module | None) -> Shown:
        """See `Condition.show`."""
        return Shown(images, nobody(images))

    def contains(self, shown: Tensor, images: Tensor) -> Tensor:
        """See `Condition.contains`."""
        return inside_box(shown)


@dataclass(frozen=True)
class CorruptionCondition:
    """A corruption of `robustlab.datasets.corruptions` at one severity, 1 (mild) to 5.

    Where the textures of ``frost`` are missing, the condition becomes ``frost_procedural``, and its key says so.
    """

    name: str
    severity: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", resolve(self.name))
        check_int("severity", self.severity, SEVERITIES[0], SEVERITIES[-1])

    @property
    def key(self) -> str:
        """Such as ``gaussian-noise-3``, or ``imagecorruptions-snow-3`` for that package's own."""
        return f"{self.name.replace('_', '-').replace(':', '-')}-{self.severity}"

    @property
    def version(self) -> int:
        """The corruption's version."""
        return find(self.name).version

    @property
    def parameters(self) -> str:
        """Name and severity."""
        return f"{self.name}/{self.severity}"

    depends_on_model = False
    adversarial = False
    needs_gradient = False

    def show(self, images: Tensor, labels: Tensor, keys: Tensor, model: nn.Module | None) -> Shown:
        """See `Condition.show`."""
        return Shown(corrupt(images, self.name, self.severity, keys), nobody(images))

    def contains(self, shown: Tensor, images: Tensor) -> Tensor:
        """See `Condition.contains`."""
        return inside_box(shown)


@dataclass(frozen=True)
class AttackCondition:
    """An attack of `robustlab.attacks`, or any object with the members of `Attack`."""

    attack: Attack

    @property
    def key(self) -> str:
        """The attack's slug, such as ``pgd20-linf-8of255``."""
        return self.attack.slug

    @property
    def version(self) -> int:
        """The attack's version."""
        return self.attack.version

    @property
    def parameters(self) -> str:
        """The attack's hyper-parameters in full: the slug leaves out defaults such as the step size."""
        return repr(self.attack)

    @property
    def needs_gradient(self) -> bool:
        """Whether the attack differentiates the model."""
        return self.attack.needs_gradient

    @property
    def access(self) -> Access:
        """What the attack must be given by the model."""
        declared: Access = getattr(self.attack, "access", "gradient" if self.needs_gradient else "scores")
        return declared

    depends_on_model = True
    adversarial = True

    def show(self, images: Tensor, labels: Tensor, keys: Tensor, model: nn.Module | None) -> Shown:
        """See `Condition.show`."""
        assert model is not None, "an attack is given its model"
        result = self.attack.run(model, images, labels, keys=keys)
        return Shown(result.images.detach(), result.attacked)

    def contains(self, shown: Tensor, images: Tensor) -> Tensor:
        """See `Condition.contains`."""
        return self.attack.ball.contains(shown, images)


def needed_access(condition: Condition) -> Access:
    """What a condition must be given by a model; ``labels`` where it asks it nothing but its verdict."""
    declared = getattr(condition, "access", "gradient" if condition.needs_gradient else "labels")
    return declared if declared in LEVELS else "gradient"


def needs_bits(condition: Condition) -> bool:
    """Whether a condition changes the bits of a model, which those that another runtime runs do not give."""
    return bool(getattr(condition, "needs_bits", False))


def _corruption_names() -> dict[str, str]:
    """Names as they are in keys (dashes) -> names of the corruptions (underscores)."""
    return {name.replace("_", "-"): name for name in CORRUPTIONS}


def _unknown(key: object) -> Exception:
    corruptions = sorted(_corruption_names())
    examples = [
        "clean",
        "fgsm-linf-2of255",
        "pgd20-linf-8of255",
        "transfer-pgd20-linf-8of255",
        "faults-bfa-8",
        "faults-random-16",
        *(f"{c}-{s}" for c in corruptions for s in SEVERITIES),
        *(f"platform-{name}-{s}" for name in PLATFORMS for s in SEVERITIES),
        REFERENCE_KEY,
    ]
    near = difflib.get_close_matches(str(key), examples, n=1)
    allowed = (
        f"clean, an attack ({', '.join(sorted(ATTACKS))}) such as pgd20-linf-8of255, "
        "transfer- before an attack, made on the other models of the run, "
        "faults such as faults-bfa-8 or faults-random-16, "
        f"a corruption and its severity 1-5 ({', '.join(corruptions)}) such as {corruptions[0]}-3, "
        "imagecorruptions: before it for that package's own, "
        f"a platform and its severity ({', '.join(PLATFORMS)}) such as platform-{next(iter(PLATFORMS))}-3, "
        f"or a pipeline such as {REFERENCE_KEY}"
    )
    return invalid("condition", key, allowed + (f" (did you mean {near[0]}?)" if near else ""))


def parse_condition(key: str) -> Condition:
    """The condition that a key names: ``clean``, ``fgsm-linf-2of255``, ``pgd20-linf-8of255``, ``gaussian-noise-3``.

    Raises `ArgumentError` that says what is allowed, with the nearest name.
    """
    if isinstance(key, str) and key.startswith("torchattacks:"):
        return AttackCondition(parse_attack(key))
    original = _ORIGINAL.fullmatch(key) if isinstance(key, str) else None
    if original is not None:
        name = f"imagecorruptions:{original['name'].replace('-', '_')}"
        return CorruptionCondition(name, check_int(f"severity of {key}", int(original["severity"]), 1, 5))
    if not isinstance(key, str) or not KEY_PATTERN.fullmatch(key):
        raise _unknown(key)
    if key == "clean":
        return Clean()
    if key.startswith("faults-"):
        from robustlab.evaluate.faulty import parse_faults  # which imports this module

        return parse_faults(key)
    if key.startswith("transfer-"):
        from robustlab.evaluate.transferred import parse_transfer  # which imports this module

        return parse_transfer(key)
    systematic = parse_systematic(key)
    if systematic is not None:
        return systematic
    corruptions = _corruption_names()
    name, _, severity = key.rpartition("-")
    if name in corruptions and re.fullmatch(r"[0-9]+", severity):
        return CorruptionCondition(corruptions[name], check_int(f"severity of {key}", int(severity), 1, 5))
    family = re.match(r"[a-z]*", key)
    if family is not None and family.group() in ATTACKS:
        return AttackCondition(parse_attack(key))
    raise _unknown(key)


def check_condition(condition: object) -> Condition:
    """Return `condition` (a key or an object) as a `Condition`; raise `ArgumentError` for anything else."""
    if isinstance(condition, str):
        return parse_condition(condition)
    members = ("key", "version", "parameters", "depends_on_model", "adversarial", "needs_gradient", "show", "contains")
    missing = [name for name in members if not hasattr(condition, name)]
    if missing:
        raise invalid(
            "condition", condition, f"a key such as pgd20-linf-8of255, or an object with {', '.join(missing)}"
        )
    if not KEY_PATTERN.fullmatch(condition.key):  # type: ignore[attr-defined]
        raise invalid("key of a condition", condition.key, "letters, digits and . + - in lower case")  # type: ignore[attr-defined]
    return condition  # type: ignore[return-value]


def check_conditions(conditions: Sequence[object]) -> tuple[Condition, ...]:
    """All conditions of a suite: at least one, each at most once."""
    if isinstance(conditions, str) or not conditions:
        raise invalid("conditions", conditions, "a list of at least one condition")
    parsed = tuple(check_condition(condition) for condition in conditions)
    keys = [condition.key for condition in parsed]
    for key in keys:
        if keys.count(key) > 1:
            raise invalid("conditions", key, "each condition once")
    return parsed
