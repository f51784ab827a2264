"""One plain training loop for float, quantized and binary models, with straight-through gradients where they quantize.

Nothing in it is random but the order of the images and what `augment` and `perturb` draw, all from a generator seeded
by (seed, epoch): a run that is killed and started again from its checkpoint ends with the same weights.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robustlab.compress.coders import Coder, Moment
from robustlab.compress.layers import CompressedLayer
from robustlab.core.digest import describe_model, tensors_digest
from robustlab.core.errors import (
    RobustlabError,
    check_choice,
    check_images,
    check_int,
    check_labels,
    check_number,
    invalid,
)
from robustlab.core.frozen import frozen
from robustlab.core.progress import Progress, SilentProgress

Augment = Callable[[Tensor, torch.Generator], Tensor]
Perturb = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters of `fit`. The learning rate warms up linearly, then falls to zero along a cosine.

    epoch_images is how many images an epoch draws, without putting back; None for all of them. Checkpoints and the
    schedules of algorithms go by epochs, so a short training on many images wants more of them than passes.
    distillation is the weight of the teacher's term in the loss (Hinton et al. 2015): KL divergence of the softened
    predictions, times temperature squared. It needs a teacher, and 0 needs none.
    precision ``bfloat16`` runs convolutions and products of the training passes under autocast, twice as fast where the
    processor has such instructions; weights, statistics and the loss stay float32.
    """

    epochs: int
    batch_size: int = 128
    epoch_images: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    warmup_epochs: float = 0.5
    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 2.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_int("epochs", self.epochs, 1)
        check_int("batch_size", self.batch_size, 1)
        if self.epoch_images is not None:
            check_int("epoch_images", self.epoch_images, 1)
        check_number("learning_rate", self.learning_rate, 0.0, open_low=True)
        check_number("weight_decay", self.weight_decay, 0.0)
        check_choice("optimizer", self.optimizer, ("adamw", "sgd"))
        check_number("warmup_epochs", self.warmup_epochs, 0.0, float(self.epochs))
        check_number("label_smoothing", self.label_smoothing, 0.0, 0.99)
        check_number("distillation", self.distillation, 0.0, 1.0)
        check_number("temperature", self.temperature, 0.0, open_low=True)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        check_int("seed", self.seed, 0, 2**32 - 1)


@dataclass(frozen=True)
class EpochRecord:
    """Mean training loss and accuracy (on the images as trained on) of one epoch."""

    epoch: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class _Hooks:
    """What a run of `fit` does besides plain training."""

    augment: Augment | None
    perturb: Perturb | None
    teacher: nn.Module | None


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    *,
    augment: Augment | None = None,
    perturb: Perturb | None = None,
    teacher: nn.Module | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> list[EpochRecord]:
    """Train `model` in place with cross-entropy; return one record per epoch.

    images: uint8 (N, 3, H, W), or float32 in [0, 1]; labels: int64 (N,).
    augment(batch, generator) and perturb(model, batch, labels, generator) map float32 batches to the same shape; the
    second is adversarial training when it attacks (Madry et al. 2018). `teacher` is imitated with the weight
    `config.distillation`. With `checkpoint` the state is saved there after every epoch, and a run that finds a
    checkpoint of the same start (model, images, labels, teacher, configuration) goes on from it; `augment` and
    `perturb` have to be the same as well, which is not checked.
    Raises `ArgumentError` for bad shapes, ranges and labels, and `RobustlabError` when the loss is no longer finite.
    """
    if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32) or not len(images):
        raise invalid("images", f"{images.dtype} of shape {tuple(images.shape)}", "uint8 or float32 (N, 3, H, W)")
    if images.dtype == torch.float32:
        check_images(images)
    classes = _classes(model, images)
    check_labels(labels, len(images), classes)
    if len(labels.unique()) == 1:
        raise invalid("labels", f"{int(labels[0])} for all {len(labels)} images", "labels of at least two classes")
    if (teacher is None) != (config.distillation == 0):
        raise invalid("distillation", config.distillation, "a weight in (0, 1] with a teacher, 0 without one")
    if teacher is not None and (known := _classes(teacher, images, "teacher")) != classes:
        raise invalid("teacher", f"a model of {known} classes", f"one of {classes} classes, as the model")
    progress = progress or SilentProgress()
    optimizer = _optimizer(model, config)
    drawn = len(images) if config.epoch_images is None else config.epoch_images
    if drawn > len(images):
        raise invalid("epoch_images", drawn, f"at most the {len(images)} images there are")
    # A batch of one has no batch statistics: a last image that would be alone sits this epoch out.
    alone = drawn > config.batch_size and drawn % config.batch_size == 1
    steps = math.ceil(drawn / config.batch_size) - alone
    records: list[EpochRecord] = []
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and (path.is_dir() or (path.parent.exists() and not os.access(path.parent, os.W_OK))):
        raise invalid("checkpoint", str(path), "a file in a folder that can be written")
    start = "" if path is None else _start(model, images, labels, teacher)
    if path is not None and path.is_file():
        records = _restore(path, model, optimizer, config, start)
    hooks = _Hooks(augment, perturb, teacher)
    modes = [(module, module.training) for module in model.modules()]
    progress.start("train", (config.epochs - len(records)) * steps)
    try:
        model.train()
        for epoch in range(len(records), config.epochs):
            # Layers such as dropout draw from torch's global generator: every epoch has its own, and it is put back.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed * 1_000_003 + epoch)
                records.append(_epoch(model, images, labels, config, optimizer, epoch, steps, hooks, progress))
            if path is not None:
                _save(path, model, optimizer, config, records, start)
    finally:
        progress.finish()
        for module, training in modes:
            module.training = training
    return records


