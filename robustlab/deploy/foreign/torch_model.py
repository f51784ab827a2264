"""Networks quantized by torch's own tools, and exported programs: run as they are, differentiated straight through."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from robustlab.core.errors import ModelFileError, RobustlabError, invalid
from robustlab.core.frozen import frozen
from robustlab.core.keys import sample_keys, uniform
from robustlab.core.tiles import map_tiles
from robustlab.deploy.foreign.base import ForeignModel, with_gradient_of
from robustlab.deploy.foreign.preprocessing import Preprocessing, read_side_car
from robustlab.deploy.foreign.torch_bits import ProgramLayers, module_bytes, module_scheme, tensor_bits, tensor_bytes
from robustlab.deploy.repair import Repaired
from robustlab.models import ModelInfo, info_of, set_info

_log = logging.getLogger(__name__)

_PROBE_SIZE = (224, 224)
_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)


class TorchModel(ForeignModel):
    """A network run as it is. Shape: images (N, 3, H, W) in [0, 1] -> logits (N, K).

    Rounding, casts, quantizers and quantized weights have a straight-through gradient, which follows the network's own
    activations: the forward pass is the same one, bit by bit. Where a surrogate is given, the gradient is the
    surrogate's. See `from_torch`, which makes it.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing,
        *,
        surrogate: nn.Module | None,
        identity: str,
        source: str,
        file_bytes: int,
        size: tuple[int, int] | None,
        batch: int | None,
    ) -> None:
        super().__init__()
        self.module = module
        self.surrogate = surrogate
        self.preprocessing = preprocessing
        self.identity = identity
        self.source = source
        self.file_bytes = file_bytes
        self.scheme = module_scheme(module)
        self.unsupported: tuple[str, ...] = ()
        self._batch = batch
        self._repaired = (Repaired(module, scope="rounding"),)  # in a tuple: not a second name for every tensor
        self._probe(size or _PROBE_SIZE)

    def train(self, mode: bool = True) -> TorchModel:
        """Nothing: an exported program has no modes, and other modules were put into evaluation mode."""
        self.training = mode
        return self

    def _probe(self, size: tuple[int, int]) -> None:
        """Two images through the network: the shape of its output, and where its gradient comes from."""
        images = uniform(sample_keys(0, "torch probe", range(2)), (3, *size))
        with frozen(self), torch.inference_mode(False):
            try:
                with torch.no_grad():
                    scores = self._scores(self.preprocessing(images))
            except _ERRORS as error:
                raise invalid(
                    "module", _line(error), f"one of images (N, 3, {size[0]}, {size[1]}), or another input_size"
                ) from error
            if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != 2 or scores.shape[1] < 2:
                found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise invalid("module", f"output {found} for 2 images", "logits (N, K), K >= 2")
            self.classes = scores.shape[1]
            if self.surrogate is not None:
                self._check_surrogate(images, scores)
                self.gradient, self.robustlab_access = "surrogate:given", "gradient"
                return
            reason = self._no_gradient(images, scores)
        if reason is not None:
            self.unsupported = (reason,)
            return
        self.gradient = "surrogate:straight-through" if self._repaired[0].seen else "exact"
        self.robustlab_access = "gradient"

    def _check_surrogate(self, images: Tensor, scores: Tensor) -> None:
        try:
            with torch.no_grad():
                answer = self.stand_in(images)
        except _ERRORS as error:
            raise invalid("surrogate", _line(error), "a network of the same images") from error
        if not isinstance(answer, Tensor) or answer.shape != scores.shape:
            found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise invalid("surrogate", f"output {found}", f"{tuple(scores.shape)}, as the module's own")

    def _no_gradient(self, images: Tensor, scores: Tensor) -> str | None:
        """Why the network has no gradient; None where it has one."""
        leaf = images.clone().requires_grad_()
        try:
            with torch.enable_grad():
                logits = self._differentiated(self.preprocessing(leaf))
                if not logits.requires_grad:
                    return "what leaves the graph, as whole numbers or in another runtime do"
                (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf, allow_unused=True)
        except _ERRORS as error:
            return _line(error)
        if gradient is None or not bool((gradient != 0).any()):
            return "operations whose derivative is 0"
        if not torch.equal(logits.detach(), scores):
            raise RobustlabError(f"model {self.source} answers otherwise when it is differentiated; allowed: the same")
        return None

    def _scores(self, x: Tensor) -> Tensor:
        return self.module(x) if self._batch is None else map_tiles(self.module, x, size=self._batch)

    def _differentiated(self, x: Tensor) -> Tensor:
        (repaired,) = self._repaired
        return repaired(x) if self._batch is None else map_tiles(repaired, x, size=self._batch)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the network, with a gradient where one is asked for."""
        x = self.preprocessing(images)
        if not (torch.is_grad_enabled() and images.requires_grad) or self.robustlab_access != "gradient":
            return self._scores(x)
        if self.surrogate is None:
            return self._differentiated(x)
        surrogate: Tensor = self.surrogate(images)
        return with_gradient_of(surrogate, self._scores(x.detach()).detach())

    def stand_in(self, images: Tensor) -> Tensor | None:
        """See `ForeignModel.stand_in`; without a surrogate the network's answers while it is differentiated."""
        if self.surrogate is not None:
            answer: Tensor = self.surrogate(images)
            return answer
        if self.robustlab_access != "gradient":
            return None
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            return self._differentiated(self.preprocessing(leaf)).detach()

    def layer_costs(self, images: Tensor) -> list[Any]:
        """Convolutions and linear layers."""
        from dataclasses import replace

        from robustlab.deploy.inspection import LayerCost, layer_costs

        if isinstance(self.module, GraphModule):
            layers = ProgramLayers(self.module)
            with torch.no_grad():
                layers.run(self.preprocessing(images[:1].expand(self._batch or 1, -1, -1, -1)))
            return [
                LayerCost(name, "torch", macs, bits, activation, size * bits // 8)
                for name, macs, size, bits, activation in layers.rows
            ]
        rows = []
        for row in layer_costs(self.module, self.preprocessing(images)):
            weight = self.module.get_submodule(row.name).get_parameter("weight")
            bits, activation = tensor_bits(weight)
            rows.append(
                replace(
                    row, kind="torch", weight_bits=bits, activation_bits=activation, weight_bytes=tensor_bytes(weight)
                )
            )
        return rows

    def extra_repr(self) -> str:
        """Part of a model's fingerprint: the code or the bytes of the file, and the preprocessing."""
        return f"{self.identity}, {self.preprocessing}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def from_torch(
    module: nn.Module | ExportedProgram,
    *,
    surrogate: nn.Module | None = None,
    preprocessing: Preprocessing | None = None,
    input_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
) -> nn.Module:
    """A network that was quantized elsewhere, as a model that attacks can differentiate. Its answers stay its own.

    Args:
        module: a module with fake quantization, one that PT2E converted, one with weights of torchao, or an exported
            program. One input, one output: logits (N, K). It is put into evaluation mode.
        surrogate: a network of the same images, such as the float one, whose gradient is followed instead of a
            straight-through gradient of the module itself. The report says how far their logits are apart.
        preprocessing: what the module takes, by default images in [0, 1] as they are; not shown to the surrogate.
        input_size: (H, W), by default that of a program, else unknown.
        class_names: one for each logit.
        name: shown in results.

    Raises `ArgumentError`. Where no gradient is found, the model gives scores, and the log says why.

    Example: ``from_torch(convert_pt2e(prepared), name="resnet-int8")``.
    """
    if not isinstance(module, (nn.Module, ExportedProgram)):
        raise invalid("module", type(module).__name__, "a torch.nn.Module or a torch.export.ExportedProgram")
    return _build(module, surrogate, preprocessing, input_size, class_names, name, None)


