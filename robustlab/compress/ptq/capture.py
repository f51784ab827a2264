"""What a module of a model sees and answers, batch by batch: tensors, or their mean and deviation per channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlab.core.errors import RobustlabError
from robustlab.core.frozen import frozen

See = Callable[[Tensor], None]


class _Enough(Exception):
    """Raised by a hook when the rest of a forward pass is of no interest."""


def watch(
    model: nn.Module, batches: Iterable[Tensor], name: str, *, on_input: See | None = None, on_output: See | None = None
) -> None:
    """Run `model` on all batches up to and including the first call of its module `name`.

    `on_input` gets the module's input before the module runs, `on_output` what it returns: the very tensors, which the
    model may write to later. The model is left as it was; no gradients.
    """
    module = model.get_submodule(name)

    def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if on_input is not None:
            on_input(inputs[0])
            if on_output is None:
                raise _Enough

    def after(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if on_output is not None:
            on_output(output)
        raise _Enough

    handles = (module.register_forward_pre_hook(before), module.register_forward_hook(after))
    try:
        with frozen(model), torch.no_grad():
            for batch in batches:
                with suppress(_Enough):
                    model(batch.clone())
    finally:
        for handle in handles:
            handle.remove()


def collect(
    model: nn.Module, batches: Iterable[Tensor], name: str, *, inputs: bool, outputs: bool
) -> tuple[Tensor, Tensor]:
    """(inputs, outputs) of a module for all batches, joined along the first axis; empty where not asked for.

    Raises `RobustlabError` if the shapes differ between batches by more than the number of images.
    """
    seen: list[Tensor] = []
    answered: list[Tensor] = []
    watch(
        model,
        batches,
        name,
        on_input=(lambda x: seen.append(x.clone())) if inputs else None,
        on_output=(lambda y: answered.append(y.clone())) if outputs else None,
    )
    return _joined(name, seen), _joined(name, answered)


def _joined(name: str, parts: Sequence[Tensor]) -> Tensor:
    if not parts:
        return torch.empty(0)
    if len({tuple(part.shape[1:]) for part in parts}) > 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts[:3])
        raise RobustlabError(f"{name} sees batches of the shapes {shapes}; allowed: images of one size")
    return torch.cat(list(parts))


@dataclass
class Moments:
    """Mean and deviation per output channel of everything seen, in float64, both (O,).

    The channel is the second axis of a convolution's output (N, O, H, W) and the last one of a linear layer's (..., O).
    The deviation divides by the count.
    """

    convolution: bool
    count: int = 0
    total: Tensor | float = 0.0
    square: Tensor | float = 0.0

    def see(self, y: Tensor) -> None:
        """Count one batch in."""
        rows = y.detach().double()
        rows = rows.movedim(1, -1).flatten(0, -2) if self.convolution else rows.flatten(0, -2)
        self.count += len(rows)
        self.total = self.total + rows.sum(dim=0)
        self.square = self.square + rows.square().sum(dim=0)

    @property
    def mean(self) -> Tensor:
        """(O,)."""
        return torch.as_tensor(self.total) / max(self.count, 1)

    @property
    def deviation(self) -> Tensor:
        """(O,), the root of the variance."""
        return (torch.as_tensor(self.square) / max(self.count, 1) - self.mean.square()).clamp(min=0).sqrt()


def output_moments(model: nn.Module, batches: Iterable[Tensor], name: str, *, convolution: bool) -> Moments:
    """Moments of what module `name` returns on all batches."""
    moments = Moments(convolution)
    watch(model, batches, name, on_output=moments.see)
    return moments


def all_output_moments(model: nn.Module, batches: Iterable[Tensor], kinds: dict[str, bool]) -> dict[str, Moments]:
    """The same for several modules in one pass, ``kinds`` saying which are convolutions, first calls only."""
    found = {name: Moments(convolution) for name, convolution in kinds.items()}
    called: set[str] = set()

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def see(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name not in called:
                called.add(name)
                found[name].see(output)

        return see

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in kinds]
    try:
        with frozen(model), torch.no_grad():
            for batch in batches:
                called.clear()
                model(batch.clone())
    finally:
        for handle in handles:
            handle.remove()
    return found
