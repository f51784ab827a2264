"""Lowering, second half, part one: in which forms every value is needed, and which values are always finite.

A value is stored as floats, as the signs a binary layer reads, or as the codes of one quantizer. Maxima commute with
signs and quantizers (both never fall), so a max pool passes the forms it is asked for on to its source; with codes
only where no value can be NaN, which a pool keeps and a quantizer does not. Where monotone steps stand between the
pool of a layer and a sign, as in convolution, pool, batch norm, sign, that sign is taken before the pool.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, prod

from torch import Tensor, fx

from robustlab.deploy.graph.chains import AddStored, Chain, Input, Load, Lowered
from robustlab.deploy.graph.operations import Concat, Conv, Pool, Subsample
from robustlab.deploy.graph.thresholds import falling, is_monotone
from robustlab.deploy.packed import PackedLayer
from robustlab.kernels import ActivationSpec
from robustlab.kernels.program import Add, AddAll, Clamp, Div, DivAll, Mul, MulAll, Prelu, Relu, Scale, Step, Sub
from robustlab.kernels.spec import largest_weight


@dataclass(frozen=True, eq=False)
class PooledSigns:
    """The bits of a value whose pooled maximum gives the signs of ``steps(max)``.

    falls: channels in which the steps fall. There the sign of the maximum is the smallest of all signs, so both the
    bits and what the pool makes of them are flipped. place: the chain of the pool.
    """

    place: int
    steps: tuple[Step, ...] = field(repr=False)
    falls: Tensor = field(repr=False)


Form = str | ActivationSpec | PooledSigns
"""``float``, ``signs``, the quantizer of codes, or what a pool makes signs of."""
FLOAT: Form = "float"
SIGNS: Form = "signs"

_LARGEST = 3e38


def form_read(layer: PackedLayer) -> Form:
    """The form a packed layer reads."""
    return SIGNS if layer.scheme.activation is None else layer.scheme.activation


def accumulator_bound(layer: PackedLayer) -> int:
    """Largest magnitude of a layer's accumulator, in its units."""
    scheme = layer.scheme
    activation = 1 if scheme.activation is None else scheme.activation.largest
    return prod(layer.shape[1:]) * activation * largest_weight(scheme.weight_bits, scheme.weight_zero_point)


@dataclass(frozen=True)
class Needs:
    """The forms in which every value must be stored, and the pools that run on `PooledSigns`."""

    forms: dict[fx.Node, set[Form]]
    pooled: dict[Chain, PooledSigns]


def find_needs(lowered: Lowered, outputs: tuple[fx.Node, ...], bounds: dict[fx.Node, float]) -> Needs:
    """What must be stored, where `outputs` are needed as floats."""
    pooled: dict[Chain, PooledSigns] = {}
    needs: dict[fx.Node, set[Form]] = {value: set() for value in lowered.home}
    for node in outputs:
        needs[lowered.value(node)].add(FLOAT)
    for chain in reversed(lowered.chains):
        root = chain.root
        live = live_items(chain, needs)
        for item in live:
            if isinstance(item, AddStored):
                needs[item.source].add(FLOAT)
        if not live or isinstance(root, Input):
            continue
        if isinstance(root, Conv):
            needs[root.source].add(form_read(root.layer))
        elif isinstance(root, Concat):
            for part in root.parts:
                needs[part] |= needs[chain.values[0]]
        elif isinstance(root, Pool) and passes_forms_on(chain, needs, bounds):
            needs[root.source] |= needs[chain.values[0]]
        elif (form := _pooled_signs(chain, lowered, needs, bounds)) is not None:
            pooled[chain] = form
            needs[root.source].add(form)
        else:
            needs[root.source].add(FLOAT)
    return Needs(needs, pooled)


