"""Errors that name the thing, its value and what is allowed, and the checks that raise them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_MOST_SHOWN = 120


class RobustlabError(Exception):
    """Base of every error a user can cause. The command line prints it as one line and exits with code 2."""


class ArgumentError(RobustlabError, ValueError):
    """An argument has a value that is not allowed."""


class DataError(RobustlabError):
    """A data set is missing, empty or malformed."""


class ModelFileError(RobustlabError):
    """A model file is truncated, altered, mis-shaped or of an unknown kind."""


class StoreError(RobustlabError):
    """A result store cannot be opened, written or understood."""


def invalid(argument: str, value: object, allowed: str) -> ArgumentError:
    """Build the error for a bad argument, on one line however long the value prints."""
    shown = " ".join(repr(value).split())
    if len(shown) > 120:
        shown = shown[:117] + "..."
    return ArgumentError(f"{argument} is {shown}; allowed: {allowed}")


def check_choice(argument: str, value: T, choices: Iterable[T]) -> T:
    """Return `value` if it is one of `choices`; otherwise raise `ArgumentError`, suggesting the nearest name."""
    known = list(choices)
    if value in known:
        return value
    hint = difflib.get_close_matches(str(value), [str(c) for c in known], n=1)
    suggestion = f" (did you mean {hint[0]}?)" if hint else ""
    if len(known) > _MOST_SHOWN:
        near = difflib.get_close_matches(str(value), [str(c) for c in known], n=5, cutoff=0.3) or known[:5]
        raise invalid(argument, value, f"{len(known)} names, such as {', '.join(str(c) for c in near)}{suggestion}")
    raise invalid(argument, value, ", ".join(str(c) for c in known) + suggestion)


def check_int(argument: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` as an int if it is a whole number in [low, high]; otherwise raise `ArgumentError`."""
    allowed = f"a whole number >= {low}" if high is None else f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise invalid(argument, value, allowed)
    return value


def check_number(
    argument: str, value: object, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Return `value` as a finite float in [low, high] (or (low, high]); otherwise raise `ArgumentError`."""
    sign = ">" if open_low else ">="
    allowed = f"a finite number {sign} {low:g}" + (f" and <= {high:g}" if high < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise invalid(argument, value, allowed)
    if value < low or (open_low and value <= low) or value > high:
        raise invalid(argument, value, allowed)
    return float(value)


def check_images(images: object, argument: str = "images") -> Tensor:
    """Return `images` if it is a float32 batch (N, C, H, W) in [0, 1]; otherwise raise `ArgumentError`.

    NaN counts as out of range. An empty batch is allowed.
    """
    allowed = "a float32 tensor (N, C, H, W) with values in [0, 1]"
    if not isinstance(images, Tensor):
        raise invalid(argument, type(images).__name__, allowed)
    if images.ndim != 4 or images.dtype != torch.float32:
        raise invalid(argument, f"{images.dtype} of shape {tuple(images.shape)}", allowed)
    if images.numel():
        low, high = (float(v) for v in torch.aminmax(images.detach()))
        if not (low >= 0 and high <= 1):
            raise invalid(argument, f"a tensor with values in [{low:g}, {high:g}]", allowed)
    return images


def check_labels(labels: object, count: int, classes: int | None = None, argument: str = "labels") -> Tensor:
    """Return `labels` if it is an int64 tensor (N,) with values in [0, classes); otherwise raise `ArgumentError`."""
    allowed = f"an int64 tensor ({count},)" + (f" with values in [0, {classes - 1}]" if classes else "")
    if not isinstance(labels, Tensor):
        raise invalid(argument, type(labels).__name__, allowed)
    if labels.dtype != torch.int64 or tuple(labels.shape) != (count,):
        raise invalid(argument, f"{labels.dtype} of shape {tuple(labels.shape)}", allowed)
    if count:
        low, high = (int(v) for v in torch.aminmax(labels))
        if low < 0 or (classes is not None and high >= classes):
            raise invalid(argument, f"a tensor with values in [{low}, {high}]", allowed)
    return labels
