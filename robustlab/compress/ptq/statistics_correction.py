"""Statistics correction: give every output channel the mean and deviation it has in the float model.

Global affine calibration (PTQ4VM for video matting, 2025); Q&C (2025) corrects the variance alone. The statistics are
those of calibration images: taken from the images a model is then judged on, it would be test-time adaptation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab.compress.layers import CompressedConv2d
from robustlab.compress.ptq.capture import all_output_moments, output_moments
from robustlab.compress.ptq.grid import bias_of, rescale
from robustlab.compress.ptq.method import Work, hold_all

_LEAST = 1e-6


def correct_statistics(work: Work) -> None:
    """y' = gamma (y - mu) + mu_float, gamma = sigma_float / sigma, per output channel of every layer of `work`.

    mu and sigma are taken over images and positions of the calibration batches; the layers are corrected in the order
    they run, each behind those that are corrected already. gamma goes into the scale of the weight codes, which do not
    change, and the rest into the bias: nothing is stored or computed in addition (a layer without a bias gets one). A
    channel that is constant, in the float model or the compressed one, keeps its scale.
    """
    layers = list(work.layers())
    hold_all(work)
    kinds = {name: isinstance(layer, CompressedConv2d) for name, layer, _ in layers}
    wanted = all_output_moments(work.reference, work.batches, kinds)
    work.progress.start("statistics correction", len(layers))
    try:
        for name, layer, _ in layers:
            found = output_moments(work.model, work.batches, name, convolution=kinds[name])
            gain = gains(found.deviation, wanted[name].deviation)
            rescale(layer, gain)
            with torch.no_grad():
                bias = bias_of(layer)
                bias.copy_(gain * (bias.double() - found.mean) + wanted[name].mean)
            work.progress.advance(1, name)
    finally:
        work.progress.finish()


def gains(found: Tensor, wanted: Tensor) -> Tensor:
    """wanted / found, and 1 where either is below a millionth of the largest deviation in its layer; float64 (O,)."""
    least = _LEAST * max(float(wanted.max()), float(found.max()))
    flat = (found <= least) | (wanted <= least)
    return torch.where(flat, 1.0, wanted / torch.where(flat, 1.0, found))
