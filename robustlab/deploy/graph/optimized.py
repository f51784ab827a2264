"""`optimize`: a deployed model whose packed layers and what lies between them run as programs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from robustlab.core.errors import ArgumentError, RobustlabError, check_int, invalid
from robustlab.deploy.graph.checking import agrees
from robustlab.deploy.graph.observing import Unfit, observe
from robustlab.deploy.graph.plan import FusionReport, Plan, make_plan
from robustlab.deploy.graph.tracing import Traced, trace
from robustlab.deploy.packed import PackedLayer
from robustlab.models import info_of, set_info

_SIZES = 8
# What the code of a model raises for images it is not made for.
_MODEL_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RobustlabError,
)


class OptimizedModel(nn.Module):
    """A deployed model and its programs, equal to it bit for bit; make one with `optimize`.

    The programs run in evaluation mode on contiguous float32 images on the CPU when no gradient is wanted. In any
    other case, and under torch.compile, `original` runs, so gradients are those of its surrogate. Programs are made at
    the first images of a size and share the packed weights of `original`; its constants are copied, so after changing
    tensors of `original` in place, or replacing them, call `refresh`. Hooks on modules that are fused do not run.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.training = original.training
        self._traced: Traced | None = None
        self._learned: list[nn.Parameter] | None = None
        self._plans: OrderedDict[tuple[int, ...], Plan | FusionReport] = OrderedDict()
        self._lock = Lock()
        info = info_of(original)
        if info is not None:
            set_info(self, info)

    def refresh(self) -> None:
        """Forget all programs; they are made anew when they are needed."""
        with self._lock:
            self._traced, self._learned = None, None
            self._plans = OrderedDict()

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What `original` returns."""
        if args or kwargs or not self._fits(images):
            return self.original(images, *args, **kwargs)
        plan = self._plans.get(images.shape[1:])
        if plan is None:
            plan = self._plan(tuple(images.shape[1:]))
        return plan.run(images) if isinstance(plan, Plan) else self.original(images)

    def report(self, image: tuple[int, ...] | None = None) -> FusionReport:
        """What is fused for images (C, H, W), by default of the size seen last, and what stays in torch and why."""
        if image is None:
            if not self._plans:
                return FusionReport(reason="no images seen yet")
            image = next(reversed(self._plans))
        plan = self._plan(image)
        return plan.report if isinstance(plan, Plan) else plan

    def _fits(self, images: Tensor) -> bool:
        # a compiler sees through `original`, whose layers are operators it knows, but not through a program
        return (
            not torch.compiler.is_compiling()
            and type(images) is Tensor
            and images.dtype == torch.float32
            and images.is_cpu
            and images.ndim == 4
            and images.is_contiguous()
            and not self.training
            and not self._modules["original"].training  # type: ignore[union-attr]
            and not torch.is_autocast_enabled("cpu")
            and not (torch.is_grad_enabled() and (images.requires_grad or self._wants_gradients()))
        )

    def _wants_gradients(self) -> bool:
        if self._learned is None:
            self._learned = list(self.original.parameters())
        return any(parameter.requires_grad for parameter in self._learned)

    def _plan(self, image: tuple[int, ...]) -> Plan | FusionReport:
        with self._lock:
            plan = self._plans.get(image)
            if plan is None:
                plan = self._plans[image] = self._made(image)
                if len(self._plans) > _SIZES:
                    self._plans.popitem(last=False)
            return plan

    def _made(self, image: tuple[int, ...]) -> Plan | FusionReport:
        if not any(isinstance(module, PackedLayer) for module in self.original.modules()):
            return FusionReport(reason="it has no packed layers")
        if self._traced is None:
            self._traced = trace(self.original)
        try:
            observed = observe(self._traced, image)
        except Unfit as reason:
            return FusionReport(reason=str(reason))
        except _MODEL_ERRORS as error:
            return FusionReport(reason=f"it does not take images {image}: {' '.join(str(error).split())[:200]}")
        try:
            plan = make_plan(self._traced, observed)
        except (Unfit, ArgumentError) as reason:
            return FusionReport(reason=str(reason))
        if agrees(plan, self.original, image):
            return plan
        return FusionReport(reason="its passes differ: it keeps a state of its own, or draws numbers outside torch")

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of `original`."""
        return self.original.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load into `original`, and forget all programs."""
        self.refresh()
        return self.original.load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Any, recurse: bool = True) -> OptimizedModel:
        self.refresh()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return,no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_traced", "_learned", "_plans", "_lock"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._traced, self._learned, self._plans, self._lock = None, None, OrderedDict(), Lock()

    def extra_repr(self) -> str:
        """The report for the images seen last."""
        return str(self.report()) if self._plans else ""


def unoptimized(model: nn.Module) -> nn.Module:
    """The model an optimized one was made of; any other model as it is."""
    return model.original if isinstance(model, OptimizedModel) else model


def optimize(model: nn.Module, images: Tensor | tuple[int, int, int] | None = None) -> OptimizedModel:
    """A deployed model with its graph fused into programs: faster, and equal to `model` bit for bit.

    Batch norms, activations, residual sums, pools and the quantizers of the next layer join the packed layer they
    follow; signs become comparisons of integers. `images` (N, C, H, W), or their size (C, H, W), make the programs at
    once; images of other sizes make theirs when they come. What cannot be traced or fused runs as in `model`:
    ``report()`` of the result says what, and why. Example: ``optimize(deploy(compress(...)), (3, 32, 32))``.

    Raises `ArgumentError` for a model in training mode or a wrong size.
    """
    if not isinstance(model, nn.Module):
        raise invalid("model", type(model).__name__, "a deployed model")
    if model.training:
        raise invalid("model", "in training mode", "a model in evaluation mode")
    result = model if isinstance(model, OptimizedModel) else OptimizedModel(model)
    size = tuple(images.shape[1:]) if isinstance(images, Tensor) else images
    if size is not None:
        if not isinstance(size, tuple) or len(size) != 3:
            raise invalid("images", size, "images (N, C, H, W), or their size (C, H, W)")
        channels, height, width = (check_int("images", length, 1) for length in size)
        result.report((channels, height, width))
    return result
