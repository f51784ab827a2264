"""Random faults: bits drawn evenly from a model's memory, the control beside every search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor, nn

from robustlab.attacks.faults._memory import PARTS, Flip, Memory
from robustlab.attacks.faults.curve import FaultCurve, FaultPoint, Judge
from robustlab.core import Progress, SilentProgress, frozen
from robustlab.core.errors import ArgumentError, check_choice, check_int, check_number, invalid
from robustlab.core.keys import generators, sample_keys
from robustlab.deploy import unoptimized

_CHUNK = 256


@dataclass(frozen=True)
class RandomFlips:
    """Flips of bits drawn without replacement, each bit of the chosen parts as likely as any other.

    Attributes:
        count: how many bits, at least 1; None to draw it from `rate`.
        rate: the chance of each bit to flip, in (0, 1]; the number of flips is drawn from that binomial.
        parts: of `robustlab.attacks.FAULT_PARTS`.
        seed: of the draw. The first n of more flips of one seed are its n flips.
        version: raised when the results of the same parameters change.

    Bits that give a number the kernels refuse are drawn again: see `Memory`. Raises `ArgumentError` for bad parameters.

    Example: ``with flipped(model, RandomFlips(16).draw(model)): ...``
    """

    count: int | None = None
    rate: float | None = None
    parts: tuple[str, ...] = ("weights",)
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        if (self.count is None) == (self.rate is None):
            raise invalid("count", self.count, f"a number of bits, or None beside a rate, which is {self.rate!r}")
        if self.count is not None:
            check_int("count", self.count, 1)
        if self.rate is not None:
            check_number("rate", self.rate, 0.0, 1.0, open_low=True)
        check_parts(self.parts)
        check_int("seed", self.seed, 0)

    @property
    def slug(self) -> str:
        """Such as ``random-16``, ``random-rate1e-05-scales``."""
        amount = str(self.count) if self.rate is None else f"rate{self.rate:g}"
        return "-".join([f"random-{amount}", *parts_slug(self.parts)])

    def draw(self, model: nn.Module) -> tuple[Flip, ...]:
        """The flips, in order, for the memory of `model`, which is left as it is.

        Raises `ArgumentError` if the model has fewer bits than are to be flipped.
        """
        memory = Memory(unoptimized(model), self.parts)
        count = self.count
        if self.rate is not None:
            key = sample_keys(self.seed, "faults-random-count", [0])
            count = int(next(generators(key)).binomial(memory.bits, self.rate))
        assert count is not None
        with memory:
            return tuple(islice(self._stream(memory, count), count))

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: Progress | None = None) -> FaultCurve:
        """Flip bit after bit until at most half of the clean accuracy is left, or `count` bits are flipped.

        Accuracy is measured at 1, 2, 3, 4, 6, 8, 12, ... flips, and where it first is halved the smallest number of
        flips with that is found by bisection (accuracy need not fall with every flip). The model is left as it was.

        Args: images float32 (N, C, H, W) in [0, 1]; labels int64 (N,).
        """
        progress = progress or SilentProgress()
        model = unoptimized(model)
        flips = self.draw(model)
        steps = _ladder(len(flips))
        points: dict[int, FaultPoint] = {}
        progress.start("random flips", len(steps))
        try:
            with frozen(model), Memory(model, self.parts) as memory:
                judge = Judge(model, images, labels)

                def measure(count: int) -> FaultPoint:
                    if count > len(memory.flipped):
                        memory.flip(flips[len(memory.flipped) : count])
                    memory.undo(len(memory.flipped) - count)
                    return points.setdefault(count, judge(count))

                half, last, stopped = measure(0).accuracy / 2, 0, "all bits flipped"
                for step in steps:
                    point = measure(step)
                    progress.advance(1, f"{step} bits · {100 * point.accuracy:.1f} %")
                    if point.accuracy <= half:
                        _bisect(last, step, half, measure)
                        stopped = "half of the accuracy lost"
                        break
                    last = step
                return FaultCurve(flips, tuple(points[n] for n in sorted(points)), memory.bits, stopped)
        finally:
            progress.finish()

    def _stream(self, memory: Memory, count: int) -> Iterator[Flip]:
        """Bits in the order of the draw; flips them in `memory` one by one, since what is refused depends on that."""
        if count > memory.bits:
            raise invalid("count", count, f"at most the {memory.bits} bits of {', '.join(self.parts)}")
        generator = next(generators(sample_keys(self.seed, f"faults-random-{'+'.join(self.parts)}", [0])))
        seen: set[int] = set()
        while len(seen) < memory.bits:
            for index in generator.integers(memory.bits, size=_CHUNK).tolist():
                if index in seen:
                    continue
                seen.add(index)
                flip = memory.at(index)
                try:
                    memory.flip([flip])
                except ArgumentError:
                    continue
                yield flip


def _ladder(count: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... and `count`."""
    steps = sorted({n for power in range(count.bit_length()) for n in (1 << power, 3 << power) if n < count})
    return [*steps, count] if count else []


def _bisect(low: int, high: int, half: float, measure: Callable[[int], FaultPoint]) -> None:
    """Measure between `low` flips, above `half`, and `high`, at most `half`, until they are neighbours."""
    while high - low > 1:
        middle = (low + high) // 2
        if measure(middle).accuracy <= half:
            high = middle
        else:
            low = middle


def check_parts(parts: object) -> None:
    """Raise `ArgumentError` unless `parts` is a tuple of at least one of `PARTS`, each once."""
    if not isinstance(parts, tuple) or not parts or len(set(parts)) != len(parts):
        raise invalid("parts", parts, f"a tuple of at least one of {', '.join(PARTS)}, each once")
    for part in parts:
        check_choice("part", part, PARTS)


def parts_slug(parts: Sequence[str]) -> list[str]:
    """What a slug says of the parts: nothing of weights alone."""
    return [] if tuple(parts) == ("weights",) else ["+".join(parts)]
