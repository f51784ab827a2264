"""Bias correction: take the mean error that quantization adds out of every output channel (Nagel et al., ICCV 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustlab.compress.layers import CompressedConv2d
from robustlab.compress.ptq.capture import all_output_moments, output_moments
from robustlab.compress.ptq.grid import bias_of
from robustlab.compress.ptq.method import Method, Work, hold_all


@dataclass(frozen=True)
class BiasCorrection(Method):
    """b <- b - (E[y^] - E[y]) per output channel, E over calibration images and positions.

    y^ is the output behind the quantized layers before this one, themselves corrected, and y the float output: on the
    calibration images the mean error of every layer's output is zero afterwards. The published form for models with
    batch norm, (W^ - W) E[x], estimates the same from the norms alone.
    """

    def apply(self, work: Work) -> None:
        """Correct the layers one after another, in the order they run."""
        layers = list(work.layers())
        hold_all(work)
        kinds = {name: isinstance(layer, CompressedConv2d) for name, layer, _ in layers}
        wanted = all_output_moments(work.reference, work.batches, kinds)
        work.progress.start("bias correction", len(layers))
        try:
            for name, layer, _ in layers:
                found = output_moments(work.model, work.batches, name, convolution=kinds[name])
                with torch.no_grad():
                    bias_of(layer).sub_((found.mean - wanted[name].mean).float())
                work.progress.advance(1, name)
        finally:
            work.progress.finish()