def load_program(path: Path, preprocessing: Preprocessing | None = None) -> nn.Module:
    """The model of a file of `torch.export.save`, of which parts are unpickled: only for files that are trusted.

    Preprocessing as given, else as its side-car says, else none. Raises `ModelFileError`.
    """
    side_car = read_side_car(path)
    program = _read_program(path)
    chosen = preprocessing or side_car.preprocessing
    try:
        return _build(program, None, chosen, None, side_car.class_names, path.stem, path)
    except RobustlabError as error:
        raise ModelFileError(f"model file {path}: {error}") from None


def _read_program(path: Path) -> ExportedProgram:
    """Operators of PT2E and torchao have to be known before a program that has them is read."""
    reasons: list[BaseException] = []
    for module in ("torch.ao.quantization.fx._decomposed", "torchao.quantization.pt2e"):
        with _unsaid("torch.export", reasons), _unsaid("torch.utils._pytree", []):
            with suppress(ImportError):
                importlib.import_module(module)
            try:
                return torch.export.load(path)
            except Exception as error:  # Whatever its zip, JSON, unpickling and graph layers raise.
                reasons.append(error)
    raise ModelFileError(f"model file {path} is not a readable exported program: {_line(reasons[0])}") from None


@contextmanager
def _unsaid(name: str, errors: list[BaseException]) -> Iterator[None]:
    """Collect the errors that a logger would print with their tracebacks."""

    def collect(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            errors.append(record.exc_info[1])
        return False

    logger = logging.getLogger(name)
    logger.addFilter(collect)
    try:
        yield
    finally:
        logger.removeFilter(collect)


def _build(
    given: nn.Module | ExportedProgram,
    surrogate: nn.Module | None,
    preprocessing: Preprocessing | None,
    size: tuple[int, int] | None,
    class_names: Sequence[str] | None,
    name: str | None,
    path: Path | None,
) -> nn.Module:
    chosen = preprocessing or Preprocessing()
    batch: int | None = None
    info = None if isinstance(given, ExportedProgram) else info_of(given)
    if isinstance(given, ExportedProgram):
        layout, size, batch = _input_of(given, chosen.layout)
        chosen = chosen.with_layout(layout)
        module: nn.Module = given.module()
    else:
        module = given
        chosen = chosen.with_layout("nchw" if chosen.layout == "auto" else chosen.layout)
        size = size or (None if info is None else info.input_size)
        _set_evaluating(module)
    for network in (module, surrogate):
        if network is not None and any(t.device.type != "cpu" for t in (*network.parameters(), *network.buffers())):
            raise invalid("module", "on another device", "a network on the CPU")
    _check_names(class_names)
    title = name or (type(given).__name__ if info is None else info.name)
    model = TorchModel(
        module,
        chosen,
        surrogate=None if surrogate is None else surrogate.eval(),
        identity=_identity(module) if path is None else hashlib.sha256(path.read_bytes()).hexdigest(),
        source=str(path or title),
        file_bytes=module_bytes(module),
        size=size,
        batch=batch,
    )
    if model.unsupported:
        _log.warning(
            "model %s has no gradient (%s); attacks that need only its scores still run", title, model.unsupported[0]
        )
    names = class_names if class_names is not None else (None if info is None else info.class_names)
    if names is not None and len(names) != model.classes:
        raise invalid("class_names", f"{len(names)} names", f"{model.classes}, as the output has")
    return set_info(
        model,
        ModelInfo(
            name=title,
            architecture="torch:program"
            if any(isinstance(m, GraphModule) for m in module.modules())
            else "torch:module",
            class_names=None if names is None else tuple(names),
            input_size=size,
            provenance={"preprocessing": chosen.text, **({} if path is None else {"file": path.name})},
        ),
    )


def _check_names(names: Sequence[str] | None) -> None:
    if names is not None and (isinstance(names, str) or not all(isinstance(n, str) and n for n in names)):
        raise invalid("class_names", names, "a list of names")


def _set_evaluating(module: nn.Module) -> None:
    try:
        module.eval()
    except NotImplementedError:  # A program: torchao's own way turns off dropout and batch norms that were exported.
        if importlib.util.find_spec("torchao") is not None:
            from torchao.quantization.pt2e import move_exported_model_to_eval

            move_exported_model_to_eval(module)


def _identity(module: nn.Module) -> str:
    """Of the code of a program, which its modules do not show."""
    code = "".join(part.code for part in module.modules() if isinstance(part, GraphModule))
    return hashlib.sha256(code.encode()).hexdigest()


def _input_of(program: ExportedProgram, layout: str) -> tuple[str, tuple[int, int] | None, int | None]:
    """Layout, (H, W) and batch size of a program's one input; None for what is dynamic."""
    inputs = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    if len(nodes) != 1 or len(program.graph_signature.user_outputs) != 1:
        found = f"{len(inputs)} inputs and {len(program.graph_signature.user_outputs)} outputs"
        raise invalid("program", found, "one input, images, and one output, logits")
    value = nodes[0].meta.get("val")
    if not isinstance(value, Tensor) or value.ndim != 4 or value.dtype != torch.float32:
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise invalid("input of the program", found, "float32 images (N, 3, H, W) or (N, H, W, 3)")
    fixed = [side if isinstance(side, int) else None for side in value.shape]
    if layout == "auto":
        layout = "nhwc" if fixed[3] == 3 and fixed[1] != 3 else "nchw"
    channels, height, width = (fixed[3], fixed[1], fixed[2]) if layout == "nhwc" else fixed[1:]
    if channels not in (3, None):
        raise invalid("input of the program", f"{channels} channels", "3")
    return layout, None if height is None or width is None else (height, width), fixed[0]