def _epoch(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    steps: int,
    hooks: _Hooks,
    progress: Progress,
) -> EpochRecord:
    """One pass over the images, in an order of this epoch's own."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(len(images), generator=generator)[: config.epoch_images]
    total, right, seen = 0.0, 0, 0
    coders = [module for module in model.modules() if isinstance(module, Coder)]
    for step in range(steps):
        for coder in coders:
            coder.schedule(Moment(epoch, config.epochs, step, steps))
        rate = _rate(config, (epoch * steps + step) / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
        batch, target = _to_float(images[chosen]), labels[chosen]
        if hooks.augment is not None:
            batch = hooks.augment(batch, generator)
        if hooks.perturb is not None:
            batch = hooks.perturb(model, batch, target, generator)
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = model(batch).float()
        loss = F.cross_entropy(logits, target, label_smoothing=config.label_smoothing)
        if hooks.teacher is not None:
            imitation = _imitation(logits, hooks.teacher, batch, config)
            loss = (1 - config.distillation) * loss + config.distillation * imitation
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RobustlabError(f"loss is {value} in epoch {epoch + 1}; allowed: finite; lower learning_rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += value * len(batch)
        right += int((logits.argmax(1) == target).sum())
        seen += len(batch)
        progress.advance(1, f"epoch {epoch + 1}/{config.epochs} loss {value:.3f}")
    return EpochRecord(epoch + 1, total / seen, right / seen)


def _classes(model: nn.Module, images: Tensor, argument: str = "model") -> int:
    """How many classes a model knows: one image tells."""
    with frozen(model), torch.no_grad():
        logits = model(_to_float(images[:1]))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise invalid(argument, type(model).__name__, "a model that returns logits (N, K)")
    return logits.shape[1]


def qat(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    *,
    augment: Augment | None = None,
    perturb: Perturb | None = None,
    teacher: nn.Module | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> list[EpochRecord]:
    """Quantization-aware training: `fit` on a compressed model.

    Grids stay as calibrated unless the model's algorithm learns them; its schedules follow the epochs of `config`.
    Raises `ArgumentError` for a model without compressed layers.
    """
    if not any(isinstance(module, CompressedLayer) for module in model.modules()):
        raise invalid("model", type(model).__name__, "a compressed model, from robustlab.compress(...)")
    return fit(
        model,
        images,
        labels,
        config,
        augment=augment,
        perturb=perturb,
        teacher=teacher,
        checkpoint=checkpoint,
        progress=progress,
    )


def _start(model: nn.Module, images: Tensor, labels: Tensor, teacher: nn.Module | None) -> str:
    """Digest of what a training starts from: tensors, and what says how they are compressed."""
    tensors = {**model.state_dict(), "images": images, "labels": labels}
    text = describe_model(model)
    for name, module in model.named_modules():
        if isinstance(module, CompressedLayer) and module.algorithm is not None:
            text += f"{name}: {module.algorithm.name}|"
    if teacher is not None:
        tensors |= {f"teacher/{name}": tensor for name, tensor in teacher.state_dict().items()}
        text += describe_model(teacher)
    return tensors_digest(tensors, text)


def _imitation(logits: Tensor, teacher: nn.Module, batch: Tensor, config: TrainConfig) -> Tensor:
    """KL(teacher || student) of predictions softened by the temperature, times its square; the teacher is frozen."""
    lower = torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16")
    with frozen(teacher), torch.no_grad(), lower:
        target = teacher(batch).float()
    soft = F.log_softmax(logits / config.temperature, dim=1)
    wanted = F.log_softmax(target / config.temperature, dim=1)
    return F.kl_div(soft, wanted, reduction="batchmean", log_target=True) * config.temperature**2


def _to_float(batch: Tensor) -> Tensor:
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Weight decay for matrices, kernels and what coders name: norms, biases, slopes and shifts are left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    coders = [module for module in model.modules() if isinstance(module, Coder)]
    named = {id(coder.get_parameter(name)) for coder in coders for name in coder.decayed}
    heavy = [p for p in trained if p.numel() > max(p.shape, default=1) or id(p) in named]
    light = [p for p in trained if p.numel() <= max(p.shape, default=1) and id(p) not in named]
    groups = [{"params": heavy, "weight_decay": config.weight_decay}, {"params": light, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _rate(config: TrainConfig, epoch: float) -> float:
    if epoch < config.warmup_epochs:
        return config.learning_rate * (epoch + 1e-3) / config.warmup_epochs
    done = (epoch - config.warmup_epochs) / max(1e-9, config.epochs - config.warmup_epochs)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    records: list[EpochRecord],
    start: str,
) -> None:
    tensors = {f"model/{k}": v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value).clone().contiguous()
    metadata = {
        "config": json.dumps(asdict(config)),
        "records": json.dumps([asdict(r) for r in records]),
        "start": start,
        "sha256": tensors_digest(tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata)
    partial.replace(path)


def _restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, start: str
) -> list[EpochRecord]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        if metadata["sha256"] != tensors_digest(tensors):
            raise ValueError("its sha256 does not fit its contents")
        saved, saved_start = json.loads(metadata["config"]), metadata["start"]
        records = [EpochRecord(**record) for record in json.loads(metadata["records"])]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RobustlabError(f"checkpoint {path} is not readable ({error}); delete it to start again") from error
    if saved != asdict(config):
        raise invalid("checkpoint", str(path), "one of the same configuration; delete it to start again")
    if saved_start != start:
        allowed = "one of the same model, images, labels and teacher; delete it to start again"
        raise invalid("checkpoint", str(path), allowed)
    state = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    model.load_state_dict(state)
    restored: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            restored.setdefault(int(index), {})[name] = value
    full = optimizer.state_dict()
    full["state"] = restored
    optimizer.load_state_dict(full)
    return records
