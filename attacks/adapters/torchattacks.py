"""Any attack of torchattacks (Kim 2020, "Torchattacks: a PyTorch repository for adversarial attacks") by its name.

The attack runs on the model as shipped, also where that is integer kernels with a surrogate gradient. torchattacks
draws from torch's global random state and looks at whole batches: here it is given one tile at a time and a state
made from the tile's keys, so a run repeats, but a sample's result depends on the samples of its tile.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import inspect
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustlab.attacks._attack import Attack, look
from robustlab.attacks._goal import Goal, finite_rows
from robustlab.attacks._victim import Victim, logits_of
from robustlab.core import Ball, RobustlabError
from robustlab.core.balls import BALLS, format_eps
from robustlab.core.errors import check_choice, check_int, check_number, invalid
from robustlab.core.tiles import DEFAULT_TILE, tiles

PREFIX = "torchattacks:"
_L2 = ("CW", "DeepFool", "PGDL2", "PGDRSL2", "EADEN")
_L1 = ("EADL1",)
_L0 = ("JSMA", "OnePixel", "Pixle", "SparseFool")
_FREE = ("GN", "VANILA")
_LABEL_ONLY = ("OnePixel", "Pixle")
_NOT_OFFERED = ("LGV", "MultiAttack", "PGDRS", "PGDRSL2")
"""They train or wrap models, combine attack objects, or want an object as argument."""

_COUNTS = (
    "binary_search_steps", "eot_iter", "inf_batch", "m", "max_iterations", "n_classes", "n_queries", "n_restarts",
    "nb_iter", "nb_sample", "N", "pixels", "popsize", "restarts", "steps",
)  # fmt: skip
"""Arguments that must be whole numbers from 1 on: torchattacks takes others, and does nothing."""
_LENGTHS = ("alpha", "delta", "lr", "std", "theta")
"""Arguments that must be above 0: torchattacks takes others, and walks the other way."""


@dataclass(frozen=True)
class TorchAttack(Attack):
    """An attack class of torchattacks with its arguments, ``TorchAttack("PGD", {"eps": 8 / 255, "steps": 10})``.

    Needs torchattacks (``pip install 'robustlab[reference]'``). What it returns must be in the ball that its arguments
    state, else the run ends with a `RobustlabError`: the number would belong to another threat model.

    Attributes:
        attack: the name of the class.
        arguments: its keyword arguments, numbers, strings, True or False; the others are torchattacks' defaults.
        ball: the threat model that they state; an infinite radius for attacks without `eps`.

    Shape: images (N, C, H, W), labels (N,) -> images (N, C, H, W).
    """

    attack: str = ""
    arguments: Mapping[str, object] = field(default_factory=dict, hash=False)

    name: ClassVar[str] = "torchattacks"
    norms: ClassVar[tuple[str, ...]] = tuple(BALLS)
    bounded: ClassVar[bool] = False

    def __init__(self, attack: str, arguments: Mapping[str, object] | None = None) -> None:
        chosen = dict(sorted((arguments or {}).items()))
        object.__setattr__(self, "attack", attack)
        object.__setattr__(self, "arguments", chosen)
        object.__setattr__(self, "ball", _ball(attack, chosen))
        super().__post_init__()

    @property
    def slug(self) -> str:
        """Such as ``torchattacks-pgd-linf-8of255-steps10``; `parse` reads ``torchattacks:PGD(eps=8/255,steps=10)``."""
        parts = [f"{key}{_written(value)}" for key, value in self.arguments.items() if key not in ("eps", "norm")]
        text = "-".join([self.name, self.attack.lower(), self.ball.slug, *parts])
        clean = re.sub(r"[^a-z0-9.+-]", "", text.lower())
        if clean == text:
            return text
        return f"{clean}-{hashlib.sha256(repr(self).encode()).hexdigest()[:6]}"

    @classmethod
    def parse(cls, spec: str) -> TorchAttack:
        """The attack of ``torchattacks:NAME(key=value, ...)``; values are numbers, 8/255, 'text', True or False.

        Raises `ArgumentError` that says what is allowed. Nothing of the text is executed.
        """
        allowed = "torchattacks:NAME or torchattacks:NAME(key=value, ...), values like 8/255, 10, 'Linf', True"
        try:
            tree = ast.parse(spec.removeprefix(PREFIX).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise invalid("attack", spec, allowed) from error
        if isinstance(tree, ast.Name):
            return cls(tree.id)
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)) or tree.args:
            raise invalid("attack", spec, allowed)
        arguments: dict[str, object] = {}
        for keyword in tree.keywords:
            if keyword.arg is None:
                raise invalid("attack", spec, allowed)
            arguments[keyword.arg] = _value(keyword.value, spec, allowed)
        return cls(tree.func.id, arguments)

    def _attack(self, victim: Victim, origin: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        rows, _, attacked = look(victim, origin, goal)
        result = origin.clone()
        if not len(rows):
            return result, attacked
        door = _Door(victim).eval()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # It prints where others raise or log.
                foreign = _attack_class(self.attack)(door, **self.arguments)
        except Exception as error:
            raise invalid(
                "arguments", dict(self.arguments), f"what torchattacks.{self.attack} takes: {error}"
            ) from error
        if goal.targets is not None:
            if "targeted" not in foreign.supported_mode:
                raise invalid("targets", "a tensor", f"None: torchattacks.{self.attack} has no targeted version")
            foreign.set_mode_targeted_by_label(quiet=True)
        for start, stop in tiles(len(rows), DEFAULT_TILE):
            part = rows[start:stop]
            found, sound = self._run(foreign, door, origin[part], goal.at(part), keys[part.to(keys.device)])
            result[part], attacked[part] = found, sound
            passes = -(-door.passes // len(part))  # A foreign attack does not say whom it asked about: the mean.
            victim.queries[part.cpu()] += passes
            victim.gradients[part.cpu()] += -(-door.gradients // len(part))
            door.passes = door.gradients = 0
        self._check(result, origin)
        return result, attacked

    def _run(self, foreign: Any, door: _Door, images: Tensor, goal: Goal, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Images of one tile, and which of them were attacked with finite numbers all the way."""
        seed = int(keys.cpu().numpy().view(np.uint64).sum(dtype=np.uint64)) % (1 << 63)
        torch.manual_seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002
        door.sound = True
        wanted = goal.labels if goal.targets is None else goal.targets
        with torch.enable_grad():
            found = foreign(images.clone(), wanted.clone())
        if not isinstance(found, Tensor) or found.shape != images.shape:
            raise RobustlabError(f"torchattacks.{self.attack} returned no images {tuple(images.shape)}")
        found = found.detach().to(images.dtype)
        sound = finite_rows(found) & door.sound
        return torch.where(sound.reshape(-1, 1, 1, 1), found, images), sound

    def _check(self, result: Tensor, origin: Tensor) -> None:
        inside = self.ball.contains(result, origin)
        if not bool(inside.all()):
            raise RobustlabError(
                f"torchattacks.{self.attack} left its threat model {self.ball.slug} on {int((~inside).sum())} of"
                f" {len(inside)} images; allowed: inside it"
            )


