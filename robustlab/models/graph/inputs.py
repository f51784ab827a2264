"""What an operator of a graph is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Inputs = Sequence[Tensor | None]
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], Tensor | tuple[Tensor, ...]]


def needed(inputs: Inputs, index: int) -> Tensor:
    """An input that must be there."""
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise ValueError(f"input {index} is missing")
    return value


def optional(inputs: Inputs, index: int) -> Tensor | None:
    """An input that may be left out."""
    return inputs[index] if index < len(inputs) else None


def numbers(inputs: Inputs, index: int, attributes: Attributes, name: str) -> list[int] | None:
    """Whole numbers that newer opsets take as an input and older ones as an attribute; None where they are left out."""
    given = optional(inputs, index)
    if given is not None:
        return [int(v) for v in given.reshape(-1).tolist()]
    values = attributes.get(name)
    return None if values is None else [int(v) for v in values]
