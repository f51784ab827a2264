"""`compress`: copy a float model, swap its layers for compressed ones, and calibrate them."""

from __future__ import annotations

import copy
import fnmatch
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace as with_fields

import torch
from torch import Tensor, nn

from robustlab.compress.algorithms import TRAINED
from robustlab.compress.contract import Algorithm
from robustlab.compress.fold import fold_batch_norms
from robustlab.compress.layers import CompressedConv2d, CompressedLayer, CompressedLinear, numeric_padding
from robustlab.compress.observers import RangeObserver
from robustlab.compress.one_sided import watching_signs
from robustlab.compress.ptq import Method, Work, correct_statistics
from robustlab.compress.quantizers import ActivationQuantizer
from robustlab.compress.spec import FIRST_LAST_BITS, Spec, refused_scheme
from robustlab.compress.starting import fit_norms_to_signs, starting
from robustlab.compress.structure import Layer, replace, shared_names, trace
from robustlab.compress.suitable import check_finite, check_signs, check_zeros, watched
from robustlab.compress.weight_grid import PLAIN, WeightScheme
from robustlab.core.access import runs_elsewhere
from robustlab.core.errors import ArgumentError, check_images, invalid
from robustlab.core.frozen import frozen
from robustlab.core.keys import sample_keys, uniform
from robustlab.core.progress import Progress, SilentProgress
from robustlab.models import ModelInfo, info_of, set_info

_log = logging.getLogger(__name__)