class _Door(nn.Module):
    """The model as torchattacks sees it: with a parameter, whose device it asks for, and counted."""

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self.network = victim.network
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.passes = self.gradients = 0
        self.sound = True

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits = logits_of(self.network, images)
        self.passes += len(images)
        self.gradients += len(images) * logits.requires_grad
        self.sound = self.sound and bool(torch.isfinite(logits).all())
        return logits


def _library() -> ModuleType:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module("torchattacks")
    except ImportError as error:
        raise invalid(
            "attack", "torchattacks:...", "torchattacks where it is installed: pip install 'robustlab[reference]'"
        ) from error


def _attack_class(name: str) -> Any:
    library = _library()
    base = importlib.import_module("torchattacks.attack").Attack
    offered = sorted(
        key
        for key, value in vars(library).items()
        if isinstance(value, type) and issubclass(value, base) and key not in _NOT_OFFERED
    )
    check_choice("attack of torchattacks", name, offered)
    return getattr(library, name)


def _ball(name: str, arguments: Mapping[str, object]) -> Ball:
    """The threat model that a class and its arguments state."""
    signature = inspect.signature(_attack_class(name)).parameters
    known = [key for key in signature if key != "model"]
    for key, value in arguments.items():
        check_choice(f"argument of torchattacks.{name}", key, known)
        if not isinstance(value, (bool, int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
            raise invalid(f"{key} of torchattacks.{name}", value, "a finite number, a string, True or False")

        if key in _COUNTS:
            check_int(f"{key} of torchattacks.{name}", value, 1)
        elif key in _LENGTHS:
            check_number(f"{key} of torchattacks.{name}", value, 0.0, open_low=True)

    def argument(key: str) -> object:
        return arguments[key] if key in arguments else signature[key].default

    norm = "l2" if name in (*_L2, *_FREE) else "l1" if name in _L1 else "l0" if name in _L0 else "linf"
    if "norm" in signature:
        norm = str(argument("norm")).lower()
    check_choice(f"norm of torchattacks.{name}", norm, tuple(BALLS))
    eps = argument("eps") if "eps" in signature else math.inf
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise invalid(f"eps of torchattacks.{name}", eps, "a finite number >= 0")
    return BALLS[norm](float(eps))


def _written(value: object) -> str:
    if isinstance(value, float):
        return format_eps(value) if value >= 0 else repr(value)
    return str(value)


def _value(node: ast.expr, spec: str, allowed: str) -> object:
    """A literal, a negative number, or a fraction of two numbers."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str)):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, spec, allowed)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return -number
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        above, below = (_value(part, spec, allowed) for part in (node.left, node.right))
        if isinstance(above, (int, float)) and isinstance(below, (int, float)) and below:
            return above / below
    raise invalid("attack", spec, allowed)
