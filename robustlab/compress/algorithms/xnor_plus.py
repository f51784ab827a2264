"""XNOR-Net++: a learned output scale a[o] * b[h] * c[w] (Bulat & Tzimiropoulos 2019, case 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.compress.coders import OutputMap
from robustlab.compress.composed import Composition, check_map
from robustlab.compress.contract import Algorithm, Site
from robustlab.compress.quantizers import ClippedSign, LearnedScaleSign
from robustlab.kernels import ConvGeometry


class OuterMap(OutputMap):
    """b[h] * c[w], ones at first; their lengths come from the first calibration batch, so images keep its size."""

    def __init__(self, geometry: ConvGeometry, kernel: tuple[int, int]) -> None:
        super().__init__()
        self._geometry, self._kernel = geometry, kernel
        self.rows_factor = nn.Parameter(torch.ones(1))
        self.columns_factor = nn.Parameter(torch.ones(1))

    def start(self, x: Tensor) -> None:
        """One number for every row and column of the output."""
        height, width = self._geometry.output_size((x.shape[2], x.shape[3]), self._kernel)
        self.rows_factor = nn.Parameter(torch.ones(height))
        self.columns_factor = nn.Parameter(torch.ones(width))

    def composition(self) -> Composition:
        """The map."""
        return Composition("map", {"rows_factor": self.rows_factor, "columns_factor": self.columns_factor})

    def forward(self, y: Tensor) -> Tensor:
        """Scale the output (N, O, H', W')."""
        check_map(y, self.rows_factor, self.columns_factor)
        return y * (self.rows_factor[:, None] * self.columns_factor[None, :])


def _output(site: Site) -> OutputMap | None:
    return None if site.geometry is None else OuterMap(site.geometry, (site.weight.shape[2], site.weight.shape[3]))


ALGORITHM = Algorithm(
    name="xnor++",
    summary="signs, a learned scale per output channel times one per output row and column",
    source="Bulat & Tzimiropoulos 2019, XNOR-Net++",
    backward="1 where |x| <= 1, for weights and activations; scales are learned",
    weight=lambda site: LearnedScaleSign(site.weight),
    input=lambda _site: ClippedSign(),
    output=_output,
    deployability="M",
    binary=True,
)
