"""A network with the backward pass repaired: the same numbers forward, a gradient where operations have none.

Operations are intercepted while the network runs (`TorchFunctionMode`), so nothing has to be known of its modules. What
a Python function of one's own hides (`torch.autograd.Function` with a zero backward) is found in the graph; what left
the graph (``.detach()``, NumPy, an image file) is joined to it again where the next layer with weights reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustlab.evaluate.audit import straight

Handler = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_STAIRS = ("round", "floor", "ceil", "trunc", "fix")
_SIGNS = ("sign", "sgn")
_CLAMPS = ("clamp", "clip", "hardtanh", "relu6")
_WAVES = ("sin", "cos")
_SQUASHES = ("tanh", "sigmoid")
_COMPARISONS = {"gt": 1, "greater": 1, "ge": 1, "greater_equal": 1, "__gt__": 1, "__ge__": 1,
                "lt": -1, "less": -1, "le": -1, "less_equal": -1, "__lt__": -1, "__le__": -1}  # fmt: skip
_CASTS = ("float", "double", "half", "bfloat16", "to", "type", "type_as")
_PRODUCTS = ("mul", "multiply", "__mul__", "__rmul__")
_ZERO_NODES = ("Round", "Floor", "Ceil", "Trunc", "Sign", "Sgn")
_SATURATED = 0.99
_FLAT = 8.0


def _named(name: str) -> list[Any]:
    """All functions of torch called `name` or, in place, `name_`."""
    places = (torch, torch.Tensor, F, torch.special)
    found = [getattr(place, n, None) for place in places for n in (name, f"{name}_")]
    return [function for function in found if callable(function)]


class Repair(TorchFunctionMode):
    """Intercepts one forward pass from `images`, which require a gradient.

    Attributes:
        smooth: run a smooth network instead: steps become what they approximate. Its outputs are other ones, and what
            is found on it has to be judged on the network itself.
        seen: names of the operations that were repaired.
    """

    def __init__(self, images: Tensor, *, smooth: bool = False) -> None:
        super().__init__()
        self.smooth = smooth
        self.seen: set[str] = set()
        self._images = images
        self._last = images
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hand the function to its repair, or run it."""
        found = _HANDLERS.get(func)
        if found is None or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        name, handler = found
        return handler(self, name, func, args, kwargs or {})

    def tracked(self, mask: object) -> Tensor | None:
        """What a mask compares with 0, if it was made here."""
        found = self._masks.get(id(mask))
        return None if found is None else found[1]

    def track(self, mask: Tensor, difference: Tensor) -> None:
        """Remember that `mask` is ``difference > 0``, up to equality."""
        self._masks[id(mask)] = (mask, difference)

    def step(self, difference: Tensor, dtype: torch.dtype, mask: Tensor) -> Tensor:
        """A mask as numbers, with a gradient."""
        self.seen.add("comparison")
        if self.smooth:
            return torch.sigmoid(4 * difference / straight.spread(difference)).to(dtype)
        return straight.stepped(difference.expand(mask.shape), mask.to(difference.dtype)).to(dtype)

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


def _likeness(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean((0, 2, 3), keepdim=True), b - b.mean((0, 2, 3), keepdim=True)
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))


