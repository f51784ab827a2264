"""One forward pass with its backward repaired: the same numbers forward, a gradient where operations have none.

Operations are intercepted while the network runs (`TorchFunctionMode`), so nothing has to be known of its modules: what
they call may be a function of torch, a method, or an operator (``torch.ops``), as in exported programs. What a Python
function of one's own hides (`torch.autograd.Function` with a zero backward) is found in the graph; what left the graph
(``.detach()``, NumPy, an image file) is joined to it again where the next layer with weights reads it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode

from robustlab.deploy.repair import straight
from robustlab.deploy.repair.handlers import ALL, ROUNDING, STEPS, Handler
from robustlab.deploy.repair.quantized import carried

Scope = Literal["rounding", "steps", "all"]
_Found = tuple[str, Handler]

_PLACES = (torch, torch.Tensor, F, torch.special)


def _functions(name: str) -> list[Any]:
    """All functions of torch called `name` or, in place, `name_`."""
    found = [getattr(place, n, None) for place in _PLACES for n in (name, f"{name}_")]
    return [function for function in found if callable(function)]


_BY_NAME: dict[Scope, dict[str, Handler]] = {
    "rounding": ROUNDING,
    "steps": ROUNDING | STEPS,
    "all": ROUNDING | STEPS | ALL,
}
_BY_FUNCTION: dict[Scope, dict[Any, _Found | None]] = {
    scope: {function: (name, handler) for name, handler in table.items() for function in _functions(name)}
    for scope, table in _BY_NAME.items()
}


def _find(func: Any, scope: Scope) -> _Found | None:
    """The name and the handler of a function or an operator, if it has one."""
    known = _BY_FUNCTION[scope]
    if func in known:
        return known[func]
    if not isinstance(func, (OpOverload, OpOverloadPacket)):
        return None
    name = operator_name(func)
    handler = _BY_NAME[scope].get(name)
    found = None if handler is None else (name, handler)
    known[func] = found
    return found


def operator_name(func: OpOverload | OpOverloadPacket) -> str:
    """``round`` for ``torch.ops.aten.round_.default``."""
    name = func._qualified_op_name if isinstance(func, OpOverloadPacket) else func._schema.name
    return name.rpartition("::")[2].removesuffix("_")


class Repair(TorchFunctionMode):
    """Intercepts one forward pass from `images`, which require a gradient.

    Attributes:
        scope: see `Repaired`.
        smooth: run a smooth network instead: steps become what they approximate. Its outputs are other ones, and what
            is found on it has to be judged on the network itself.
        seen: names of the operations that were repaired.
    """

    def __init__(self, images: Tensor, *, scope: Scope = "all", smooth: bool = False) -> None:
        super().__init__()
        self.scope: Scope = scope
        self.smooth = smooth
        self.seen: set[str] = set()
        self._images = images
        self._last = images
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}
        self._codes: dict[int, tuple[Tensor, Tensor]] = {}
        self._values: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hand the function to its repair, or run it."""
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        found = _find(func, self.scope)
        if found is not None:
            name, handler = found
            result = handler(self, name, func, args, kwargs)
            if result is not NotImplemented:
                return result
        if self._codes or self._values:
            return carried(self, func, args, kwargs)
        return func(*args, **kwargs)

    def tracked(self, mask: object) -> Tensor | None:
        """What a mask compares with 0, if it was made here."""
        return _second(self._masks, mask)

    def track(self, mask: Tensor, difference: Tensor) -> None:
        """Remember that `mask` is ``difference > 0``, up to equality."""
        self._masks[id(mask)] = (mask, difference)

    def codes(self, whole: object) -> Tensor | None:
        """The floats, with a graph, that whole numbers made here are equal to."""
        return _second(self._codes, whole)

    def carry(self, whole: Tensor, floats: Tensor) -> None:
        """Remember the floats that a tensor of whole numbers is equal to."""
        self._codes[id(whole)] = (whole, floats)

    def values(self, quantized: object) -> Tensor | None:
        """What a quantized tensor made here stands for, up to rounding, with a graph."""
        return _second(self._values, quantized)

    def keep(self, quantized: Tensor, values: Tensor) -> None:
        """Remember what a quantized tensor stands for."""
        self._values[id(quantized)] = (quantized, values)

    def step(self, difference: Tensor, dtype: torch.dtype, mask: Tensor) -> Tensor:
        """A mask as numbers, with a gradient."""
        self.seen.add("comparison")
        if self.smooth:
            return torch.sigmoid(4 * difference / straight.spread(difference)).to(dtype)
        return straight.stepped(difference.expand(mask.shape), mask.to(difference.dtype)).to(dtype)

    def passed(self, result: Tensor) -> None:
        """Remember the output of a layer, as what a later input that left the graph was most likely made of."""
        self._last = result

    def bridge(self, x: Tensor) -> Tensor:
        """A layer's input x (N, ...) that is cut off from the images, joined to what it was most likely made of."""
        self.seen.add("cut graph")
        if self._last.shape == x.shape:
            return straight.straight(self._last, x)
        source = self._images
        if x.ndim != 4 or source.ndim != 4 or len(x) != len(source):
            flat = source.flatten(1)
            return straight.straight(flat, x) if flat.shape == x.shape else x
        if source.shape[2:] != x.shape[2:]:
            source = F.interpolate(source, x.shape[2:], mode="bilinear", align_corners=False)
        channels, wanted = source.shape[1], x.shape[1]
        if channels == wanted:
            return straight.straight(source, x)
        if wanted == 1:
            return straight.straight(source.mean(1, keepdim=True), x)
        if wanted % channels:
            return x
        # Each channel became several, side by side or in turn: whichever looks more like x.
        repeats = wanted // channels
        ways = [source.repeat(1, repeats, 1, 1), source.repeat_interleave(repeats, dim=1)]
        alike = [_likeness(way.detach(), x) for way in ways]
        return straight.straight(max(zip(alike, ways, strict=True), key=lambda pair: pair[0])[1], x)


def _second(kept: dict[int, tuple[Tensor, Tensor]], key: object) -> Tensor | None:
    found = kept.get(id(key))
    return None if found is None else found[1]


def _likeness(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean((0, 2, 3), keepdim=True), b - b.mean((0, 2, 3), keepdim=True)
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))
