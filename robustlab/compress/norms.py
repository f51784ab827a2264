"""Batch-norm re-estimation: after training, running statistics that are averages and no longer chase the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.core.errors import RobustlabError, check_images, check_int, invalid
from robustlab.core.frozen import frozen
from robustlab.core.progress import Progress, SilentProgress

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def reestimate_batch_norms(
    model: nn.Module, images: Tensor, *, batch_size: int = 250, progress: Progress | None = None
) -> int:
    """Set the running statistics of every batch norm, in place, to their averages over `images`; return how many.

    Training leaves an exponential average over the last steps, of weights that were still moving; where weights are
    rounded, a small move changes what a layer puts out, and the average fits no weights that ever were (Nagel et al.
    2022, "Overcoming Oscillations in Quantization-Aware Training"). Here the finished model runs once over the images,
    each norm on the statistics of its batch, everything else in eval mode, so quantized as deployed. Mean and variance
    are the plain averages over the batches, of `batch_size` images or more, whose sizes differ by one at most.

    images: uint8 (N, 3, H, W), or float32 in [0, 1], N at least 2, augmented as those of the training were: the weights
    fit their statistics. On the plain images a ResNet-20 of four bits, trained on moved ones, loses five points.
    Norms without running statistics, and a model without norms, are left alone. Raises `ArgumentError` for other
    images and `RobustlabError` where a statistic is no longer finite; the model is then as it was.
    """
    check_int("batch_size", batch_size, 2)
    if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32) or len(images) < 2:
        found = f"{images.dtype} of shape {tuple(images.shape)}"
        raise invalid("images", found, "uint8 or float32 (N, 3, H, W) with N of 2 or more")
    if images.dtype == torch.float32:
        check_images(images)
    norms = [m for m in model.modules() if isinstance(m, _NORMS) and m.running_mean is not None]
    kept = [norm.momentum for norm in norms]
    if not norms:
        return 0
    progress = progress or SilentProgress()
    batches = images.tensor_split(max(1, len(images) // batch_size))
    progress.start("batch norms", len(batches))
    try:
        with frozen(model), torch.no_grad():  # puts the old statistics back: the new ones leave as copies
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
            for batch in batches:
                model(batch.float() / 255 if batch.dtype == torch.uint8 else batch.clone())
                progress.advance()
            found_statistics = [[value.clone() for value in _statistics(norm)] for norm in norms]
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
        progress.finish()
    if not all(bool(torch.isfinite(tensor).all()) for pair in found_statistics for tensor in pair):
        raise RobustlabError("a batch norm has statistics that are NaN or infinite on images; allowed: finite ones")
    for norm, pair in zip(norms, found_statistics, strict=True):
        for old, new in zip(_statistics(norm), pair, strict=True):
            old.copy_(new)
    return len(norms)


def _statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var
