"""The whole matrix: every algorithm at every scheme, made, checked, judged, timed and stored cell by cell."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from robustlab import __version__
from robustlab.bench.compressors.cells import Cell, Job, Scheme, jobs
from robustlab.bench.compressors.judging import classes, constant_signs, equal_logits, latency, predict, quality
from robustlab.bench.compressors.making import make
from robustlab.bench.compressors.store import CompressorBench, Settings, resumed, write
from robustlab.bench.compressors.trained import Trained, read_trained
from robustlab.core import RobustlabError
from robustlab.core.digest import tensors_digest
from robustlab.core.errors import check_choice, check_images, check_int, check_labels, invalid
from robustlab.core.progress import Progress, SilentProgress
from robustlab.deploy import (
    fingerprint,
    input_size,
    is_compressed,
    load,
    model_name,
    save,
    simulated_twin,
    stored_bytes,
    stored_parts,
)
from robustlab.evaluate.environment import torch_minor

LATENCIES = ("with", "without", "only")


def bench_compressors(
    model: nn.Module,
    calibration: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    data: str = "",
    algorithms: Sequence[str] | None = None,
    schemes: Sequence[Scheme] | None = None,
    iterations: int | None = None,
    models: Path | None = None,
    seed: int = 0,
    latency: str = "with",
    keep: Path | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> CompressorBench:
    """Compress `model` by every algorithm at every scheme, and judge each deployed model on the same images.

    calibration: float32 batches (N, 3, H, W) in [0, 1], without labels. images, labels: what is judged on, float32
    (N, 3, H, W) and int64 (N,); data: their name. algorithms: among `robustlab.compress.catalogue.ALGORITHMS`; schemes:
    `DEFAULT_SCHEMES` if None; each algorithm has the cells of the schemes it takes. Post-training algorithms are judged
    raw and with statistics correction, and the others as calibrated, untrained, unless the folder
    `models` has files of trained ones, see `read_trained`. iterations: of the algorithms that learn.

    A cell whose deployed model is not equal to its simulation, breaks the contract or cannot be made has an error in
    place of figures. With `out` every cell is stored there when it is done, and a run that finds it goes on; cells with
    errors are tried again. keep: a folder for all deployed models that are made. The seconds are processor time.
    Latency is wall time: ``with`` measures it as each cell is made, ``without`` leaves it out, and ``only`` measures it
    anew for the cells stored in `out`, on their models in `keep`, and makes nothing.
    progress, say: told of the work, and of each cell in a line.
    Raises `ArgumentError` for bad arguments, and files of another model, data or settings.
    """
    check_choice("latency", latency, LATENCIES)
    if is_compressed(model):
        raise invalid("model", model_name(model), "a float model; this one is compressed already")
    check_images(images)
    if not len(images) or not len(calibration):
        raise invalid("images", "no images", "at least one to calibrate with and one to judge on")
    check_int("seed", seed, 0, 2**32 - 1)
    if iterations is not None:
        check_int("iterations", iterations, 1)
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise invalid("out", str(out), "a file in a folder that exists")
    if keep is not None and not (keep.is_dir() or (keep.absolute().parent.is_dir() and not keep.exists())):
        raise invalid("keep", str(keep), "a folder, or one that can be made in a folder that exists")
    plan = jobs(algorithms, schemes)
    trained, left = ([], []) if models is None else read_trained(models)
    for line in left:
        say(f"left out: {line}")
    trained = [
        found
        for found in trained
        if (algorithms is None or found.algorithm in algorithms) and (schemes is None or found.scheme in schemes)
    ]
    there = {(found.algorithm, found.scheme) for found in trained}
    plan = [job for job in plan if job.states != ("untrained",) or (job.algorithm, job.scheme) not in there]
    model = copy.deepcopy(model).eval()
    reference = predict(model, images)
    check_labels(labels, len(images), reference.shape[1])
    for found in trained:
        size = input_size(found.model)
        if size is not None and size != tuple(images.shape[2:]):
            raise invalid("models", found.source, f"models of images of {images.shape[2]}x{images.shape[3]}")
    settings = Settings(
        model=model_name(model),
        model_fingerprint=fingerprint(model),
        data=data,
        data_digest=_digest(calibration, images, labels),
        calibration=sum(map(len, calibration)),
        images=len(images),
        iterations=iterations,
        seed=seed,
        robustlab=__version__,
        torch=torch_minor(),
    )
    accuracy = quality(reference, reference, labels).accuracy
    bench = resumed(out, CompressorBench(settings, accuracy, stored_bytes(model)))
    run = _Run(bench, model, reference, list(calibration), images, labels, out, keep, progress or SilentProgress(), say)
    if latency == "only":
        if not bench.cells:
            raise invalid("out", None if out is None else str(out), "the file of an earlier run, whose cells are timed")
        run.time_all(plan, trained)
        return bench
    if keep is not None:
        keep.mkdir(exist_ok=True)
    run.make_all(plan, trained, timed=latency == "with")
    return bench


def _digest(calibration: Sequence[Tensor], images: Tensor, labels: Tensor) -> str:
    batches = {f"calibration {index}": batch for index, batch in enumerate(calibration)}
    return tensors_digest({"images": images, "labels": labels, **batches})


class _Run:
    """One run: what does not change while it lasts."""

    def __init__(
        self,
        bench: CompressorBench,
        model: nn.Module,
        reference: Tensor,
        batches: list[Tensor],
        images: Tensor,
        labels: Tensor,
        out: Path | None,
        keep: Path | None,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self.bench, self.model, self.reference, self.batches = bench, model, reference, batches
        self.images, self.labels, self.out, self.keep = images, labels, out, keep
        self.progress, self.say = progress, say

    def make_all(self, plan: Sequence[Job], trained: Sequence[Trained], *, timed: bool) -> None:
        """Every job that has no finished cells yet, and every trained model."""
        total = len(plan) + len(trained)
        for index, job in enumerate(plan, 1):
            cells = [Cell(job.algorithm, job.scheme.weights, job.scheme.activations, state) for state in job.states]
            if all(self._done(cell, timed=timed) for cell in cells):
                continue
            self.say(f"[{index}/{total}] {job.scheme} {job.algorithm}")
            self._make(job, cells, timed=timed)
        for index, found in enumerate(trained, len(plan) + 1):
            stored = self.bench.get(found.cell)
            if self._done(found.cell, timed=timed) and stored is not None and stored.fingerprint == found.fingerprint:
                continue
            self.say(f"[{index}/{total}] {found.scheme} {found.algorithm}, trained: {found.source}")
            twin = simulated_twin(found.model)
            assert twin is not None, "its file has packed layers"
            self._judge(found.cell, found.model, twin, timed=timed)

    def time_all(self, plan: Sequence[Job], trained: Sequence[Trained]) -> None:
        """The latency of every stored cell of the plan, anew."""
        names = {(job.algorithm, job.scheme) for job in plan}
        wanted = [
            cell
            for cell in self.bench.cells
            if not cell.error and cell.source == "" and (cell.algorithm, cell.scheme) in names
        ]
        files = {cell.key: self._kept(cell) for cell in wanted}
        for index, cell in enumerate(wanted, 1):
            model = load(files[cell.key], factory=lambda: copy.deepcopy(self.model))
            if fingerprint(model) != cell.fingerprint:
                raise invalid("keep", str(files[cell.key]), "the model of its cell; this is another")
            self._time(cell, model, f"[{index}/{len(wanted)}] ")
        for found in trained:
            stored = self.bench.get(found.cell)
            if stored is not None and stored.fingerprint == found.fingerprint:
                self._time(stored, found.model, "")

    def _kept(self, cell: Cell) -> Path:
        if self.keep is None:
            raise invalid("keep", None, "the folder in which the run that made the cells kept their models")
        path = self.keep / cell.file_name
        if not path.is_file():
            raise invalid(
                "keep", str(self.keep), f"a folder with the models of all stored cells; it has no {path.name}"
            )
        return path

    def _done(self, cell: Cell, *, timed: bool) -> bool:
        stored = self.bench.get(cell)
        return stored is not None and not stored.error and (stored.latency is not None or not timed)

    def _make(self, job: Job, cells: Sequence[Cell], *, timed: bool) -> None:
        left = list(cells)
        try:
            for made in make(
                job,
                self.model,
                self.batches,
                iterations=self.bench.settings.iterations,
                seed=self.bench.settings.seed,
                progress=self.progress,
            ):
                cell = replace(left.pop(0), seconds=made.seconds, replaced=made.replaced)
                self._judge(cell, made.deployed, made.simulated, timed=timed)
        except RobustlabError as error:
            for cell in left:
                self._put(replace(cell, error=str(error)))

    def _judge(self, cell: Cell, deployed: nn.Module, simulated: nn.Module, *, timed: bool) -> None:
        try:
            logits = equal_logits(deployed, simulated, self.images)
            if logits.shape != self.reference.shape:
                found, wanted = logits.shape[1], self.reference.shape[1]
                raise RobustlabError(f"it has {found} classes where the float model has {wanted}")
        except RobustlabError as error:
            self._put(replace(cell, error=str(error)))
            return
        constant, binary = constant_signs(deployed, self.batches[0])
        if self.keep is not None and not cell.source:
            save(deployed, self.keep / cell.file_name)
        self._put(
            replace(
                cell,
                classes=classes(deployed),
                binary=binary,
                constant=constant,
                quality=quality(logits, self.reference, self.labels),
                stored=stored_parts(deployed),
                latency=latency(deployed, self.model, self.images) if timed else None,
                fingerprint=fingerprint(deployed),
            )
        )

    def _time(self, cell: Cell, model: nn.Module, start: str) -> None:
        found = replace(cell, latency=latency(model, self.model, self.images))
        assert found.latency is not None
        self.say(f"{start}{cell.scheme} {cell.algorithm} {cell.state}: {found.latency.milliseconds:.3f} ms")
        self._store(found)

    def _put(self, cell: Cell) -> None:
        self.say(f"    {_line(cell)}")
        self._store(cell)

    def _store(self, cell: Cell) -> None:
        self.bench.put(cell)
        if self.out is not None:
            write(self.bench, self.out)


def _line(cell: Cell) -> str:
    """A cell in one line of a log."""
    if cell.error:
        return f"{cell.state}: error: {cell.error}"
    assert cell.quality is not None
    accuracy = f"{cell.quality.points:+.1f} ± {cell.quality.half_width:.1f} points, KL {cell.quality.kl:.3f}"
    seconds = "" if cell.seconds is None else f", {cell.seconds:.1f} s"
    return f"{cell.state}: {accuracy}{seconds}"