def _pooled_signs(
    chain: Chain, lowered: Lowered, needs: dict[fx.Node, set[Form]], bounds: dict[fx.Node, float]
) -> PooledSigns | None:
    """The form a max pool of a layer reads if all that is asked for are signs behind monotone steps."""
    root, (*steps, value) = chain.root, live_items(chain, needs)
    if not isinstance(root, Pool) or root.kind != "max" or not isinstance(value, fx.Node) or needs[value] != {SIGNS}:
        return None
    home = lowered.home[root.source]
    before = home.items[: home.items.index(root.source)]
    through = [item for item in (*before, *steps) if not isinstance(item, fx.Node)]
    if not isinstance(home.root, Conv) or bounds[value] == inf or not all(is_monotone(step) for step in through):
        return None
    behind = tuple(step for step in steps if isinstance(step, Step))
    if any(isinstance(step, fx.Node) and needs[step] for step in steps):
        return None
    return PooledSigns(lowered.chains.index(chain), behind, falling(behind, home.root.layer.shape[0]))


def live_items(chain: Chain, needs: dict[fx.Node, set[Form]]) -> list[Step | AddStored | fx.Node]:
    """The items of a chain up to the last value that is needed."""
    last = max((i for i, item in enumerate(chain.items) if isinstance(item, fx.Node) and needs[item]), default=-1)
    return chain.items[: last + 1]


def passes_forms_on(chain: Chain, needs: dict[fx.Node, set[Form]], bounds: dict[fx.Node, float]) -> bool:
    """Whether a pool runs on the very forms it is asked for."""
    root, live = chain.root, live_items(chain, needs)
    if not isinstance(root, Pool) or root.kind != "max" or len(live) != 1:
        return False
    forms = needs[chain.values[0]]
    return FLOAT not in forms and (forms == {SIGNS} or bounds[root.source] < inf)


def find_bounds(lowered: Lowered) -> dict[fx.Node, float]:
    """For every value a bound of its magnitude, infinite where it may be NaN or infinite for some input."""
    bounds: dict[fx.Node, float] = {}
    for chain in lowered.chains:
        bound = _start(chain, bounds)
        for item in chain.items:
            if isinstance(item, fx.Node):
                bounds[item] = bound
            elif isinstance(item, AddStored):
                bound = _rounded(bound + bounds[item.source])
            else:
                bound = _rounded(_after(item, bound))
    return bounds


def _start(chain: Chain, bounds: dict[fx.Node, float]) -> float:
    root = chain.root
    if isinstance(root, Input):
        return inf
    if isinstance(root, Conv):
        return float(accumulator_bound(root.layer))
    if isinstance(root, Concat):
        return max(bounds[part] for part in root.parts)
    bound = bounds[root.source]
    if isinstance(root, Pool) and root.kind == "sum":
        return _rounded(bound * prod(root.kernel))
    assert isinstance(root, (Pool, Subsample, Load))
    return bound


def _rounded(bound: float) -> float:
    """A little more than `bound`, for the roundings; infinite where float32 may overflow or constants are NaN."""
    larger = bound * 1.001
    return larger if larger < _LARGEST else inf


def _largest(constant: Tensor) -> float:
    return float(constant.abs().max())


def _after(step: Step, bound: float) -> float:
    if isinstance(step, (Scale, Mul)):
        return bound * _largest(step.a)
    if isinstance(step, (Add, Sub)):
        return bound + _largest(step.a)
    if isinstance(step, Div):
        least = float(step.a.abs().min())
        return bound / least if least > 0 and _largest(step.a) < inf else inf
    if isinstance(step, Prelu):
        slope = _largest(step.a)
        return bound if slope <= 1 else bound * slope
    if isinstance(step, MulAll):
        return bound * abs(step.number)
    if isinstance(step, AddAll):
        return bound + abs(step.number)
    if isinstance(step, DivAll):
        return bound / abs(step.number) if step.number else inf
    if isinstance(step, Clamp):
        # min(max(v, low), high) may be as large as either bound, whatever v is.
        finite = [abs(limit) for limit in (step.low, step.high) if abs(limit) < inf]
        return max([bound, *finite])
    return bound if isinstance(step, Relu) else inf
