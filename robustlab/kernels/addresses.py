"""Where each bit of each weight lies in a prepacked tensor: what a fault in memory hits.

The formulas follow the table in `robustlab.kernels.prepack`. Padding (lanes, values and channels that fill up a panel,
a word or a byte) belongs to no weight and has no address here.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from robustlab.core.errors import check_int, invalid
from robustlab.kernels.prepack import LANES, PackedWeight, WeightForm


def bit_addresses(form: WeightForm, elements: Tensor, bits: Tensor) -> Tensor:
    """int64 (n,): 8 * byte + bit in the prepacked tensor of bit `bits` (n,) of the weights `elements` (n,).

    elements: flat indices into the codes (O, C/groups, kh, kw). bits: 0 is the lowest of two's complement; one-bit
    weights have only bit 0, which is set where the weight is -1. Raises `ArgumentError` for indices out of range.
    """
    _check("elements", elements, prod(form.shape))
    _check("bits", bits, form.bits)
    out, channels, height, width = form.shape
    tap = elements % (height * width)
    channel = elements // (height * width) % channels
    output = elements // (channels * height * width)
    if form.depthwise:
        word = (tap * -(-out // 64) + output // 64) * form.bits + bits
        return word * 64 + output % 64
    lane = _lanes(form, output)
    panel, lane = lane // LANES, lane % LANES
    values, unit = (4, channels) if form.kind == "codes" else (32, -(-channels // 8) * 8)
    run, value = tap // form.run_taps, tap % form.run_taps * unit + channel
    runs, word, value = height * width // form.run_taps, value // values, value % values
    if form.kind != "codes":
        plane = (panel * form.bits + bits) * runs + run
        return ((plane * form.run_words + word) * LANES + lane) * 32 + value
    place = (panel * runs + run) * form.run_words + word
    if form.bits == 8:
        return ((place * LANES + lane) * 4 + value) * 8 + bits
    return (place * form.bits + bits) * 64 + 4 * lane + value


def sum_addresses(form: WeightForm, outputs: Tensor) -> Tensor:
    """int64 (n,): which int32 of the prepacked tensor is the sum of the codes of `outputs` (n,).

    Raises `ArgumentError` for signs, which have no sums, or outputs out of range.
    """
    if form.kind == "signs":
        raise invalid("form", form, "weights of another kind than signs, which come with sums")
    _check("outputs", outputs, form.shape[0])
    return form.code_bytes // 4 + (outputs if form.depthwise else _lanes(form, outputs))


def flip_bit(weight: PackedWeight, element: int, bit: int) -> None:
    """Flip one bit of one weight where it lies, in place; a second time, and all bytes are what they were.

    The sum of the weight's output channel, which is no stored bit but follows from the codes, is kept true, as it is
    when prepacking starts from the flipped bit. Two's complement may give -2^(bits - 1), a code that no file has.

    Raises `ArgumentError` for a weight or bit that is not there.
    """
    form, data = weight.form, weight.data
    check_int("element", element, 0, prod(form.shape) - 1)
    check_int("bit", bit, 0, form.bits - 1)
    address = int(bit_addresses(form, torch.tensor([element]), torch.tensor([bit])))
    byte, mask = address // 8, 1 << address % 8
    was_set = bool(int(data[byte]) & mask)
    data[byte] ^= mask
    if form.kind == "signs":
        return
    worth = -1 if form.bits == 1 else (1 << bit) * (-1 if bit == form.bits - 1 else 1)
    output = torch.tensor([element // prod(form.shape[1:])])
    # one bit: the sum counts 0 and -1, so that its bit is worth -1 as well
    data.view(torch.int32)[sum_addresses(form, output)] += -worth if was_set else worth


def _lanes(form: WeightForm, outputs: Tensor) -> Tensor:
    """Lane of each output, over all panels: every group starts a panel."""
    each = form.shape[0] // form.groups
    return outputs // each * (-(-each // LANES) * LANES) + outputs % each


def _check(argument: str, indices: Tensor, count: int) -> None:
    if indices.dtype != torch.int64 or indices.ndim != 1:
        raise invalid(argument, f"{indices.dtype} of shape {tuple(indices.shape)}", "an int64 tensor (n,)")
    if indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < count):
        raise invalid(argument, f"a tensor with values in {[int(v) for v in indices.aminmax()]}", f"[0, {count - 1}]")
