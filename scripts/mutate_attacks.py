"""Break every attack in every way that fits it, and see whether the tests notice.

    python scripts/mutate_attacks.py --out benchmarks/mutations.json            # all of them, under an hour
    python scripts/mutate_attacks.py --only pgd square --breaks larger-ball

Each break is a run of the attacks' tests in which one class of attack misbehaves; a break that no test notices is a
hole in the tests, and the exit status is 1. Results are kept as they come: the same command goes on where it was.

Breaks: `idle` returns the images as they were; `larger-ball` and `smaller-ball` use another radius than they were given
(a minimum-norm attack without a radius goes half as far again as it had to); `no-projection` stays in [0, 1] but not in
the ball; `uphill` turns every gradient, or the loss of a score-based attack, around; `detached` sees only zeros for
gradients.

Run it outside the checkout's root, which must not be where Python looks for robustlab.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/attacks", "tests/core/test_balls.py")
EQUIVALENT = {"fgsm:no-projection", "square:no-projection"}
"""Breaks that change nothing: one step of length eps never leaves the ball, and Square scales what it draws to eps."""
LOSSES = ("cross_entropy", "margin", "dlr", "targeted_dlr")


def breaks_of(attack: Any) -> tuple[str, ...]:
    """The breaks that fit an attack class."""
    names = ["idle", "larger-ball", "smaller-ball"]
    if attack.bounded:
        names.append("no-projection")
    if attack.access == "gradient":
        names += ["uphill", "detached"]
    elif attack.access == "scores":
        names.append("uphill")
    return tuple(names)


def break_attack(attack: Any, name: str) -> None:
    """Replace `attack._attack` by one that misbehaves."""
    original = attack._attack
    scale = {"larger-ball": 1.5, "smaller-ball": 0.5}.get(name, 1.0)

    def broken(self: Any, victim: Any, origin: Any, goal: Any, keys: Any) -> Any:
        if name == "idle":
            return origin.clone(), torch.ones(len(origin), dtype=torch.bool)
        other = self
        if scale != 1 and math.isfinite(self.ball.eps):
            other = _with_ball(self, dataclasses.replace(self.ball, eps=self.ball.eps * scale))
        if name == "no-projection":
            other = _with_ball(self, _loose(self.ball))
        with _gradients({"uphill": -1.0, "detached": 0.0}.get(name, 1.0)), _losses(attack, name == "uphill"):
            images, attacked = original(other, victim, origin, goal, keys)
        if scale != 1 and not math.isfinite(self.ball.eps):
            images = (origin + scale * (images - origin)).clamp(0, 1)
        return images, attacked

    attack._attack = broken


def _with_ball(attack: Any, ball: Any) -> Any:
    copy = object.__new__(type(attack))
    for field in dataclasses.fields(attack):
        object.__setattr__(copy, field.name, getattr(attack, field.name))
    object.__setattr__(copy, "ball", ball)
    return copy


def _loose(ball: Any) -> Any:
    """A ball of the same kind and radius whose projection forgets the radius."""

    def project(self: Any, x: Any, origin: Any) -> Any:
        return torch.where(torch.isnan(x), origin, x).clamp(0, 1)

    kind = type("Loose", (type(ball),), {"project": project})
    copy = object.__new__(kind)
    for field in dataclasses.fields(ball):
        object.__setattr__(copy, field.name, getattr(ball, field.name))
    return copy


@contextmanager
def _gradients(factor: float) -> Iterator[None]:
    if factor == 1:
        yield
        return
    true, inside = torch.autograd.grad, False

    def false(*arguments: Any, **options: Any) -> Any:
        nonlocal inside
        if inside:  # Where torch functions are intercepted, torch asks itself again by name.
            return true(*arguments, **options)
        inside = True
        try:
            return tuple(None if g is None else g * factor for g in true(*arguments, **options))
        finally:
            inside = False

    with mock.patch.object(torch.autograd, "grad", false):
        yield


@contextmanager
def _losses(attack: Any, turned: bool) -> Iterator[None]:
    """Turn the losses around that the module of a score-based attack uses."""
    module = sys.modules[attack.__module__]
    names = [name for name in LOSSES if hasattr(module, name)] if turned and attack.access == "scores" else []

    def opposite(loss: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: -loss(*arguments)

    patches = [mock.patch.object(module, name, opposite(getattr(module, name))) for name in names]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def _classes() -> dict[str, Any]:
    from robustlab.attacks import registry

    return {attack.name: attack for attack in registry._CLASSES}


class FirstFailure:
    """A pytest plugin: the first test that failed."""

    test = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Pytest's hook."""
        if report.failed and not self.test:
            self.test = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        """Pytest's hook."""
        self.pytest_runtest_logreport(report)


def run_tests(attack: Any, kind: str) -> tuple[int, str]:
    """Exit status of pytest while `attack` is broken, and the first test that failed; its family's tests come first."""
    own = f"tests/attacks/{attack.__module__.split('.')[-2]}" if attack is not None else ""
    paths = [own, *TESTS] if own and (ROOT / own).is_dir() else TESTS
    seen = FirstFailure()
    original = None if attack is None else attack.__dict__.get("_attack")
    inherited = attack is not None and original is None
    if attack is not None:
        break_attack(attack, kind)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            arguments = [
                "-p",
                "no:cacheprovider",
                "-x",
                "-q",
                "--rootdir",
                str(ROOT),
                "-c",
                str(ROOT / "pyproject.toml"),
            ]
            status = pytest.main([*arguments, *(str(ROOT / path) for path in paths)], plugins=[seen])
    finally:
        if inherited:
            del attack._attack
        elif attack is not None:
            attack._attack = original
    return int(status), seen.test


def main() -> int:
    """Run what is not known yet, keep it, and say which breaks went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    classes = _classes()
    parser.add_argument("--only", nargs="+", choices=sorted(classes), default=sorted(classes))
    parser.add_argument("--breaks", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("mutations.json"))
    options = parser.parse_args()
    known: dict[str, str] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if not known:
        status, failed = run_tests(None, "")
        print(f"unbroken: exit {status} {failed}", flush=True)
        if status != 0:
            return 2
    for name in options.only:
        for kind in breaks_of(classes[name]):
            key = f"{name}:{kind}"
            if key in known or key in EQUIVALENT or (options.breaks and kind not in options.breaks):
                continue
            begin = time.monotonic()
            status, noticed = run_tests(classes[name], kind)
            if status not in (0, 1):
                print(f"{key}: pytest ended with {status}; {noticed}")
                return 2
            known[key] = noticed
            print(f"{key}: {noticed or 'NOT NOTICED'} ({time.monotonic() - begin:.0f} s)", flush=True)
            temporary = options.out.with_suffix(".tmp")
            temporary.write_text(json.dumps(known, indent=2) + "\n")
            temporary.replace(options.out)
    missed = [key for key, noticed in known.items() if not noticed]
    print(f"{len(known) - len(missed)} of {len(known)} breaks noticed" + "".join(f"\nnot noticed: {m}" for m in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
