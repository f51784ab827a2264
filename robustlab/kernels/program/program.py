"""A program: a straight line of nodes over values, run by one native call or by the reference interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustlab.core.errors import invalid
from robustlab.kernels import dispatch
from robustlab.kernels.ops import native_kernels
from robustlab.kernels.program.native import build, spans
from robustlab.kernels.program.nodes import Conv, Node, Value
from robustlab.kernels.program.reference import interpret
from robustlab.kernels.spec import shown

if TYPE_CHECKING:
    from robustlab.kernels import _native

_SEQUENCES = (list, tuple, Sequence)  # the usual ones first: an abstract class takes longer to ask


@dataclass(frozen=True, eq=False)
class Program:
    """What a `ProgramBuilder` builds; immutable, and `run` may be called from several threads at once.

    values: every value, by handle. nodes: in the order they run. inputs, outputs: handles, in the order of `run`.
    scalars: how many (N,) factors `run` takes.
    """

    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    scalars: int
    outputs: tuple[int, ...]

    def run(self, inputs: Sequence[Tensor], scalars: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Run on float32 CPU tensors (N, C, H, W) and (N,), with any batch size N, and return the outputs.

        Outputs are contiguous (N, C, H, W), float32 or int32. Raises `ArgumentError` for tensors that do not fit.
        """
        if not (isinstance(inputs, _SEQUENCES) and isinstance(scalars, _SEQUENCES)):
            given = f"{type(inputs).__name__} and {type(scalars).__name__}"
            raise invalid("inputs, scalars", given, "sequences of tensors")
        backend = dispatch.backend()
        if backend != "reference":
            threads = torch.get_num_threads()
            program = self._native()
            quick = program.run_tensors(backend, threads, inputs, scalars, Tensor, torch.empty, self._dtypes)
            if quick is not None:
                return quick
        inputs, scalars = list(inputs), list(scalars)
        batch = self._batch(inputs, scalars)
        x = [_checked("inputs", tensor, (batch, *shape)) for shape, tensor in zip(self._read, inputs, strict=True)]
        factors = [_checked("scalars", tensor, (batch,)) for tensor in scalars]
        if backend == "reference":
            with torch.no_grad():
                return interpret(self.values, self.nodes, dict(zip(self.inputs, x, strict=True)), factors, self.outputs)
        made = zip(self.outputs, self._dtypes, strict=True)
        results = tuple([torch.empty(batch, *self.values[handle].shape, dtype=dtype) for handle, dtype in made])
        program.run(backend, threads, batch, spans(x), spans(factors), spans(results))
        return results

    def __reduce__(self) -> tuple[object, ...]:
        """Copies and pickles build their own native form."""
        return Program, (self.values, self.nodes, self.inputs, self.scalars, self.outputs)

    @property
    def arena_bytes(self) -> int:
        """Bytes that the values between inputs and outputs take natively, for one image; 0 without the extension."""
        return 0 if native_kernels() is None else self._native().arena_bytes()

    @cached_property
    def _dtypes(self) -> tuple[torch.dtype, ...]:
        """Type of every output."""
        return tuple(torch.int32 if self.values[handle].kind == "int" else torch.float32 for handle in self.outputs)

    def _native(self) -> _native.Program:
        """The native program, which points to packed weights: built anew where torch has moved one of them.

        torch moves storages in place when it shares them with other processes. If two threads build a program at once,
        one of both is kept.
        """
        places = [weight.data_ptr() for weight in self._weights]
        built: tuple[list[int], _native.Program] | None = self.__dict__.get("_built")
        if built is None or built[0] != places:
            extension = native_kernels()
            assert extension is not None, "the caller knows that the extension runs"
            program = build(extension, self.values, self.nodes, self.inputs, self.scalars, self.outputs)
            self.__dict__["_built"] = built = (places, program)
        return built[1]

    @cached_property
    def _weights(self) -> tuple[Tensor, ...]:
        return tuple(node.weight.data for node in self.nodes if isinstance(node, Conv))

    @cached_property
    def _read(self) -> tuple[tuple[int, int, int], ...]:
        """Shape, without the batch, of every input."""
        return tuple(self.values[handle].shape for handle in self.inputs)

    def _batch(self, inputs: Sequence[Tensor], scalars: Sequence[Tensor]) -> int:
        """The batch size, of as many tensors as there must be."""
        if len(inputs) != len(self.inputs) or len(scalars) != self.scalars:
            given = f"{len(inputs)} tensors and {len(scalars)} scalars"
            raise invalid("inputs", given, f"{len(self.inputs)} and {self.scalars}")
        first = inputs[0]
        return first.shape[0] if isinstance(first, Tensor) and first.ndim else 0


def _checked(argument: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor in memory as the kernels read it: contiguous, signs where they belong."""
    if not isinstance(x, Tensor) or x.shape != shape or x.dtype is not torch.float32 or not x.is_cpu:
        raise invalid(argument, shown(x), f"a float32 tensor {shape} on the cpu")
    return x.resolve_neg().contiguous()
