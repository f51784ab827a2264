"""`robustlab attack`: adversarial images of one model, as files, and how well the attack did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustlab.cli.foreign import check_preprocessing, load_given, takes_preprocessing
from robustlab.cli.options import images_limit

if TYPE_CHECKING:
    from torch import Tensor

    from robustlab.deploy import Preprocessing
    from robustlab.evaluate.conditions import AttackCondition
    from robustlab.evaluate.crafting import CraftedRow, Part
    from robustlab.evaluate.plan import Plan
    from robustlab.report.sheet import Pair

_PICTURED = 6


class Saved(str, Enum):
    """Which pictures are written beside the exact arrays."""

    NONE = "none"
    PNG = "png"


@takes_preprocessing
def attack(
    model: Annotated[
        str,
        typer.Argument(
            help="robustlab:NAME, torchvision:NAME@FILE, or the path of a model file or of an ONNX file.",
            show_default=False,
        ),
    ],
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            "-a",
            help="Such as pgd20-linf-8of255, pgd20-linf-8of255-uint8 or 'torchattacks:CW(steps=50)'; repeatable; "
            "robustlab list attacks names them. (default: pgd20-linf-8of255)",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", "-d", help="A name of robustlab list datasets, or imagefolder:PATH.")
    ] = "signs",
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images of an imagefolder. (default: what the model was made for, else 224)",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        str, typer.Option(help="The first so many images, a fraction of them such as 0.1, or all.")
    ] = "256",
    target: Annotated[
        str,
        typer.Option(help="What the model shall say: none (anything but the truth), next, random or a class's name."),
    ] = "none",
    authority: Annotated[
        str | None,
        typer.Option(
            help="A model that is to stay right, such as the float one: a PGD attack becomes DIVA, and images are "
            "counted that part the two.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        Saved,
        typer.Option(help="png: write every adversarial image as an 8-bit file too, and judge what is read back."),
    ] = Saved.NONE,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    tile: Annotated[int, typer.Option(help="Images per call of a model.")] = 64,
    threads: Annotated[
        int | None, typer.Option(help="Threads that torch uses. (default: torch's choice)", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images and results.")] = Path("robustlab-attack"),
    preprocessing: Preprocessing | None = None,
) -> None:
    """Make adversarial images of a model as it ships, and keep them.

    The folder gets the exact images (safetensors, with labels, predictions and queries), a sheet of pictures for every
    attack and attack.json. What it has already is not made again: after an interruption the same command goes on.

    Example: robustlab attack robustlab:signs_w4a4 --attack pgd20-linf-8of255-uint8 --save png
    """
    count = images_limit(limit)
    try:
        _attack(
            model,
            attacks or ["pgd20-linf-8of255"],
            data,
            image_size,
            count,
            target,
            authority,
            save,
            seed,
            tile,
            threads,
            out,
            preprocessing,
        )
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command resumes", err=True)
        raise typer.Exit(130) from None


def _attack(
    model: str,
    attacks: Sequence[str],
    data: str,
    image_size: int | None,
    limit: int | float | None,
    target: str,
    authority: str | None,
    save: Saved,
    seed: int,
    tile: int,
    threads: int | None,
    out: Path,
    preprocessing: Preprocessing | None,
) -> None:
    import torch

    from robustlab.attacks import Divergence, parse_attack
    from robustlab.cli.live import watch
    from robustlab.cli.targets import check_folder
    from robustlab.core.errors import check_int, invalid
    from robustlab.evaluate.conditions import AttackCondition
    from robustlab.evaluate.crafting import choose_targets, craft, earlier_rows, write_rows
    from robustlab.evaluate.data import open_data
    from robustlab.evaluate.environment import versions
    from robustlab.evaluate.plan import make_plan

    parsed = [parse_attack(text) for text in attacks]
    if authority is not None:
        if target != "none":
            raise invalid("--target", target, "none with --authority")
        check_preprocessing(preprocessing, [model, authority])
        stays_right = load_given(authority, preprocessing)
        parsed = [Divergence.of(attack, stays_right) for attack in parsed]
    conditions = [AttackCondition(attack) for attack in parsed]
    check_int("--seed", seed, 0)
    check_int("--tile", tile, 1)
    if threads is not None:
        torch.set_num_threads(check_int("--threads", threads, 1, 1024))
    check_preprocessing(preprocessing, [model])
    network = load_given(model, preprocessing)
    dataset = open_data(data, [network], image_size=image_size)
    plan = make_plan(
        network, dataset, conditions, out=out, limit=limit, batch_size=tile, tile=tile, seed=seed, device="cpu"
    )
    (subject,) = plan.subjects
    if subject.gradient == "none" and any(condition.needs_gradient for condition in conditions):
        raise invalid(
            "--attack",
            ", ".join(c.key for c in conditions if c.needs_gradient),
            f"an attack without gradients such as square5000-linf-8of255: {subject.name} does not differentiate",
        )
    nobody = torch.zeros(1, dtype=torch.int64)
    choose_targets(target, nobody, dataset.class_names, nobody)
    run = {
        "versions": versions(),
        "model": {"source": model, "fingerprint": subject.fingerprint, "gradient": subject.gradient},
        "data": {"name": plan.data.name, "fingerprint": plan.data.fingerprint, "images": plan.count},
        "seed": seed,
        "tile": tile,
    }
    check_folder("--out", out)
    earlier_rows(out / "attack.json", run)
    kept: dict[str, _Kept] = {condition.key: _Kept() for condition in conditions}
    with watch() as watcher:
        for condition, part in craft(plan, target, watcher):
            kept[condition.key].add(plan, condition, part, save)
    rows = [kept[condition.key].row(subject.name, condition, target) for condition in conditions]
    write_rows(out / "attack.json", rows, run)
    _say(plan, rows, kept, save)


@dataclass
class _Kept:
    """What stays of an attack's parts: everything but the images, of which a few are pictured."""

    parts: list[Part] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    written: int = 0
    survived: int = 0
    parted: int | None = None  # Images that the model gets wrong and its authority right, with one.
    parted_before: int = 0

    def add(self, plan: Plan, condition: AttackCondition, part: Part, save: Saved) -> None:
        from dataclasses import replace

        from robustlab.attacks import Divergence
        from robustlab.core import map_tiles
        from robustlab.evaluate.plan import read_batch
        from robustlab.report.sheet import Pair

        clean, _ = read_batch(plan.data, part.ids.tolist())
        ball = condition.attack.ball
        self.norms.append(map_tiles(ball.distance, part.images, clean, size=plan.tile))
        names = plan.data.class_names
        for row in part.success.nonzero().flatten().tolist()[: _PICTURED - len(self.pairs)]:
            before, after = (names[int(t[row])] for t in (part.clean, part.prediction))
            self.pairs.append(Pair(clean[row].numpy(), part.images[row].numpy(), before, after))
        if save is Saved.PNG:
            self._save(plan, plan.out / condition.key / "png", part)
        if isinstance(condition.attack, Divergence):
            asked = [condition.attack.diverges(plan.subjects[0].model, x, part.labels) for x in (part.images, clean)]
            self.parted = (self.parted or 0) + int(asked[0].sum())
            self.parted_before += int(asked[1].sum())
        self.parts.append(replace(part, images=part.images[:0]))

    def row(self, model: str, condition: AttackCondition, target: str) -> CraftedRow:
        """What came of the attack."""
        import torch

        from robustlab.evaluate.crafting import summary

        row = summary(model, condition, target, self.parts, torch.cat(self.norms))
        if self.parted is not None:
            row["parted"], row["parted_before"] = self.parted, self.parted_before
        return row

    def _save(self, plan: Plan, folder: Path, part: Part) -> None:
        """Write the successes as PNG files, read them back, and ask the model again."""
        import torch

        from robustlab.core import Tiled, frozen
        from robustlab.evaluate.runner import encode_png
        from robustlab.report.sheet import read_png

        rows = part.success.nonzero().flatten()
        if not len(rows):
            return
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for row in rows.tolist():
            said = plan.data.class_names[int(part.prediction[row])].replace(" ", "-").replace("/", "-")
            paths.append(folder / f"{int(part.ids[row]):06}-{said}.png")
            paths[-1].write_bytes(encode_png(part.images[row]))
        model = plan.subjects[0].model
        with frozen(model), torch.no_grad():
            answers = Tiled(model, plan.tile)(torch.stack([torch.from_numpy(read_png(path)) for path in paths]))
        targets, labels = part.targets[rows], part.labels[rows]
        said_again, answered = answers.argmax(dim=1), torch.isfinite(answers).all(dim=1)
        still = torch.where(targets < 0, said_again != labels, said_again == targets) & answered
        self.written += len(rows)
        self.survived += int(still.sum())


