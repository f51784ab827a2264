"""Trained models for the matrix: the files of a folder that say by which algorithm and with which bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robustlab.bench.compressors.cells import Cell, Scheme, allows
from robustlab.compress.catalogue import ALGORITHMS
from robustlab.core.errors import ArgumentError, invalid
from robustlab.deploy import fingerprint, load
from robustlab.models import info_of


@dataclass(frozen=True, eq=False)
class Trained:
    """A deployed model that was trained, and what its file says about how."""

    source: str
    algorithm: str
    scheme: Scheme
    note: str
    model: nn.Module
    fingerprint: str

    @property
    def cell(self) -> Cell:
        """Its cell, without figures."""
        return Cell(
            self.algorithm, self.scheme.weights, self.scheme.activations, "trained", source=self.source, note=self.note
        )


def read_trained(folder: Path) -> tuple[list[Trained], list[str]]:
    """(the trained models among the model files of a folder, why the other files are left out), by file name.

    A model counts as trained where its provenance has what `robustlab compress --epochs` writes: under ``compressed``
    its ``algorithm``, ``weights`` and ``activations``, and ``epochs`` above 0. Raises `ArgumentError` for a folder that
    is not there and `ModelFileError` for a damaged file.
    """
    if not folder.is_dir():
        raise invalid("models", str(folder), "an existing folder of model files")
    found: list[Trained] = []
    left: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        model = load(path)
        info = info_of(model)
        made = None if info is None else info.provenance.get("compressed")
        reason = _reason(made)
        if reason:
            left.append(f"{path.name}: {reason}")
            continue
        assert isinstance(made, Mapping)
        scheme = Scheme(made["weights"], made["activations"])
        note = f"{made['epochs']} epochs"
        found.append(Trained(path.stem, str(made["algorithm"]), scheme, note, model, fingerprint(model)))
    return found, left


def _reason(made: object) -> str:
    """Why this is not what a trained model says of itself; empty if it is."""
    if not isinstance(made, Mapping):
        return "does not say how it was compressed"
    algorithm, epochs, weights, activations = map(made.get, ("algorithm", "epochs", "weights", "activations"))
    if algorithm not in ALGORITHMS:
        return "names no algorithm that is known here"
    try:
        scheme = Scheme(weights, activations)  # type: ignore[arg-type]
    except ArgumentError as error:
        return str(error)
    if type(epochs) is not int or epochs < 1:
        return "was not trained"
    return "" if allows(str(algorithm), scheme) else "has bits that its algorithm does not take"
