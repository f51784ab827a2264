"""Every algorithm by its name, and what a name with options stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from robustlab.compress.algorithms import TRAINED
from robustlab.compress.observers import OBSERVERS
from robustlab.compress.ptq import METHODS, Method
from robustlab.core.errors import ArgumentError, check_choice, check_int, invalid

ALGORITHMS = {
    "minmax": "uniform quantizers, ranges from the smallest and largest value seen (Krishnamoorthi 2018)",
    "moving_average": "uniform quantizers, ranges from averages over batches of smallest and largest (Jacob 2018)",
    "percentile": "uniform quantizers, ranges from the 0.01 % and 99.99 % quantiles (Nagel 2021)",
    "mse": "uniform quantizers, ranges with the least squared error (Nagel 2021)",
    "kl": "uniform quantizers, ranges whose histograms lose the least information (Migacz 2017, TensorRT)",
    "bias_correction": "mse, and no mean error in any layer's output (Nagel 2019)",
    "cle": "mse, after cross-layer equalization of the weights (Nagel 2019)",
    "gptq": "mse, weights rounded column by column with compensation (Frantar 2023)",
    "adaround": "mse, rounding of weights learned layer by layer (Nagel 2020)",
    "brecq": "mse, rounding of weights and steps of activations learned block by block (Li 2021)",
    "qdrop": "brecq with activations quantized at random while it learns (Wei 2022)",
    "binary": "sign of weights and activations, a scale per output channel; to be trained afterwards",
    **{name: algorithm.summary for name, algorithm in TRAINED.items()},
}
"""What each is, in a line."""


def method_of(algorithm: str, options: Mapping[str, object] | None = None) -> Method:
    """The post-training method of a name, with hyper-parameters of its own in `options`.

    Raises `ArgumentError` for an unknown name, options of an algorithm that has none, and unknown or bad options.
    """
    check_choice("algorithm", algorithm, ALGORITHMS)
    method = METHODS.get(algorithm)
    if method is None:
        if options:
            raise invalid("options", dict(options), f"none with algorithm {algorithm}; {', '.join(METHODS)} have some")
        return Method(algorithm if algorithm in OBSERVERS else "mse")
    known = [field.name for field in fields(method)]
    for key, value in (options or {}).items():
        check_choice(f"an option of {algorithm}", key, known)
        _check_kind(f"{key} of {algorithm}", value, getattr(method, key))
    try:
        return replace(method, **dict(options or {}))  # type: ignore[arg-type]
    except TypeError as error:
        raise ArgumentError(f"options of {algorithm}: {error}") from error


def takes_any_grid(algorithm: str) -> bool:
    """Whether weights of every `WeightScheme` can have it; else they are symmetric with a scale per output channel."""
    return algorithm not in TRAINED and algorithm != "binary" and method_of(algorithm).any_grid


def _check_kind(what: str, value: object, default: object) -> None:
    """A value of the kind that the default is: methods check ranges themselves."""
    if isinstance(default, (bool, str)):
        if type(value) is not type(default):
            raise invalid(what, value, "true or false" if isinstance(default, bool) else "a name")
    elif isinstance(default, int):
        check_int(what, value, -(2**31), 2**31)
    elif isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise invalid(what, value, "a number")
    elif not isinstance(value, type(default)):
        raise invalid(what, value, f"a list such as {list(default) if isinstance(default, tuple) else default}")


def check_bits(where: str, weights: object, activations: object, *, binary: bool) -> None:
    """Raise `ArgumentError` unless both are 2 to 8, or with `binary` both 1. `where` is `` of PATTERN`` or empty."""
    if binary:
        if (weights, activations) != (1, 1):
            raise invalid(f"weights, activations{where}", (weights, activations), "(1, 1) with algorithm binary")
        return
    for name, value in ((f"weights{where}", weights), (f"activations{where}", activations)):
        if value == 1:
            raise invalid(name, value, "a whole number from 2 to 8, or 1 for both with algorithm binary")
        check_int(name, value, 2, 8)
