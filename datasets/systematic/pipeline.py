"""A pipeline: decoder x colour conversion x resizer x protocol, from the bytes of a file to the input of a model.

What changes between the file and the model, while the model stays as it is, is the systematic noise of ImageNet-S (Tang
et al., RobustART, 2021; Wang et al., SysNoise, 2023).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustlab.core.errors import check_choice, invalid
from robustlab.datasets.systematic.colours import COLOURS
from robustlab.datasets.systematic.decoders import DECODERS, Size, decode
from robustlab.datasets.systematic.libraries import missing, version
from robustlab.datasets.systematic.protocols import PROTOCOLS, fit
from robustlab.datasets.systematic.resizers import RESIZERS

REFERENCE_KEY = "pillow-rgb-pillow.bilinear-square"
_KEY = re.compile(r"([a-z0-9.]+)-([a-z0-9.]+)-([a-z0-9.]+)-([a-z0-9.]+)")
FACTORS = ("decoder", "colour", "resizer", "protocol")


@dataclass(frozen=True)
class Pipeline:
    """One way from a file to a model, by the names in `DECODERS`, `COLOURS`, `RESIZERS` and `PROTOCOLS`.

    Raises `ArgumentError` for unknown names. The libraries are not imported before it is used.

    >>> Pipeline("ffmpeg").key
    'ffmpeg-rgb-pillow.bilinear-square'
    """

    decoder: str = "pillow"
    colour: str = "rgb"
    resizer: str = "pillow.bilinear"
    protocol: str = "square"

    def __post_init__(self) -> None:
        check_choice("decoder", self.decoder, DECODERS)
        check_choice("colour", self.colour, COLOURS)
        check_choice("resizer", self.resizer, RESIZERS)
        check_choice("protocol", self.protocol, PROTOCOLS)

    @property
    def key(self) -> str:
        """The four names with dashes between them."""
        return "-".join((self.decoder, self.colour, self.resizer, self.protocol))

    @property
    def libraries(self) -> tuple[str, ...]:
        """What it runs through, each once, in order."""
        colour = COLOURS[self.colour].library
        used = [DECODERS[self.decoder].library, *([colour] if colour else []), RESIZERS[self.resizer].library]
        return tuple(dict.fromkeys(used))

    @property
    def bug(self) -> bool:
        """Whether a part is a mistake, such as red and blue swapped."""
        return DECODERS[self.decoder].bug or COLOURS[self.colour].bug

    def versions(self) -> dict[str, str]:
        """Of the libraries; raises `DataError` where one is missing."""
        return {library: version(library) for library in self.libraries}

    def missing(self) -> str | None:
        """Which libraries are not installed, in words; None where all are."""
        return missing(self.libraries)

    def factor(self, reference: Pipeline) -> str:
        """What differs from `reference`: one of `FACTORS`, ``bug``, ``several``, or ``none``."""
        differing = [name for name in FACTORS if getattr(self, name) != getattr(reference, name)]
        if self.bug and not reference.bug:
            return "bug"
        return differing[0] if len(differing) == 1 else ("several" if differing else "none")

    def __call__(self, content: bytes, size: Size, where: str = "the file") -> Tensor:
        """float32 (3, H, W) in [0, 1] for a model of (H, W) = `size`; raises `DataError` that names `where`."""
        protocol = PROTOCOLS[self.protocol]
        # What a decoder may reduce to depends on the picture only in the protocol that keeps its aspect; the shorter
        # side is what counts there.
        target = protocol.sizes((1, 1), size)[0]
        pixels = COLOURS[self.colour].convert(decode(DECODERS[self.decoder], content, target, where))
        found = fit(pixels, size, protocol, RESIZERS[self.resizer].resize)
        image = torch.from_numpy(np.require(found, requirements=["C", "W"])).permute(2, 0, 1).contiguous()
        return image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image


def parse_pipeline(key: str) -> Pipeline:
    """The pipeline of a key such as ``ffmpeg-rgb-opencv.area-short``; raises `ArgumentError` for anything else."""
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    if match is None:
        raise invalid("pipeline", key, f"decoder-colour-resizer-protocol, such as {REFERENCE_KEY}")
    return Pipeline(*match.groups())


def is_pipeline_key(key: str) -> bool:
    """Whether the key begins with a decoder and has four parts, so that it means a pipeline, right or wrong."""
    match = _KEY.fullmatch(key)
    return match is not None and match.group(1).partition(".")[0] in {name.partition(".")[0] for name in DECODERS}


def develop(contents: Sequence[bytes], pipeline: Pipeline, size: Size, where: Callable[[int], str] = str) -> Tensor:
    """float32 (N, 3, H, W) in [0, 1] of N files; `where(row)` names a file in an error."""
    if not contents:
        return torch.empty((0, 3, *size))
    return torch.stack([pipeline(content, size, where(row)) for row, content in enumerate(contents)])


def describe_versions(versions: Mapping[str, str]) -> str:
    """Versions as one line that is part of a key of results."""
    return json.dumps(dict(versions), sort_keys=True)