def _differentiable(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.requires_grad


def _write(name: str, func: Any, x: Tensor, made: Tensor) -> Tensor:
    """The result, in `x` itself where the function works in place."""
    called = getattr(func, "__name__", name)
    return x.copy_(made) if called.endswith("_") and not called.endswith("__") else made


def _plain(func: Any, x: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The exact value, without a graph; a function in place works on a copy."""
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    with torch.no_grad():
        return cast(Tensor, func(x.detach().clone(), *rest, **kwargs))


def _elementwise(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args or not _differentiable(args[0]):
        return func(*args, **kwargs)
    x, rest = args[0], args[1:]
    value = _plain(func, x, rest, kwargs)
    before = x.clone()  # what a function in place overwrites
    made = _repaired(self, name, func, before, value, rest, kwargs)
    if made is None:
        return func(*args, **kwargs)
    self.seen.add(name)
    return _write(name, func, x, made)


def _repaired(
    self: Repair, name: str, func: Any, x: Tensor, value: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    if name in _STAIRS:
        if not self.smooth:
            return straight.straight(x, value)
        return x + {"floor": -0.5, "ceil": 0.5}.get(name, 0.0)
    if name in _SIGNS:
        return torch.tanh(2 * x / straight.spread(x)) if self.smooth else straight.signed(x, value)
    if name in _CLAMPS:
        if bool((value == x).all()) or bool((value >= 0).all() & (value == x.detach().clamp(min=0)).all()):
            return None  # Nothing is clamped, or it is a ReLU, whose zeros are honest.
        return straight.clamped(x, x if self.smooth else value)
    if name in _WAVES:
        fast = float(straight.spread(x)) > _FLAT
        return straight.coarse(x, value, func) if fast else None
    flat = float((x.detach().abs() > _FLAT).float().mean()) > 0.5
    if not flat:
        return None
    if self.smooth:
        return cast(Tensor, func(2 * x / straight.spread(x)))
    return straight.coarse(x, value, func)


def _softmax(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    exact = func(*args, **kwargs)
    x = args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not _differentiable(x) or not isinstance(dim, int) or not isinstance(exact, Tensor):
        return exact
    if float((exact.detach().amax(dim) > _SATURATED).float().mean()) < 0.1:
        return exact
    self.seen.add(name)
    if self.smooth and dim in (1, -1) and x.ndim == 2:
        return x - x.detach().amax(dim, keepdim=True)  # In the same order as the probabilities.
    return straight.warm_softmax(x, exact, dim)


def _compare(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mask = func(*args, **kwargs)
    if len(args) == 2 and (_differentiable(args[0]) or _differentiable(args[1])):
        self.track(mask, _COMPARISONS[name] * (args[0] - args[1]))
    return mask


def _cast(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*args, **kwargs)
    difference = self.tracked(args[0])
    if difference is None or not isinstance(result, Tensor):
        return result
    if result.dtype == torch.bool:
        self.track(result, difference)
        return result
    return self.step(difference, result.dtype, args[0]) if result.is_floating_point() else result


def _product(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    differences = [self.tracked(a) for a in args]
    if len(args) != 2 or all(d is None for d in differences):
        return func(*args, **kwargs)
    other = next((a for a, d in zip(args, differences, strict=True) if d is None), None)
    dtype = other.dtype if isinstance(other, Tensor) and other.is_floating_point() else torch.get_default_dtype()
    numbers = [a if d is None else self.step(d, dtype, a) for a, d in zip(args, differences, strict=True)]
    return torch.mul(*numbers)


def _where(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*args, **kwargs)
    if len(args) != 3 or not isinstance(result, Tensor) or not result.is_floating_point():
        return result
    mask, chosen, other = args if name == "where" else (args[1], args[2], args[0])
    difference = self.tracked(mask)
    if difference is None:
        return result
    switched = self.step(difference, result.dtype, mask)
    gap = torch.as_tensor(chosen - other).detach().nan_to_num()
    # The term is 0: it only brings the gradient of the switch.
    return result + (switched - switched.detach()) * gap.to(result.dtype)


def _layer(self: Repair, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x = args[0] if args else kwargs.get("input")
    if isinstance(x, Tensor) and x.is_floating_point() and not x.requires_grad:
        joined = self.bridge(x)
        args, kwargs = ((joined, *args[1:]), kwargs) if args else ((), {**kwargs, "input": joined})
    result = func(*args, **kwargs)
    if _differentiable(result):
        self._last = result
    return result


def _table() -> dict[Any, tuple[str, Any]]:
    handlers: tuple[tuple[tuple[str, ...], Any], ...] = (
        ((*_STAIRS, *_SIGNS, *_CLAMPS, *_WAVES, *_SQUASHES), _elementwise),
        (("softmax",), _softmax),
        (tuple(_COMPARISONS), _compare),
        (_CASTS, _cast),
        (_PRODUCTS, _product),
        (("where", "masked_fill"), _where),
        (("conv2d", "linear", "batch_norm", "conv1d"), _layer),
    )
    return {function: (name, handler) for names, handler in handlers for name in names for function in _named(name)}


_HANDLERS = _table()


def repair_graph(output: Tensor) -> set[str]:
    """Let the gradient through where an operation in the graph of `output` turns all of it into zeros.

    Only for operations that keep the shape: those with a backward of one's own, and steps that were not intercepted
    (in TorchScript). Returns the names of the operations that are watched.
    """
    watched: set[str] = set()
    seen: set[Any] = set()
    pending = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        pending.extend(following for following, _ in node.next_functions)
        name = type(node).__name__
        own = isinstance(node, torch.autograd.function.BackwardCFunction)
        ours = name in ("_ReplacedBackward", "_WarmBackward")
        if (own and not ours) or name.startswith(_ZERO_NODES):
            node.register_hook(_let_through)
            watched.add(name.removesuffix("Backward"))
    return watched


def _let_through(inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> Any:
    """For rows where a gradient comes in and none leaves, pass on what comes in."""
    coming = next((g for g in outputs if g is not None), None)
    if coming is None:
        return None
    made = list(inputs)
    for index, leaving in enumerate(made):
        if leaving is None or leaving.shape != coming.shape:
            continue
        dead = ~leaving.flatten(1).any(1) if leaving.ndim > 1 else ~leaving.any().reshape(1)
        if bool(dead.any()):
            made[index] = torch.where(dead.reshape(-1, *([1] * (leaving.ndim - 1))), coming, leaving)
        return tuple(made)
    return None


class Repaired(nn.Module):
    """A network with its backward pass repaired, or, with `smooth`, with steps smoothed forward as well.

    Attributes:
        seen: names of what was repaired in any call so far.

    Shape: images (N, C, H, W) -> logits (N, K); with ``smooth=False`` exactly those of the network.
    """

    def __init__(self, model: nn.Module, *, smooth: bool = False) -> None:
        super().__init__()
        self.model = model
        self.smooth = smooth
        self.seen: set[str] = set()

    def forward(self, images: Tensor) -> Tensor:
        """Logits, with a gradient towards `images` if that is asked for."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            logits: Tensor = self.model(images)
            return logits
        with Repair(images, smooth=self.smooth) as mode:
            logits = self.model(images)
        self.seen |= mode.seen
        if logits.requires_grad:
            self.seen |= repair_graph(logits)
        return logits
