"""Every layer at every choice of bits, made once, and networks put together from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields

from torch import Tensor, nn

from robustlab.compress.algorithms import TRAINED
from robustlab.compress.allocation.problem import Bits, bits_text
from robustlab.compress.catalogue import ALGORITHMS
from robustlab.compress.compress import compress_with
from robustlab.compress.fold import fold_batch_norms
from robustlab.compress.freeze import freeze
from robustlab.compress.layers import CompressedLayer
from robustlab.compress.ptq.grid import bias_of
from robustlab.compress.spec import Spec
from robustlab.compress.structure import replace, trace
from robustlab.core.errors import check_int, invalid
from robustlab.core.progress import Progress

DEFAULT_CHOICES: tuple[Bits, ...] = ((2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (8, 8))
ALLOCATED = tuple(name for name in ALGORITHMS if name != "binary" and name not in TRAINED)
"""Algorithms that need no training, so that a layer can be judged as soon as it is made."""


@dataclass(frozen=True)
class Variants:
    """The float network with its batch norms folded, and its layers compressed, frozen or deployed.

    layers: name -> bits -> the layer, in running order; a layer with one choice is not to be decided. networks: bits
    -> the whole network with all these layers at once (those with one choice at theirs).
    """

    base: nn.Module
    layers: Mapping[str, Mapping[Bits, nn.Module]]
    networks: Mapping[Bits, nn.Module]

    def mixed(self, allocation: Mapping[str, Bits]) -> nn.Module:
        """The network with the layers of `allocation` in place and all others in float; modules are shared."""
        memo: dict[int, object] = {id(t): t for t in (*self.base.parameters(), *self.base.buffers())}
        result = copy.deepcopy(self.base, memo)
        for name, bits in allocation.items():
            replace(result, name, self.layers[name][bits])
        return result


def make_variants(
    model: nn.Module,
    calibration: Iterable[Tensor] | Tensor,
    choices: Sequence[Bits] = DEFAULT_CHOICES,
    spec: Spec | None = None,
    *,
    finish: Callable[[nn.Module], nn.Module] = freeze,
    progress: Progress | None = None,
) -> Variants:
    """Compress `model` once per choice and take it apart.

    Activation ranges come from the float network whatever the other layers are, so with the algorithms that only find
    ranges a layer here is the layer that `compress` makes with all others in float, bit for bit; with those that round
    layer after layer (gptq, adaround, brecq, qdrop) it was rounded behind layers of the same bits.

    choices: (weight bits, activation bits), 2 to 8 each, all different. spec: all else that `compress` is told. Its
    algorithm must need no training, and layers that it gives bits of their own, the first and the last one among them,
    have no other choice. A statistics correction is for the whole network: here layers only get the biases that it will
    fill, as zeros.
    finish: what makes the exact layers, `freeze` or `robustlab.deploy.deploy`.
    Raises `ArgumentError` as `compress` does, and for a model that is compressed already.
    """
    check_choices(choices)
    spec = spec or Spec()
    corrected, spec = spec.statistics_correction, with_fields(spec, statistics_correction=False)
    if spec.algorithm not in ALLOCATED:
        raise invalid("algorithm", spec.algorithm, f"one that needs no training: {', '.join(ALLOCATED)}")
    if any(isinstance(module, CompressedLayer) for module in model.modules()):
        raise invalid("model", type(model).__name__, "a float model; this one is compressed already")
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    layers: dict[str, dict[Bits, nn.Module]] = {}
    networks: dict[Bits, nn.Module] = {}
    for weights, activations in sorted(choices):
        planned = with_fields(spec, weights=weights, activations=activations)
        simulated = compress_with(model, planned, calibration=batches, progress=progress)
        if corrected:
            for module in simulated.modules():
                if isinstance(module, CompressedLayer):
                    bias_of(module)
        network = finish(simulated)
        networks[weights, activations] = network
        for name in trace(simulated, batches[0][:1]).order:
            layer = simulated.get_submodule(name)
            if isinstance(layer, CompressedLayer):
                bits = (layer.weight_bits, layer.activation_bits)
                layers.setdefault(name, {}).setdefault(bits, network.get_submodule(name))
    base = copy.deepcopy(model).eval()
    fold_batch_norms(base, batches[0][:4])
    spec.method().prepare(base, batches[0][:4])
    return Variants(base, layers, networks)


def check_choices(choices: Sequence[Bits]) -> None:
    """Raise `ArgumentError` unless these are pairs of 2 to 8 bits, each once."""
    if not choices:
        raise invalid("choices", choices, "at least one pair (weight bits, activation bits)")
    for bits in choices:
        if not isinstance(bits, (tuple, list)) or len(bits) != 2:
            raise invalid("choices", bits, "pairs (weight bits, activation bits)")
        for value in bits:
            check_int("choices", value, 2, 8)
        if list(choices).count(bits) > 1:
            raise invalid("choices", bits_text(bits), "each choice once")
