"""Integer layers with float operations around them: shifts, factors per sample, output maps, a second plane.

Each is a plain module around one `layer`, a `robustlab.compress.freeze.FrozenLayer` or the packed layer that takes its
place, so what is deployed equals the simulation operation by operation. `layer` answers fl(acc * scale[o]); where
`outer_bias` is False it adds the bias as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustlab.core.errors import RobustlabError


@dataclass(frozen=True)
class Composition:
    """A kind of `COMPOSITIONS` and the float32 tensors it takes."""

    kind: str
    tensors: Mapping[str, Tensor]


class Shift(nn.Module):
    """y = fl(x + shift[c]), along the channels of images, or the last axis of rows (`rows` True)."""

    shift: Tensor

    def __init__(self, shift: Tensor, rows: bool) -> None:
        super().__init__()
        self.register_buffer("shift", shift.detach().clone())
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), or (..., C) for rows, -> the same shape."""
        return x + (self.shift if self.rows else self.shift.reshape(1, -1, 1, 1))

    def extra_repr(self) -> str:
        """Channels."""
        return f"{len(self.shift)}"


class Composed(nn.Module):
    """What the kinds share. `lengths` says how long each tensor is: inputs (channels, features), any or one (scalar).

    Shape: (N, C, H, W) -> (N, O, H', W'), or (..., K) -> (..., O) around a linear layer.
    """

    kind: ClassVar[str]
    deployability: ClassVar[str]
    lengths: ClassVar[Mapping[str, str]] = MappingProxyType({})
    outer_bias: ClassVar[bool] = True
    layer: Any
    bias: Tensor | None

    def __init__(self, layer: nn.Module, tensors: Mapping[str, Tensor], bias: Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        self.rows: bool = self.layer.scheme.geometry is None
        self.register_buffer("bias", bias)
        self._keep(tensors)

    def _keep(self, tensors: Mapping[str, Tensor]) -> None:
        for name in self.lengths:
            self.register_buffer(name, tensors[name].detach().clone())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of `lengths`, as they were given."""
        return {name: self.get_buffer(name) for name in self.lengths}

    def _per_channel(self, vector: Tensor) -> Tensor:
        return vector if self.rows else vector.reshape(1, -1, 1, 1)

    def _mean(self, x: Tensor) -> Tensor:
        """Mean of every sample, in a shape that broadcasts with it; of every row for a linear layer."""
        return x.mean(dim=-1, keepdim=True) if self.rows else x.mean(dim=(1, 2, 3), keepdim=True)

    def _biased(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self._per_channel(self.bias)


class Shifted(Composed):
    """y = layer(fl(x + shift[c])): thresholds of its own for every input channel (ReActNet, Liu et al. 2020).

    The shift is a module of its own, so that `robustlab.optimize` folds it into the thresholds of what comes before.
    """

    kind = "shift"
    deployability = "P"
    lengths = MappingProxyType({"shift": "inputs"})
    outer_bias = False

    def _keep(self, tensors: Mapping[str, Tensor]) -> None:
        self.front = Shift(tensors["shift"], self.rows)

    def tensors(self) -> dict[str, Tensor]:
        """The shift."""
        return {"shift": self.front.shift}

    def forward(self, x: Tensor) -> Tensor:
        """Shift, then the layer."""
        return self.layer(self.front(x))  # type: ignore[no-any-return]


class SampleScaled(Composed):
    """y = fl(fl(layer(x) * mean|x[n]|) + bias[o]) (XNOR-Net, Rastegari et al. 2016, one factor for a sample)."""

    kind = "sample"
    deployability = "S"

    def forward(self, x: Tensor) -> Tensor:
        """The layer, times the mean magnitude of the sample."""
        return self._biased(self.layer(x) * self._mean(x.abs()))


class Mapped(Composed):
    """y = fl(fl(layer(x) * fl(rows[h] * columns[w])) + bias[o]) (XNOR-Net++, Bulat & Tzimiropoulos 2019, case 3)."""

    kind = "map"
    deployability = "M"
    lengths = MappingProxyType({"rows_factor": "any", "columns_factor": "any"})

    def forward(self, x: Tensor) -> Tensor:
        """The layer, times the map. Raises `RobustlabError` for an output of another size than the map."""
        y = self.layer(x)
        rows, columns = self.get_buffer("rows_factor"), self.get_buffer("columns_factor")
        check_map(y, rows, columns)
        return self._biased(y * (rows[:, None] * columns[None, :]))


class TwoPlanes(Composed):
    """Two planes of signs with the same weights (LPB of BiFSMNv2, Qin et al. 2022, in a factorable form).

    u = fl(x + shift[c]); r = fl(fl(u - first * sign(u)) + second_shift[c]);
    y = fl(fl(fl(layer(u) * first) + fl(layer(r) * mean|r[n]|)) + bias[o])
    """

    kind = "planes"
    deployability = "2P"
    lengths = MappingProxyType({"shift": "inputs", "second_shift": "inputs", "first": "one"})

    def forward(self, x: Tensor) -> Tensor:
        """The layer on the signs of the input, and on the signs of what they leave."""
        first = self.get_buffer("first")
        u = x + self._per_channel(self.get_buffer("shift"))
        rest = u - torch.where(u < 0, -first, first) + self._per_channel(self.get_buffer("second_shift"))
        return self._biased(self.layer(u) * first + self.layer(rest) * self._mean(rest.abs()))


class Adaptive(Composed):
    """Thresholds that follow the sample (DAB of BiDense, with one scale for a sample in place of one per channel).

    u = fl(x - fl(fl(gain[c] * mean_hw(x)[n, c]) + offset[c]));
    y = fl(fl(layer(u) * exp(fl(exponent * fl(mean|u[n]| - 1)))) + bias[o])
    """

    kind = "adaptive"
    deployability = "S"
    lengths = MappingProxyType({"gain": "inputs", "offset": "inputs", "exponent": "one"})

    def forward(self, x: Tensor) -> Tensor:
        """The layer on the signs of the centred input, times the factor of the sample."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        u = x - (self._per_channel(self.get_buffer("gain")) * mean + self._per_channel(self.get_buffer("offset")))
        return self._biased(self.layer(u) * torch.exp(self.get_buffer("exponent") * (self._mean(u.abs()) - 1)))


def check_map(y: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Raise `RobustlabError` unless the output (N, O, H', W') has the size of the map."""
    if tuple(y.shape[2:]) != (len(rows), len(columns)):
        size = f"{len(rows)} x {len(columns)}"
        raise RobustlabError(f"output of a layer with an output map is {tuple(y.shape[2:])}; allowed: {size}")


COMPOSITIONS: Mapping[str, type[Composed]] = MappingProxyType(
    {kind.kind: kind for kind in (Shifted, SampleScaled, Mapped, TwoPlanes, Adaptive)}
)
"""Every kind by its name in a model file."""


def compose(composition: Composition, layer: nn.Module, bias: Tensor | None) -> Composed:
    """The module of a composition around a layer that has the bias itself where the kind says so."""
    kind = COMPOSITIONS[composition.kind]
    return kind(layer, composition.tensors, bias if kind.outer_bias else None)
