"""What of a model lies in memory, bit by bit, and how to flip a bit there and back.

Everything is flipped in the deployed model itself: packed weights in the buffer that the kernel reads, float32 numbers
in their IEEE 754 bits, an activation's zero point and scale in the scheme that is handed to the kernel. Nothing is
simulated in float.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from robustlab.compress.composed import Composed
from robustlab.compress.parts import Parts
from robustlab.core.access import runs_elsewhere
from robustlab.core.errors import check_choice, check_int, invalid
from robustlab.deploy import OptimizedModel, PackedLayer, unoptimized
from robustlab.kernels import ActivationSpec, flip_bit

PARTS: dict[str, str] = {
    "weights": "codes of packed layers in their real bits; float32 weights of layers that stayed float",
    "scales": "float32 scales of packed layers, one per output",
    "biases": "float32 biases of packed layers",
    "zero-points": "zero points of activations, and those of groups of weights",
    "activation-scales": "the float32 step of each quantizer of activations",
    "floats": "every other float32 number: norms, shifts, thresholds, parameters",
}
"""Parts of a model that bits can be flipped in -> what they hold."""

FLOAT_BITS = 32


@dataclass(frozen=True, order=True)
class Flip:
    """One bit of a model.

    layer: name of the layer, or of the tensor for `floats` and float weights. part: one of `PARTS`. element: flat index
    into the layer's codes (O, C/groups, kh, kw) or the tensor. bit: 0 is the lowest; of a float32, 31 is the sign and
    30 the highest of the exponent.
    """

    layer: str
    part: str
    element: int
    bit: int


class Region(ABC):
    """Elements of the same width that lie together: part of a layer."""

    def __init__(self, layer: str, part: str, elements: int, bits: int) -> None:
        self.layer, self.part, self.elements, self.bits = layer, part, elements, bits

    @property
    def size(self) -> int:
        """Bits."""
        return self.elements * self.bits

    @abstractmethod
    def toggle(self, element: int, bit: int) -> None:
        """Flip a bit. Raises `ArgumentError`, with nothing changed, where the kernels refuse what that gives."""


class Codes(Region):
    """The weights of a packed layer."""

    def __init__(self, name: str, layer: PackedLayer) -> None:
        super().__init__(name, "weights", prod(layer.shape), layer.scheme.weight_bits)
        self.target = layer
        activation, bits = layer.scheme.activation, layer.scheme.weight_bits
        # A flip reaches -2^(bits - 1), one step further than the codes of a file: sums must still fit.
        step = 2 * (2 ** (bits - 1) + abs(layer.scheme.weight_zero_point))
        if (
            activation is not None
            and layer.weight().taps * (2**activation.bits - 1) * layer.scheme.unit * step >= 2**32
        ):
            raise invalid(f"layer {name}", f"{layer.weight().taps} weights per output", "sums that stay below 2^31")

    def toggle(self, element: int, bit: int) -> None:
        """See `Region.toggle`."""
        flip_bit(self.target.weight(), element, bit)


class Numbers(Region):
    """A contiguous tensor of float32, or of int8 of which the lowest `bits` are stored (two's complement)."""

    def __init__(self, name: str, part: str, tensor: Tensor, bits: int = FLOAT_BITS) -> None:
        super().__init__(name, part, tensor.numel(), bits)
        self.tensor = tensor

    def toggle(self, element: int, bit: int) -> None:
        """See `Region.toggle`."""
        flat = self.tensor.detach().view(-1)
        if self.tensor.dtype == torch.int8:
            low = 1 << (self.bits - 1)
            flat[element] = ((int(flat[element]) ^ (1 << bit)) + low) % (2 * low) - low
        else:
            flat.view(torch.int32)[element] ^= _signed(1 << bit)


class ActivationNumber(Region):
    """The zero point or the scale of the activations of one layer, or of all parts of a layer that is deployed so."""

    def __init__(self, name: str, part: str, layers: Sequence[PackedLayer]) -> None:
        self.layers = layers
        super().__init__(name, part, 1, self.spec.bits if part == "zero-points" else FLOAT_BITS)

    @property
    def spec(self) -> ActivationSpec:
        """What the layers have now."""
        spec = self.layers[0].scheme.activation
        assert spec is not None
        return spec

    def toggle(self, element: int, bit: int) -> None:
        """See `Region.toggle`."""
        spec = self.spec
        if self.part == "zero-points":
            whole = int(spec.zero_point)
            changed = replace(spec, zero_point=(whole ^ (1 << bit)) + (spec.zero_point - whole))
        else:
            (raw,) = struct.unpack("I", struct.pack("f", spec.scale))
            changed = replace(spec, scale=struct.unpack("f", struct.pack("I", raw ^ (1 << bit)))[0])
        for layer in self.layers:
            layer.scheme = replace(layer.scheme, activation=changed)


class Memory:
    """The bits of a model, in some or all of `PARTS`; use it in a `with` statement, at whose end all flips are undone.

    For a model of `robustlab.optimize` the bits are those of the model it was made of, and the programs, which hold
    copies, are made anew after each flip. Loops that flip often are faster on `robustlab.deploy.unoptimized(model)`.

    A weight's bit takes the sum of its channel with it, see `robustlab.kernels.flip_bit`: a fault hits the stored
    weights before the kernels prepare them. Not part of the memory: those sums, what pads a word, and flips that the
    kernels refuse because the number would be none (an activation's scale that is not positive and finite).

    Raises `ArgumentError` for an unknown part, a model without any bits in these parts, and one that another runtime
    runs, whose bits are not here.
    """

    def __init__(self, model: nn.Module, parts: Sequence[str] = ("weights",)) -> None:
        if isinstance(parts, str) or not parts:
            raise invalid("parts", parts, f"a list of at least one of {', '.join(PARTS)}")
        for part in parts:
            check_choice("part", part, PARTS)
        if runs_elsewhere(unoptimized(model)):
            raise invalid("model", type(model).__name__, "a model whose bits are here; robustlab convert makes one")
        self.model = model
        self.parts = tuple(dict.fromkeys(parts))
        self.regions: tuple[Region, ...] = tuple(_regions(unoptimized(model), self.parts))
        self.flipped: list[Flip] = []
        if not self.regions:
            raise invalid("parts", ", ".join(parts), f"parts that {type(unoptimized(model)).__name__} has")
        self._by_name = {(region.layer, region.part): region for region in self.regions}

    @property
    def bits(self) -> int:
        """All bits that can be flipped."""
        return sum(region.size for region in self.regions)

    def at(self, index: int) -> Flip:
        """The flip of bit `index` in [0, bits), region by region, element by element."""
        check_int("index", index, 0, self.bits - 1)
        for region in self.regions:
            if index < region.size:
                return Flip(region.layer, region.part, *divmod(index, region.bits))
            index -= region.size
        raise AssertionError("an index below `bits` lies in a region")

    def region(self, flip: Flip) -> Region:
        """Where a flip is. Raises `ArgumentError` for one that is not in this memory."""
        region = self._by_name.get((flip.layer, flip.part)) if isinstance(flip, Flip) else None
        if region is None:
            raise invalid("flip", flip, "a layer and part of this memory")
        check_int("element", flip.element, 0, region.elements - 1)
        check_int("bit", flip.bit, 0, region.bits - 1)
        return region

    def flip(self, flips: Iterable[Flip]) -> None:
        """Flip bits, all of them or none. Raises `ArgumentError` for one that is not there or that kernels refuse."""
        done: list[Flip] = []
        try:
            for flip in flips:
                self._toggle(flip)
                done.append(flip)
        except BaseException:
            for flip in reversed(done):
                self._toggle(flip)
            self._refresh()
            raise
        self.flipped += done
        self._refresh()

    def undo(self, count: int | None = None) -> None:
        """Undo the latest `count` flips, by default all: the bytes are then what they were."""
        count = len(self.flipped) if count is None else check_int("count", count, 0, len(self.flipped))
        for _ in range(count):
            self._toggle(self.flipped[-1])
            self.flipped.pop()
        self._refresh()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def _toggle(self, flip: Flip) -> None:
        self.region(flip).toggle(flip.element, flip.bit)

    def _refresh(self) -> None:
        if isinstance(self.model, OptimizedModel):
            self.model.refresh()


@contextmanager
def flipped(model: nn.Module, flips: Iterable[Flip]) -> Iterator[nn.Module]:
    """`model` with bits flipped, in place; at the end, whatever happens, all its bytes are what they were.

    Raises `ArgumentError` for a flip that is not there, or that the kernels refuse; then nothing is flipped.
    """
    wanted = list(flips)
    with Memory(model, tuple(PARTS)) as memory:
        memory.flip(wanted)
        yield model


def _regions(model: nn.Module, parts: Sequence[str]) -> Iterator[Region]:
    """Regions in the order of the model's modules."""
    taken: set[int] = set()  # modules whose tensors are dealt with, or are no bits of the file
    owned: set[int] = set()  # tensors, which modules may share
    for name, module in model.named_modules():
        if id(module) in taken:
            continue
        found: list[Region] = []
        if isinstance(module, Parts):
            found = list(_of_parts(name, module))
            taken.update(id(inner) for inner in module.modules())
        elif isinstance(module, PackedLayer):
            found = list(_of_packed(name, module))
        else:
            found = list(_of_floats(name, module))
        for region in found:
            if isinstance(region, Numbers):
                if id(region.tensor) in owned:
                    continue
                owned.add(id(region.tensor))
            if region.part in parts and region.size:
                yield region


def _of_packed(name: str, layer: PackedLayer) -> Iterator[Region]:
    yield Codes(name, layer)
    yield Numbers(name, "scales", layer.scale)
    if layer.bias is not None:
        yield Numbers(name, "biases", layer.bias)
    if layer.scheme.activation is not None:
        yield ActivationNumber(name, "zero-points", [layer])
        yield ActivationNumber(name, "activation-scales", [layer])


def _of_parts(name: str, layer: Parts) -> Iterator[Region]:
    """Scales of 1 inside parts, and the layers that only add up inputs, are not in the file and no memory."""
    layers = [part for part in layer.layers if isinstance(part, PackedLayer)]
    sums = [part for part in layer.sums if isinstance(part, PackedLayer)]
    for index, part in enumerate(layers):
        yield Codes(f"{name}.layers.{index}", part)
    yield Numbers(name, "scales", layer.scales)
    if layer.bias is not None:
        yield Numbers(name, "biases", layer.bias)
    if layer.zero_points is not None:
        yield Numbers(f"{name}.zero_points", "zero-points", layer.zero_points, layers[0].scheme.weight_bits)
    if layers and layers[0].scheme.activation is not None:
        yield ActivationNumber(name, "zero-points", [*layers, *sums])
        yield ActivationNumber(name, "activation-scales", [*layers, *sums])


def _of_floats(name: str, module: nn.Module) -> Iterator[Region]:
    """The module's own float32 tensors that are saved with it."""
    own = [*module._parameters.items(), *module._buffers.items()]
    for label, tensor in own:
        if tensor is None or tensor.dtype != torch.float32 or label in module._non_persistent_buffers_set:
            continue
        where = f"{name}.{label}" if name else label
        if isinstance(module, (nn.Conv2d, nn.Linear)) and label == "weight":
            yield Numbers(where, "weights", _contiguous(where, tensor))
        elif isinstance(module, Composed) and label == "bias":
            yield Numbers(name, "biases", tensor)
        else:
            yield Numbers(where, "floats", _contiguous(where, tensor))


def _contiguous(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_contiguous():
        raise invalid(f"tensor {name}", f"strides {tensor.stride()}", "a contiguous tensor")
    return tensor


def _signed(mask: int) -> int:
    """A mask of 32 bits as an int32."""
    return mask - (1 << 32) if mask >= 1 << 31 else mask
