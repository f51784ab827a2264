"""`robustlab allocate`: how many bits each layer should get, as a spec that `robustlab compress` takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustlab.cli.errors import bad_value

if TYPE_CHECKING:
    from torch import Tensor

    from robustlab.compress import Spec
    from robustlab.datasets import Dataset
    from robustlab.evaluate.allocation import Allocated

_BATCH = 64
_CHOICES = "w2a2,w3a3,w4a4,w5a5,w6a6,w8a8"


def allocate(
    model: Annotated[
        str,
        typer.Argument(help="robustlab:NAME, torchvision:NAME@FILE or the path of a model file.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The spec to write, such as spec.toml.", show_default=False)],
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            "-b",
            help="4bits: what so many in every layer cost. 0.8x: of the widest choice in every layer. A size such as "
            "140kB, or with --cost latency a time such as 300us.",
            show_default=False,
        ),
    ],
    cost: Annotated[
        str, typer.Option(help="bytes of the model file, or latency of this machine at batch 1, measured.")
    ] = "bytes",
    score: Annotated[
        str,
        typer.Option(
            help="What must not change: KL divergence from the float model on clean images, under corruption, under "
            "pgd, or under conditions such as contrast-5,pixelate-5 or pgd20-linf-2of255."
        ),
    ] = "clean",
    choices: Annotated[
        str, typer.Option(help="Bits that a layer can have; for weights alone w2a8,w3a8,w4a8,w6a8,w8a8.")
    ] = _CHOICES,
    algorithm: Annotated[
        str | None,
        typer.Option(
            help="Of robustlab compress, one without training: it makes the layers that are judged. (default: mse)",
            show_default=False,
        ),
    ] = None,
    statistics_correction: Annotated[
        bool, typer.Option("--statistics-correction", help="Ask for it in the spec; sensitivities are without it.")
    ] = False,
    template: Annotated[
        Path | None,
        typer.Option(
            "--spec",
            help="A spec to start from: its algorithm and options, seed, layers kept in float and layers with bits of "
            "their own.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data", "-d", help="Data to calibrate and measure with: signs, cifar10, gtsrb, mnist, imagefolder:PATH."
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
    images: Annotated[int, typer.Option(help="Training images that sensitivities are measured on.")] = 512,
    sensitivity: Annotated[
        Path | None,
        typer.Option(help="The file that keeps the sensitivities. (default: OUT.sensitivity.json)", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of corruptions, attacks, and what the algorithm draws. (default: 0)", show_default=False),
    ] = None,
) -> None:
    """Choose the bits of every layer so that the network changes least within a budget, and write them as a spec.

    Every layer is compressed alone, at every choice, and the network's change measured; then an exact search picks the
    choices with the least sum. The first and the last layer have 8 bits unless --spec says otherwise. Sensitivities
    are kept: after an interruption the same command goes on, and another budget measures none again.

    Example: robustlab allocate robustlab:signs_float --budget 4bits --out spec.toml, then
    robustlab compress robustlab:signs_float --spec spec.toml --out small.safetensors
    """
    from robustlab.cli.live import watch
    from robustlab.cli.targets import check_writable
    from robustlab.cli.twins import calibration_batches
    from robustlab.compress import write_spec
    from robustlab.compress.allocation import allocation_spec, parse_budget
    from robustlab.compress.allocation.variants import check_choices
    from robustlab.core.errors import check_choice, check_int, invalid
    from robustlab.deploy import is_compressed, load
    from robustlab.evaluate.allocation import COSTS, score_conditions
    from robustlab.evaluate.allocation import allocate as chosen_bits
    from robustlab.evaluate.data import open_data
    from robustlab.evaluate.plan import read_batch
    from robustlab.evaluate.probe import check_answers

    limit = parse_budget(budget)
    limit.check_unit(COSTS[check_choice("--cost", cost, COSTS)])
    conditions = score_conditions(score)
    pairs = _pairs(choices)
    check_choices(pairs)
    limit.check_widths([weights for weights, _ in pairs])
    plan = _template(template, algorithm, statistics_correction, seed)
    check_int("--calibration-images", calibration_images, 1)
    check_int("--images", images, 1)
    check_writable("--out", out)
    kept = sensitivity or out.with_name(out.name + ".sensitivity.json")
    check_writable("--sensitivity", kept)
    network = load(model)
    if is_compressed(network):
        raise invalid("model", model, "a float model; this one is compressed already")
    plan.check(network)
    training = open_data(data, [network], split="train", image_size=image_size)
    check_answers(model, network, read_batch(training, [0])[0], training, _BATCH)
    batches = calibration_batches(data, [network], image_size, calibration_images)
    measured = _between(training, images)
    typer.echo(
        f"calibrating with {sum(map(len, batches))} and measuring on {len(measured[1])} training images of "
        f"{training.name}, {', '.join(conditions)}; sensitivities in {kept}"
    )
    with watch() as watcher:
        found = chosen_bits(
            network,
            batches,
            *measured,
            budget=limit,
            cost=cost,
            score=conditions,
            choices=pairs,
            spec=plan,
            ledger=kept,
            progress=watcher,
        )
    notes = {
        "budget": budget,
        "cost": {"kind": cost, "unit": found.problem.unit, "budget": found.budget, "predicted": found.cost},
        "score": {"conditions": list(conditions), "predicted": found.predicted, "joint": found.joint},
        "data": training.name,
    }
    write_spec(allocation_spec(network, found.layers, plan, notes), out)
    for line in _table(found):
        typer.echo(line)
    typer.echo(f"spec       {out} (robustlab compress {model} --data {data} --spec {out} --out MODEL.safetensors)")


def _pairs(text: str) -> list[tuple[int, int]]:
    """``w2a2,w4a8`` -> [(2, 2), (4, 8)]."""
    found = []
    for word in text.split(","):
        match = re.fullmatch(r"w([2-8])a([2-8])", word.strip())
        if match is None:
            raise bad_value("--choices", text, f"w2a2 to w8a8, comma-separated, such as {_CHOICES}")
        found.append((int(match[1]), int(match[2])))
    return found


def _template(path: Path | None, algorithm: str | None, statistics_correction: bool, seed: int | None) -> Spec:
    """What is told of the compression besides bits."""
    from robustlab.compress import Spec, read_spec
    from robustlab.compress.allocation.variants import ALLOCATED
    from robustlab.core.errors import check_choice, check_int, invalid

    if path is None:
        check_choice("--algorithm", algorithm or "mse", ALLOCATED)
        return Spec(
            algorithm=algorithm or "mse",
            statistics_correction=statistics_correction,
            seed=check_int("--seed", seed or 0, 0, 2**32 - 1),
        )
    told: dict[str, Any] = {
        "--algorithm": algorithm,
        "--statistics-correction": statistics_correction or None,
        "--seed": seed,
    }
    for option, value in told.items():
        if value is not None:
            raise invalid(option, value, f"left out with --spec; {path} says it")
    spec = read_spec(path)
    check_choice(f"algorithm of {path}", spec.algorithm, ALLOCATED)
    return spec


def _between(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` images and labels, evenly spread over the split and half a step behind those that calibrate."""
    import torch

    count = min(count, len(data))
    chosen = [(2 * index + 1) * len(data) // (2 * count) for index in range(count)]
    parts = [data.batch(chosen[start : start + _BATCH]) for start in range(0, count, _BATCH)]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _table(found: Allocated) -> list[str]:
    """The bits of every layer, and the whole network beside the uniform one."""
    from robustlab.compress.allocation import bits_text
    from robustlab.report.format import bytes_text, milliseconds_text

    problem = found.problem

    def text(cost: int) -> str:
        return bytes_text(cost) if problem.unit == "bytes" else milliseconds_text(cost / 1e6)

    width = max(len("uniform w8a8"), *(len(name) for name in found.layers))
    lines = [f"{'layer':<{width}}  bits  {problem.unit:>8}  {'KL alone':>9}"]
    for name, bits in found.layers.items():
        price, value = problem.costs[name][bits], problem.losses[name][bits]
        pinned = "" if name in problem.free else "  (no choice)"
        lines.append(f"{name:<{width}}  {bits_text(bits)}  {price:>8}  {value:>9.5f}{pinned}")
    lines.append(f"{'network':<{width}}  {'cost':>8}  {'predicted KL':>12}  {'measured KL':>11}")
    rows = [("chosen", found.cost, found.predicted, found.joint)]
    if found.uniform is not None:
        bits, cost, predicted, joint = found.uniform
        rows.append((f"uniform {bits_text(bits)}", cost, predicted, joint))
    for label, cost, predicted, joint in rows:
        lines.append(f"{label:<{width}}  {text(cost):>8}  {predicted:>12.4f}  {joint:>11.4f}")
    lines.append(f"budget     {text(found.budget)}")
    if found.retimed is not None:
        apart = 100 * (found.cost / found.retimed - 1)
        lines.append(f"timed      {text(found.retimed)} for the chosen network; predicted {apart:+.1f} %")
    return lines
