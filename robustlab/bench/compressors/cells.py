"""What the matrix of compressors consists of: algorithms, schemes, and the figures of each cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from robustlab.compress import TRAINED
from robustlab.compress.catalogue import ALGORITHMS
from robustlab.compress.observers import OBSERVERS
from robustlab.compress.ptq import METHODS, Method
from robustlab.compress.ptq.reconstruction import Reconstruction
from robustlab.core.errors import check_choice, check_int, invalid
from robustlab.deploy import StoredBytes

POST_TRAINING = (*OBSERVERS, *METHODS)
"""The algorithms that end with calibration; the others of `ALGORITHMS` are to be trained."""

STATES = {
    "raw": "after calibration",
    "corrected": "after calibration, with statistics correction on top",
    "trained": "a model file whose model was trained",
    "untrained": "what training starts from: class, bytes and latency are the algorithm's, the accuracy is not",
}


BITS = "w2a2 to w8a8 such as w4a8, or w1a1"


@dataclass(frozen=True, order=True)
class Scheme:
    """Bits of weights and activations, 2 to 8 each or 1 for both; its text is such as ``w4a8``.

    Raises `ArgumentError` for other bits.
    """

    weights: int
    activations: int

    def __post_init__(self) -> None:
        pair = (self.weights, self.activations)
        whole = all(type(bits) is int and 1 <= bits <= 8 for bits in pair)
        if not whole or (self.weights == 1) != (self.activations == 1):
            raise invalid("bits", f"{self}", BITS)

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"


DEFAULT_SCHEMES = (Scheme(8, 8), Scheme(4, 8), Scheme(4, 4), Scheme(3, 3), Scheme(2, 2), Scheme(1, 1))


def parse_scheme(text: str, argument: str = "bits") -> Scheme:
    """``w4a8`` -> its scheme. Raises `ArgumentError` that names `argument` for any other text."""
    match = re.fullmatch(r"w(1)a(1)|w([2-8])a([2-8])", text)
    if match is None:
        raise invalid(argument, text, BITS)
    weights, activations = filter(None, match.groups())
    return Scheme(int(weights), int(activations))


def allows(algorithm: str, scheme: Scheme) -> bool:
    """Whether the algorithm has a cell at this scheme."""
    if algorithm in TRAINED:
        return TRAINED[algorithm].allows(scheme.weights, scheme.activations)
    return (scheme == Scheme(1, 1)) == (algorithm == "binary")


@dataclass(frozen=True)
class Job:
    """An algorithm at a scheme: two cells after training, raw and corrected, else one."""

    algorithm: str
    scheme: Scheme

    @property
    def states(self) -> tuple[str, ...]:
        """Of its cells."""
        return ("raw", "corrected") if self.algorithm in POST_TRAINING else ("untrained",)


def jobs(algorithms: Sequence[str] | None, schemes: Sequence[Scheme] | None) -> list[Job]:
    """Scheme by scheme, in the order given; None stands for all algorithms and for `DEFAULT_SCHEMES`.

    Raises `ArgumentError` for an unknown algorithm, and one that is named and takes none of the schemes.
    """
    names = list(ALGORITHMS) if algorithms is None else list(dict.fromkeys(algorithms))
    wanted = list(DEFAULT_SCHEMES) if schemes is None else list(dict.fromkeys(schemes))
    for name in names:
        check_choice("algorithm", name, ALGORITHMS)
        if algorithms is not None and not any(allows(name, scheme) for scheme in wanted):
            bits = TRAINED[name].bits if name in TRAINED else "1 for both" if name == "binary" else "from 2 to 8"
            raise invalid("bits", ", ".join(map(str, wanted)), f"some that algorithm {name} takes: {bits}")
    return [Job(name, scheme) for scheme in wanted for name in names if allows(name, scheme)]


def method_of(algorithm: str, iterations: int | None) -> str | Method:
    """What `compress` takes: the name, or where `iterations` says so an algorithm that learns, with so many steps."""
    method = METHODS.get(algorithm)
    if iterations is None or not isinstance(method, Reconstruction):
        return algorithm
    return replace(method, iterations=check_int("iterations", iterations, 1))


@dataclass(frozen=True)
class Quality:
    """A deployed model on the test images: percent, points and their 95 % interval, KL divergence in nats.

    points: the paired difference of accuracy to the float model, image by image. half_width: half the width of its
    interval, 1.96 standard errors of the mean of the differences. agreement: equal predictions, percent. kl: the mean
    divergence of the predictions from the float ones, and kl_half_width half the width of its interval.
    """

    accuracy: float
    points: float
    half_width: float
    agreement: float
    kl: float
    kl_half_width: float


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of one image through the optimized deployed model, and through the float model beside it."""

    milliseconds: float
    float_milliseconds: float
    runs: int
    threads: int
    kernels: str
    cpu: str


@dataclass(frozen=True)
class Cell:
    """One model of the matrix. Where `error` is set, it says why there are no figures.

    source: the stem of a trained model's file, else empty. note: how it was trained. classes: layers by their
    deployability class. replaced: why `deploy` refused the model as it was, where it was deployed in the documented
    form that the kernels can run. constant: binary layers whose input had one sign throughout a calibration batch, of
    `binary` ones: behind a ReLU plain signs see +1 only. seconds: processor time of `compress`, or of the correction on
    top of it. fingerprint: of the deployed model.
    """

    algorithm: str
    weights: int
    activations: int
    state: str
    source: str = ""
    note: str = ""
    error: str = ""
    classes: Mapping[str, int] = field(default_factory=dict)
    replaced: str = ""
    binary: int = 0
    constant: int = 0
    quality: Quality | None = None
    stored: StoredBytes | None = None
    seconds: float | None = None
    latency: Latency | None = None
    fingerprint: str = ""

    @property
    def scheme(self) -> Scheme:
        """Its bits."""
        return Scheme(self.weights, self.activations)

    @property
    def key(self) -> tuple[str, int, int, str, str]:
        """What tells it from the others of a matrix."""
        return self.algorithm, self.weights, self.activations, self.state, self.source

    @property
    def file_name(self) -> str:
        """Of its deployed model, where those are kept."""
        return f"{self.algorithm}-{self.scheme}-{self.state}.safetensors"
