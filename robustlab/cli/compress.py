"""`robustlab compress`: a float model in, a file with packed weights out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustlab.compress import Spec, WeightScheme
    from robustlab.datasets import Dataset

_TEST_IMAGES = 500
_BATCH = 64
_NORM_IMAGES = 2000


def compress(
    model: Annotated[
        str,
        typer.Argument(help="robustlab:NAME, torchvision:NAME@FILE or the path of a model file.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The model file to write, such as small.safetensors.", show_default=False),
    ],
    weights: Annotated[
        int | None,
        typer.Option(
            "--weights", "-w", help="Bits of a weight, 2 to 8 (default 8); 1 with binarizers.", show_default=False
        ),
    ] = None,
    activations: Annotated[
        int | None,
        typer.Option(
            "--activations",
            "-a",
            help="Bits of an activation, 2 to 8 (default 8); 1 with binarizers.",
            show_default=False,
        ),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            help="From images alone: minmax, moving_average, percentile, mse, kl, bias_correction, cle, gptq, "
            "adaround, brecq or qdrop. To be trained with --epochs: lsq, lsq+, lsq+free, pact or dorefa, and the "
            "binarizers binary, bnn, xnor, dorefa, bireal, xnor++, react, recu, fda, irnet, lpb or dab. (default: mse)",
            show_default=False,
        ),
    ] = None,
    statistics_correction: Annotated[
        bool,
        typer.Option(
            "--statistics-correction",
            help="Give every channel its float mean and deviation back; not with what is trained.",
        ),
    ] = False,
    granularity: Annotated[
        str | None,
        typer.Option(
            help="Which weights share a scale: tensor, channel or group; not with gptq, adaround, brecq, qdrop and "
            "what is trained. (default: channel)",
            show_default=False,
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Input channels that share a scale with --granularity group, a multiple of 64. (default: 64)",
            show_default=False,
        ),
    ] = None,
    affine: Annotated[
        bool, typer.Option("--affine", help="Give weights zero points; with the algorithms that --granularity is for.")
    ] = False,
    factorable: Annotated[
        bool,
        typer.Option(
            "--factorable", help="Replace what cannot be deployed exactly by its documented form: for lsq+free."
        ),
    ] = False,
    iterations: Annotated[
        int | None,
        typer.Option(help="Steps per layer or block of adaround, brecq and qdrop. (default: 500)", show_default=False),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of bits, algorithm, seed and exceptions for layers, in place of such options.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="Data to calibrate, train, test with: signs, cifar10, gtsrb, mnist, imagefolder:PATH.",
        ),
    ] = "signs",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images of an imagefolder. (default: what the model was made for, else 224)",
            show_default=False,
        ),
    ] = None,
    calibration_images: Annotated[int, typer.Option(help="Training images that set the ranges.")] = 512,
    epochs: Annotated[int, typer.Option(help="Epochs of training after calibration; 0 for none.")] = 0,
    training_images: Annotated[
        int | None, typer.Option(help="Training images per epoch. (default: 8000)", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the training. (default: 0.0005)", show_default=False)
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="A model whose predictions the training imitates: like MODEL, or MODEL itself.", show_default=False
        ),
    ] = None,
    distillation: Annotated[
        float | None,
        typer.Option(
            help="Weight of the teacher against the labels, above 0 to 1; with --teacher. (default: 0.5)",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of adaround, brecq and qdrop, and of the training. (default: 0)", show_default=False),
    ] = None,
) -> None:
    """Quantize or binarize a float model, put it on packed kernels and write it to a file.

    Training keeps its state in OUT.checkpoint: after an interruption the same command goes on. Batch norms that were
    trained get the averages of up to 2,000 training images at its end.

    Example: robustlab compress robustlab:signs_float --weights 4 --activations 4 --out signs-w4a4.safetensors
    """
    from robustlab.cli.live import watch
    from robustlab.cli.twins import calibration_batches, check_classes
    from robustlab.compress import TRAINED, TrainConfig, compress_with, qat, reestimate_batch_norms
    from robustlab.core.errors import check_int, check_number, invalid
    from robustlab.deploy import deploy, is_compressed, load, save, stored_bytes
    from robustlab.evaluate.data import open_data
    from robustlab.evaluate.plan import read_batch
    from robustlab.evaluate.probe import check_answers
    from robustlab.models import info_of, set_info
    from robustlab.report.format import bytes_text, percent_text

    told = {
        "--weights": weights,
        "--activations": activations,
        "--algorithm": algorithm,
        "--statistics-correction": statistics_correction or None,
        "--granularity": granularity,
        "--group-size": group_size,
        "--affine": affine or None,
        "--iterations": iterations,
        "--seed": seed,
    }
    plan = _planned(told) if spec is None else _read(spec, told)
    trained = TRAINED.get(plan.algorithm)
    if trained is not None and trained.deployability == "X" and not factorable:
        raise invalid("--algorithm", plan.algorithm, "one that is deployed exactly, or --factorable")
    check_int("--calibration-images", calibration_images, 1)
    check_int("--epochs", epochs, 0)
    training = {
        "--training-images": training_images,
        "--learning-rate": learning_rate,
        "--teacher": teacher,
        "--distillation": distillation,
    }
    for option, value in training.items():
        if value is not None and not epochs:
            raise invalid(option, value, "left out without training; --epochs says how long")
    if distillation is not None and teacher is None:
        raise invalid("--distillation", distillation, "left out without --teacher")
    training_images = check_int("--training-images", 8000 if training_images is None else training_images, 1)
    rate = check_number("--learning-rate", 5e-4 if learning_rate is None else learning_rate, 0.0, open_low=True)
    weight = check_number("--distillation", 0.5 if distillation is None else distillation, 0.0, 1.0, open_low=True)
    _check_target(out)
    network = load(model)
    master = None if teacher is None else _teacher(teacher)
    if is_compressed(network):
        raise invalid("model", model, "a float model; this one is compressed already")
    plan.check(network)
    tested = open_data(data, [network], image_size=image_size)
    for named, asked in ((model, network), (teacher, master)):
        if named is not None and asked is not None:
            check_answers(named, asked, read_batch(tested, [0])[0], tested, _BATCH)
    checkpoint = out.with_name(out.name + ".checkpoint")
    typer.echo(f"calibrating with up to {calibration_images} training images of {tested.name}")
    batches = calibration_batches(data, [network], image_size, calibration_images)
    if epochs:
        split = open_data(data, [network], split="train", image_size=image_size)
        images, labels = _training_set(split, training_images)
        check_classes("training images", split, labels)
    with watch() as watcher:
        compressed = compress_with(network, plan, calibration=batches, progress=watcher)
    if epochs:
        typer.echo(f"training for {epochs} epochs on {len(images)} images")
        weight = 0.0 if master is None else weight
        config = TrainConfig(epochs=epochs, learning_rate=rate, distillation=weight, seed=plan.seed)
        with watch() as watcher:
            records = qat(compressed, images, labels, config, teacher=master, checkpoint=checkpoint, progress=watcher)
        some = images[:: -(-len(images) // _NORM_IMAGES)]
        if len(some) > 1:
            with watch() as watcher:
                reestimate_batch_norms(compressed, some, progress=watcher)
        for record in records:
            typer.echo(f"epoch {record.epoch}: loss {record.loss:.3f}, accuracy {percent_text(record.accuracy)} %")
    deployed = deploy(compressed, factorable=factorable)
    agreement, before, after, count = _compare(network, deployed, tested)
    info = info_of(deployed)
    assert info is not None, "compress attaches the info"
    made = {
        "from": info.name,
        **{key: value for key, value in plan.table().items() if key != "made_for"},  # the file holds all shapes
        "calibration_images": calibration_images,
        "epochs": epochs,
        "teacher": teacher,
        "distillation": 0.0 if teacher is None else weight,
        "data": tested.name,
        "accuracy": {"value": after, "float": before, "images": count},
    }
    set_info(deployed, replace(info, name=out.stem, provenance={"compressed": made, "parent": dict(info.provenance)}))
    save(deployed, out)
    if epochs:
        checkpoint.unlink(missing_ok=True)
    old, new = stored_bytes(network), stored_bytes(deployed)
    typer.echo(f"size       {bytes_text(old)} -> {bytes_text(new)} ({old / new:.1f} times smaller)")
    typer.echo(
        f"accuracy   {percent_text(before)} % -> {percent_text(after)} % on {count} test images of {tested.name}"
    )
    typer.echo(f"agreement  same prediction on {percent_text(agreement)} % of them")
    if info.left_float:
        typer.echo(f"in float   {', '.join(info.left_float)}")
    typer.echo(f"model      {out}")


def _planned(told: Mapping[str, Any]) -> Spec:
    """What the options say."""
    from robustlab.compress import TRAINED, Spec
    from robustlab.compress.catalogue import ALGORITHMS
    from robustlab.compress.ptq import METHODS
    from robustlab.compress.ptq.reconstruction import Reconstruction
    from robustlab.core.errors import check_choice, check_int, invalid

    algorithm = told["--algorithm"] or "mse"
    check_choice("--algorithm", algorithm, ALGORITHMS)
    trained = TRAINED.get(algorithm)
    signs = algorithm == "binary" if trained is None else not trained.multibit
    least = 1 if signs or (trained is not None and trained.binary) else 2
    bits = {}
    for option in ("--weights", "--activations"):
        bits[option] = (1 if signs else 8) if told[option] is None else told[option]
        if signs and bits[option] != 1:
            raise invalid(option, bits[option], f"1 with --algorithm {algorithm}")
        check_int(option, bits[option], least, 8)
    if told["--statistics-correction"] and (trained is not None or algorithm == "binary"):
        raise invalid("--statistics-correction", True, f"another --algorithm than {algorithm}")
    iterations = told["--iterations"]
    if iterations is not None:
        check_int("--iterations", iterations, 1)
        if not isinstance(METHODS.get(algorithm), Reconstruction):
            learning = ", ".join(name for name, other in METHODS.items() if isinstance(other, Reconstruction))
            raise invalid("--iterations", iterations, f"left out with --algorithm {algorithm}; it is for {learning}")
    return Spec(
        weights=bits["--weights"],
        activations=bits["--activations"],
        algorithm=algorithm,
        options={} if iterations is None else {"iterations": iterations},
        statistics_correction=bool(told["--statistics-correction"]),
        weight_scheme=_weight_scheme(told, algorithm),
        seed=check_int("--seed", told["--seed"] or 0, 0, 2**32 - 1),
    )


def _weight_scheme(told: Mapping[str, Any], algorithm: str) -> WeightScheme:
    from robustlab.compress import WeightScheme
    from robustlab.compress.catalogue import takes_any_grid
    from robustlab.compress.weight_grid import GRANULARITIES, WORD
    from robustlab.core.errors import check_choice, check_int, invalid

    granularity, size = told["--granularity"] or "channel", told["--group-size"]
    check_choice("--granularity", granularity, GRANULARITIES)
    if size is not None:
        check_int("--group-size", size, WORD)
        if size % WORD:
            raise invalid("--group-size", size, f"a multiple of {WORD}")
        if granularity != "group":
            raise invalid("--group-size", size, f"left out with --granularity {granularity}")
    for option, value in (("--granularity", granularity), ("--affine", told["--affine"])):
        if value not in ("channel", None) and not takes_any_grid(algorithm):
            raise invalid(option, value, f"another --algorithm than {algorithm}")
    return WeightScheme(granularity, not told["--affine"], WORD if size is None else size)


def _read(path: Path, told: Mapping[str, Any]) -> Spec:
    """What the file says; options that say the same things are refused, so that nobody wonders which of them won."""
    from robustlab.compress import read_spec
    from robustlab.core.errors import invalid

    for option, value in told.items():
        if value is not None:
            raise invalid(option, value, f"left out with --spec; {path} says it")
    return read_spec(path)


def _teacher(name: str) -> nn.Module:
    from robustlab.core.errors import RobustlabError
    from robustlab.deploy import load

    try:
        return load(name)
    except RobustlabError as error:
        raise type(error)(f"--teacher: {error}") from error


def _check_target(out: Path) -> None:
    from robustlab.cli.targets import check_writable
    from robustlab.core.errors import invalid

    check_writable("--out", out)
    if not (out.stem.isprintable() and len(out.stem) <= 100):
        raise invalid(
            "--out", str(out), "a file name of up to 100 printable characters, which becomes the model's name"
        )


def _training_set(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` images as uint8 (N, 3, H, W), evenly spread over the split, and their labels."""
    import torch

    count = min(count, len(data))
    chosen = [index * len(data) // count for index in range(count)]
    images, labels = [], []
    for start in range(0, count, _BATCH):
        batch, truth = data.batch(chosen[start : start + _BATCH])
        images.append((batch * 255).round().to(torch.uint8))
        labels.append(truth)
    return torch.cat(images), torch.cat(labels)


def _compare(before: nn.Module, after: nn.Module, data: Dataset) -> tuple[float, float, float, int]:
    """(share of equal predictions, accuracy before, accuracy after, images) over the first test images."""
    import torch

    from robustlab.core import Tiled, frozen

    count = min(_TEST_IMAGES, len(data))
    same = right_before = right_after = 0
    with frozen(before), frozen(after), torch.no_grad():
        old, new = Tiled(before), Tiled(after)
        for start in range(0, count, _BATCH):
            images, labels = data.batch(range(start, min(start + _BATCH, count)))
            one, other = old(images).argmax(1), new(images).argmax(1)
            same += int((one == other).sum())
            right_before += int((one == labels).sum())
            right_after += int((other == labels).sum())
    return same / count, right_before / count, right_after / count, count