def _say(plan: Plan, rows: Sequence[CraftedRow], kept: dict[str, _Kept], save: Saved) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from robustlab.cli.live import console
    from robustlab.report.format import percent_text
    from robustlab.report.sheet import sheet

    table = Table(box=SIMPLE_HEAD)
    table.add_column("attack", overflow="fold", min_width=max(len(row["attack"]) for row in rows))
    headings = ("clean %", "under attack %", "successes", "median norm", "median queries", "gradients")
    for name in (*headings, *(("PNG keeps",) if save is Saved.PNG else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        seen = kept[row["attack"]]
        interval = f"{percent_text(row['robust'])} [{percent_text(row['ci_low'])}, {percent_text(row['ci_high'])}]"
        norm = "" if row["norm_median"] is None else f"{row['norm']} {row['norm_median']:.4g}"
        cells = [row["attack"], percent_text(row["clean"]), interval, f"{row['successes']} of {row['n']}", norm]
        cells += [f"{row['queries_median']:.0f}", str(row["gradient_calls"])]
        if save is Saved.PNG:
            cells.append(f"{seen.survived} of {seen.written}")
        table.add_row(*cells)
    console(3).print(table)
    gradient = plan.subjects[0].gradient
    if gradient.startswith("surrogate"):
        typer.echo(f"gradient {gradient}; every answer is the model's own")
    for row in rows:
        if row["not_attacked"]:
            typer.echo(
                f"{row['attack']}: {row['not_attacked']} images could not be attacked (values that are not finite)"
            )
        seen = kept[row["attack"]]
        if seen.parted is not None:
            typer.echo(
                f"{row['attack']}: wrong here and right by the authority: {seen.parted} of {row['n']}, "
                f"{seen.parted_before} before the attack"
            )
        if seen.pairs:
            path = plan.out / row["attack"] / "sheet.png"
            path.write_bytes(sheet(seen.pairs, f"{row['model']} · {row['attack']}"))
            typer.echo(f"pictures {path}")
        typer.echo(f"images   {plan.out / row['attack']}/part-*.safetensors")
    typer.echo(f"data     {plan.out / 'attack.json'}")
