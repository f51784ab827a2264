"""`robustlab faults`: how many flipped bits a deployed model survives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustlab.cli.options import images_limit

if TYPE_CHECKING:
    from robustlab.evaluate.fault_study import FaultRow

_STORE, _RESULTS, _PICTURE = "faults-kept.json", "faults.json", "faults.png"


def faults(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="robustlab:NAME, torchvision:NAME@FILE or the path of a model file; repeatable. "
            "(default: robustlab:signs_w8a8, signs_w4a4 and signs_w1a1)",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", "-d", help="signs, cifar10, gtsrb, mnist or imagefolder:PATH.")
    ] = "signs",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images of an imagefolder. (default: what the models were made for, else 224)",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="What is hit: weights, scales, biases, zero-points, activation-scales or floats; repeatable. "
            "(default: weights and scales)",
            show_default=False,
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(help="bfa or random; repeatable. (default: both)", show_default=False),
    ] = None,
    flips: Annotated[int, typer.Option(help="At most so many chosen bits.")] = 100,
    random_flips: Annotated[int, typer.Option(help="At most so many random bits.")] = 2000,
    seeds: Annotated[int, typer.Option(help="Curves of each kind, from --seed on.")] = 3,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    candidates: Annotated[int, typer.Option(help="Bits of a layer that a step of the search measures.")] = 1,
    target: Annotated[
        str | None, typer.Option(help="A class that the search wants images taken for.", show_default=False)
    ] = None,
    limit: Annotated[
        str, typer.Option(help="Accuracy is measured on the first so many images, a fraction such as 0.1, or all.")
    ] = "500",
    search_images: Annotated[int, typer.Option(help="Training images that the search knows.")] = 128,
    compress: Annotated[
        list[str] | None,
        typer.Option(
            help="Add a deployed twin of every float model: w2a2 to w8a8, such as w4a8, or none; repeatable "
            "(default: w8a8 if every --model is float)",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for curves and picture.")] = Path("robustlab-faults"),
) -> None:
    """Flip bits of models where the kernels read them, chosen by a progressive bit search (BFA) or at random.

    All bits are flipped back exactly. Curves that the folder has are not measured again: after an interruption the
    same command goes on.

    Example: robustlab faults --model robustlab:signs_w4a4 --part weights --part activation-scales
    """
    count = images_limit(limit)
    try:
        _faults(
            model or [f"robustlab:signs_{name}" for name in ("w8a8", "w4a4", "w1a1")], data, image_size,
            part or ["weights", "scales"], search or ["bfa", "random"], flips, random_flips, seeds, seed, candidates,
            target, count, search_images, compress, out,
        )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command resumes", err=True)
        raise typer.Exit(130) from None


def _faults(
    specs: Sequence[str],
    data: str,
    image_size: int | None,
    parts: Sequence[str],
    searches: Sequence[str],
    flips: int,
    random_flips: int,
    seeds: int,
    seed: int,
    candidates: int,
    target: str | None,
    limit: int | float | None,
    search_images: int,
    schemes: Sequence[str] | None,
    out: Path,
) -> None:
    import json

    from robustlab.attacks import FAULT_PARTS
    from robustlab.cli.live import watch
    from robustlab.cli.targets import check_folder
    from robustlab.cli.twins import with_twins
    from robustlab.core.errors import check_choice, check_int
    from robustlab.deploy import load
    from robustlab.evaluate.data import open_data
    from robustlab.evaluate.environment import versions
    from robustlab.evaluate.fault_study import SEARCHES, fault_study
    from robustlab.evaluate.plan import count_images
    from robustlab.report.faults import fault_picture

    for name in parts:
        check_choice("--part", name, FAULT_PARTS)
    for name in searches:
        check_choice("--search", name, SEARCHES)
    for option, number in (
        ("--flips", flips), ("--random-flips", random_flips), ("--seeds", seeds), ("--candidates", candidates),
        ("--search-images", search_images),
    ):  # fmt: skip
        check_int(option, number, 1)
    check_int("--seed", seed, 0)
    named, tested = with_twins(specs, schemes, data, typer.echo, image_size)
    models = {name: load(model) if isinstance(model, str) else model for name, model in named.items()}
    training = open_data(data, list(models.values()), split="train", image_size=image_size)
    wanted = None if target is None else tested.class_names.index(check_choice("--target", target, tested.class_names))
    check_folder("--out", out)
    with watch() as watcher:
        rows = fault_study(
            models, tested, training, parts=list(dict.fromkeys(parts)), searches=list(dict.fromkeys(searches)),
            images=count_images(limit, len(tested)), search_images=search_images, flips=flips,
            random_flips=random_flips, seeds=range(seed, seed + seeds), candidates=candidates, target=wanted,
            kept=out / _STORE, progress=watcher,
        )  # fmt: skip
    run = {"versions": versions(), "data": tested.name, "limit": limit, "search_images": search_images}
    content = {"schema": 1, "run": run, "rows": [row.as_dict() for row in rows]}
    (out / _RESULTS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / _PICTURE).write_bytes(fault_picture(rows))
    for line in _table(rows):
        typer.echo(line)
    typer.echo(f"curves  {out / _RESULTS}\npicture {out / _PICTURE}")


def _table(rows: Sequence[FaultRow]) -> list[str]:
    """One line for each model, part and search."""
    width = max(len("model"), *(len(row.model) for row in rows))
    middle = max(len("part"), *(len(row.part) for row in rows))
    names = f"{'model':<{width}}  {'part':<{middle}}  search  {'bits':>9}"
    lines = [f"{names}  clean %  {'bits to half: median':>20}  of each seed"]
    for row in rows:
        middle_value = "not reached" if row.median is None else f"{row.median:g}"
        each = [
            str(curve.bits_to_half) if curve.bits_to_half is not None
            else f">{curve.points[-1].flips} ({100 * curve.points[-1].accuracy:.0f} %)"
            for curve in row.curves
        ]  # fmt: skip
        hits = [f"{100 * p:.0f} %" for curve in row.curves if (p := curve.points[-1].hits) is not None]
        lines.append(
            f"{row.model:<{width}}  {row.part:<{middle}}  {row.search:<6}  {row.bits:>9}  "
            f"{100 * row.curves[0].clean:>7.1f}  {middle_value:>20}  {', '.join(each)}"
            + (f"  taken for the target: {', '.join(hits)}" if hits else "")
            + (f"  ({row.broken} of {len(row.curves)} with answers that are not finite)" if row.broken else "")
        )
    return lines