def compress(
    model: nn.Module,
    *,
    weights: int,
    activations: int,
    calibration: Iterable[Tensor] | Tensor,
    algorithm: str | Method | Algorithm = "mse",
    statistics_correction: bool = False,
    first_last_bits: int | None = FIRST_LAST_BITS,
    layers: Mapping[str, tuple[int, int]] | None = None,
    keep_float: Sequence[str] = (),
    weight_scheme: WeightScheme = PLAIN,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """A compressed, calibrated copy of `model`, named like it with the scheme; `model` itself is untouched.

    weights, activations: bits, 2 to 8 each, or both 1 with ``algorithm="binary"`` or another that takes signs.
    calibration: float32 images (N, 3, H, W) in [0, 1], or an iterable of such batches; no labels.
    algorithm: one of `robustlab.compress.catalogue.ALGORITHMS`: how ranges are found and weights rounded, or what `qat`
    is to train (see `robustlab.compress.algorithms`); or a `Method` of `robustlab.compress.ptq` with hyper-parameters
    of its own, as ``AdaRound(iterations=10_000)``; or an `Algorithm` of your own.
    statistics_correction: afterwards give every channel of every layer the mean and deviation that it has in the float
    model, see `robustlab.compress.ptq.correct_statistics`; not with ``binary`` and what training learns.
    first_last_bits: bits of the first and the last layer that run, 2 to 8; None treats them like the others.
    layers: name pattern (`fnmatch`) -> (weight bits, activation bits), later patterns win over earlier ones.
    keep_float: name patterns of layers that stay float.
    weight_scheme: which weights share a scale, and whether codes are symmetric, see `WeightScheme`; another than the
    default for the methods that choose ranges only, ``bias_correction`` and ``cle``.
    seed: of everything that adaround, brecq and qdrop draw.

    The model may be a detector of torchvision: it takes a batch (N, 3, H, W) as it takes a list of images, before and
    after compression.

    A layer that is compressed already keeps its scheme and grid, so a model can be compressed in steps.
    Swapped are exactly `nn.Conv2d` with zero padding and `nn.Linear`; what else has weights stays float and is listed
    in the model's info as `left_float`. Batch norms behind quantized layers are folded first; behind binary ones, and
    those that an algorithm trains, they stay; where there are binary ones, all of them get the statistics of the first
    calibration batch. A warning names layers that take the sign of what is never negative.
    Raises `ArgumentError` for bits outside the ranges, a pattern that matches no layer, a model without such layers,
    calibration without images, NaN in images, weights or activations, layers whose input is the same everywhere, and
    binary ones with a channel of equal weights.
    """
    own, named = None, "mse"
    if isinstance(algorithm, Algorithm):  # its spec may say what that of the plain algorithm of these bits may
        own, named = algorithm, "binary" if weights == activations == 1 else "mse"
        own.check_bits("weights, activations", weights, activations)
        if statistics_correction is not False:
            raise invalid("statistics_correction", statistics_correction, f"False with algorithm {own.name}")
        if not weight_scheme.plain:
            raise refused_scheme(weight_scheme, own.name)
    elif not isinstance(algorithm, Method):
        named = algorithm
    spec = Spec(
        weights=weights,
        activations=activations,
        algorithm=named,
        statistics_correction=statistics_correction,
        first_last_bits=first_last_bits,
        layers={} if layers is None else layers,
        keep_float=keep_float,
        weight_scheme=weight_scheme,
        seed=seed,
    )
    method = algorithm if isinstance(algorithm, Method) else spec.method()
    trained = TRAINED.get(algorithm) if isinstance(algorithm, str) else own
    return _compressed(model, spec, method, trained, calibration, progress)


def compress_with(
    model: nn.Module, spec: Spec, *, calibration: Iterable[Tensor] | Tensor, progress: Progress | None = None
) -> nn.Module:
    """`compress` with everything but model and images from a `Spec`, as `read_spec` gives it.

    Example: ``compress_with(model, read_spec("w4.toml"), calibration=images)``.
    Raises what `compress` raises, and `ArgumentError` for a model that is not what `spec.made_for` says.
    """
    return _compressed(model, spec, spec.method(), TRAINED.get(spec.algorithm), calibration, progress)


def _compressed(
    model: nn.Module,
    spec: Spec,
    method: Method,
    trained: Algorithm | None,
    calibration: Iterable[Tensor] | Tensor,
    progress: Progress | None,
) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise invalid("model", type(model).__name__, "an nn.Module")
    if runs_elsewhere(model):
        raise invalid("model", type(model).__name__, "a model that torch runs (robustlab convert puts ONNX on kernels)")
    spec.check(model)
    if not (spec.weight_scheme.plain or method.any_grid):
        raise refused_scheme(spec.weight_scheme, type(method).__name__)
    batches = _batches(calibration)
    check_finite(model)
    result = _copy(model)
    probe = _probe(result, batches[0])
    schemes, left, ends = _schemes(result, probe, spec)
    chosen = {name: _algorithm_of(trained, bits, end=name in ends) for name, bits in schemes.items()}
    keeping = {name for name, of in chosen.items() if of is not None or schemes[name] == (1, 1)}
    fold_batch_norms(result, probe, skip=keeping)
    method.prepare(result, probe)
    reference = copy.deepcopy(result)
    for name, bits in schemes.items():
        layer = result.get_submodule(name)
        if bits == (1, 1):
            check_signs(name, layer.get_parameter("weight"))
        swapped: CompressedLayer
        if isinstance(layer, nn.Conv2d):
            swapped = CompressedConv2d(layer, *bits, method.observer, chosen[name], spec.weight_scheme)
        else:
            assert isinstance(layer, nn.Linear)
            swapped = CompressedLinear(layer, *bits, method.observer, chosen[name], spec.weight_scheme)
        if bits != (1, 1):
            check_zeros(name, swapped)
        replace(result, name, swapped.eval())
    if left:
        _log.info("left in float: %s", ", ".join(left))
    with starting(result, schemes), watching_signs(result, schemes):
        fit_norms_to_signs(result, batches[0])
        calibrate(result, batches, method.observer, only=schemes, progress=progress)
    work = Work(result, reference, tuple(schemes), batches, spec.seed, progress or SilentProgress())
    method.apply(work)
    if spec.statistics_correction:
        correct_statistics(work)
    return set_info(result, _info(model, probe, left, f"w{spec.weights}a{spec.activations}"))


def calibrate(
    model: nn.Module,
    batches: Sequence[Tensor],
    rule: str = "mse",
    *,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Set the activation grids of a compressed model (of the layers `only`) from what they see on `batches`.

    All these layers observe the float network in one pass. Raises `ArgumentError` for a layer that sees NaN, infinity
    or the same number everywhere, or does not run.
    """
    progress = progress or SilentProgress()
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, CompressedLayer) and (only is None or name in only)
    }
    inputs = {name: layer.quantize_input for name, layer in layers.items()}
    quantizers = {name: coder for name, coder in inputs.items() if isinstance(coder, ActivationQuantizer)}
    progress.start("calibrate", len(batches))
    try:
        for quantizer in quantizers.values():
            quantizer.observer = RangeObserver(rule, quantizer.bits)
        with watched(layers) as ranges, frozen(model), torch.no_grad():
            for batch in batches:
                model(batch.clone())  # a model may write into its input; the images are the caller's
                progress.advance()
        for name, seen in ranges.items():
            seen.check(name)
        for quantizer in quantizers.values():
            assert quantizer.observer is not None
            quantizer.set_grid(*quantizer.observer.grid())
    finally:
        for quantizer in quantizers.values():
            quantizer.observer = None
        progress.finish()


def _batches(calibration: Iterable[Tensor] | Tensor) -> list[Tensor]:
    if not isinstance(calibration, Iterable):
        raise invalid("calibration", type(calibration).__name__, "a tensor of images, or an iterable of such batches")
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    for index, batch in enumerate(batches):
        check_images(batch, f"calibration batch {index}")
        if batch.shape[1] != 3:
            raise invalid(f"calibration batch {index}", f"images of {batch.shape[1]} channels", "images of 3 channels")
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        raise invalid("calibration", "no images", "at least one image")
    return batches


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).eval()
    except RuntimeError as error:  # tensors that are computed from others, as hooks of old weight norms do
        raise invalid("model", type(model).__name__, f"a model that can be copied ({error})") from error


def _probe(model: nn.Module, images: Tensor) -> Tensor:
    """Two calibration images and two of noise: where a dark image is blind to a difference, noise is not."""
    noise = uniform(sample_keys(0, "compress", range(2)), images.shape[1:])
    probe = torch.cat([images[:2], noise.to(images)])
    try:
        with frozen(model), torch.no_grad():
            model(probe)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise invalid("calibration", f"images {tuple(images.shape)}", f"images the model takes ({reason})") from error
    return probe


def _schemes(
    model: nn.Module, probe: Tensor, spec: Spec
) -> tuple[dict[str, tuple[int, int]], tuple[str, ...], set[str]]:
    """({layer: (weight bits, activation bits)}, names left float, layers of `first_last_bits`), in running order."""
    order = trace(model, probe).order
    shared = shared_names(model)
    able = [name for name in order if name not in shared and _is_swappable(model.get_submodule(name))]
    ends = (order[0], order[-1]) if order else ()
    if not able:
        raise invalid("model", type(model).__name__, "a model with nn.Conv2d or nn.Linear layers")
    for pattern in (*spec.layers, *spec.keep_float):
        if not fnmatch.filter(able, pattern):
            raise invalid("layer pattern", pattern, f"a pattern that matches one of {', '.join(able)}")
    schemes: dict[str, tuple[int, int]] = {}
    edges: set[str] = set()
    for name in able:
        bits = (spec.weights, spec.activations)
        if spec.first_last_bits is not None and name in ends:
            bits = (spec.first_last_bits, spec.first_last_bits)
            edges.add(name)
        for pattern, chosen in spec.layers.items():
            if fnmatch.fnmatchcase(name, pattern):
                bits = (chosen[0], chosen[1])
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in spec.keep_float):
            schemes[name] = bits
    if not schemes:
        raise ArgumentError(f"keep_float is {list(spec.keep_float)}; allowed: patterns that leave a layer to compress")
    weighted = (name for name, module in model.named_modules() if _holds_matrices(module))
    return schemes, tuple(name for name in weighted if name not in schemes), edges


def _algorithm_of(trained: Algorithm | None, bits: tuple[int, int], *, end: bool) -> Algorithm | None:
    """The algorithm of a layer of these bits; None for plain uniform codes or signs."""
    if trained is None or not trained.allows(*bits) or (end and not trained.ends):
        return None
    return trained


def _is_swappable(module: nn.Module) -> bool:
    if module._forward_hooks or module._forward_pre_hooks:  # they would not see the layer that takes its place
        return False
    if type(module) is nn.Conv2d:
        if module.padding_mode != "zeros" or numeric_padding(module) is None:
            return False
    elif type(module) is not nn.Linear:
        return False
    return module.get_parameter("weight").dtype == torch.float32


def _holds_matrices(module: nn.Module) -> bool:
    """Whether a module owns weights that could have been compressed: more than a vector, in float."""
    if isinstance(module, CompressedLayer):
        return False
    own = [p for p in module.parameters(recurse=False) if p.is_floating_point()]
    return isinstance(module, Layer) or any(p.numel() > max(p.shape, default=1) for p in own)


def _info(model: nn.Module, probe: Tensor, left: tuple[str, ...], scheme: str) -> ModelInfo:
    known = info_of(model) or ModelInfo(type(model).__name__, f"custom:{type(model).__qualname__}")
    size = (int(probe.shape[2]), int(probe.shape[3]))
    return with_fields(known, name=f"{known.name}-{scheme}", input_size=size, left_float=left)
