"""Does a pretrained model lose the same accuracy on this package's corrupted images as on the reference's?

    python benchmarks/corruption_accuracy.py [--models resnet20,mobilenet_v2] [--only NAME,...] [--out FOLDER]

Needs ROBUSTLAB_DATA and the environment that scripts/reference_corruptions.sh builds. ResNet-20 on CIFAR-10 test images
of 32 pixels and MobileNetV2 on ImageNet samples of 224, both with ImageNet-C's constants, the only ones that
imagecorruptions has. Its elastic transform is another one: there the restatement of the published scripts in the tests
is the reference, with draws of its own.

Paired: for each image the difference of the numbers of severities at which it is right. Corruptions without randomness
should differ by less than 0.3 points, random ones, drawn independently, by less than two standard errors. Every row is
kept in corruption_accuracy.json; the table is corruption_accuracy.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import robustlab as rl
from robustlab.core.keys import sample_keys
from robustlab.datasets import load_dataset
from robustlab.datasets.corruptions import COMMON, HELD_OUT, IMAGENET_C, SEVERITIES, corrupt

ROOT = Path(__file__).resolve().parents[1]
NAMES = (*COMMON, *HELD_OUT)
FIXED = (
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate"
)  # fmt: skip
POINTS, ERRORS = 0.3, 2.0
# Model, data, images for corruptions without randomness and with it.
MODELS = {
    "resnet20": ("robustlab:cifar_resnet20", "cifar10", 1000, 1000),
    "mobilenet_v2": ("robustlab:mobilenet_v2", "imagenet1000", 80, 40),
}
AT_ONCE = 20


def load_pairs() -> Any:
    """The module of the tests that holds the restated algorithms."""
    path = ROOT / "tests" / "datasets" / "corruption_pairs.py"
    spec = importlib.util.spec_from_file_location("corruption_pairs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def restated(images: Tensor, name: str, severity: int, first: int) -> Tensor:
    """uint8 (N, 3, H, W) of the restated algorithm, with draws from NumPy."""
    pairs, made = load_pairs(), []
    constants = getattr(IMAGENET_C, name)[severity - 1]
    for i, image in enumerate(images):
        pixels = image.permute(1, 2, 0).numpy()
        shrink = min(1.0, min(pixels.shape[:2]) / IMAGENET_C.elastic_side)
        rng = np.random.default_rng([zlib.crc32(name.encode()), severity, first + i])
        given, _ = pairs.draws_for(name, pixels, severity, IMAGENET_C, rng)
        made.append(getattr(pairs.oracle, name)(pixels, *given, tuple(shrink * c for c in constants)))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()


def right(model: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    with torch.no_grad():
        x = (images.to(torch.float32) / 255).contiguous(memory_format=torch.channels_last)
        found: np.ndarray = (model(x).argmax(1) == labels).numpy()
        return found


def compare(model: nn.Module, images: Tensor, labels: Tensor, name: str) -> dict[str, Any]:
    """One row: accuracies over all images and severities, their difference and its standard error, in points."""
    scores = np.zeros((2, len(images)))
    for severity in SEVERITIES:
        for first in range(0, len(images), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            keys = sample_keys(0, f"{name}-{severity}", range(first, first + len(images[part])))
            ours = corrupt(images[part], name, severity, keys, "imagenet-c")
            if name == "elastic_transform":
                theirs = restated(images[part], name, severity, first)
            else:
                theirs = corrupt(images[part], f"imagecorruptions:{name}", severity, keys)
            for row, made in enumerate((theirs, ours)):
                scores[row, part] += right(model, made, labels[part]) / len(SEVERITIES)
    difference = 100 * (scores[1] - scores[0])
    error = float(difference.std(ddof=1) / np.sqrt(len(images)))
    points = float(difference.mean())
    within = abs(points) <= (POINTS if name in FIXED else ERRORS * error)
    return {
        "images": len(images), "reference": 100 * float(scores[0].mean()), "here": 100 * float(scores[1].mean()),
        "difference": points, "standard_error": error, "within": within,
    }  # fmt: skip


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Accuracy under corruption: imagecorruptions and this package",
        "",
        "Made by `benchmarks/corruption_accuracy.py`: percent right over five severities, ImageNet-C's constants at "
        "both sizes. Without randomness the difference should be at most 0.3 points, with it at most two standard "
        "errors.",
        "",
        "| model | corruption | images | reference | here | difference | standard error | within |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, row in rows.items():
        model, name = key.split("/")
        kind = "" if name in FIXED else f"{row['standard_error']:.2f}"
        lines.append(
            f"| {model} | {name} | {row['images']} | {row['reference']:.2f} | {row['here']:.2f} | "
            f"{row['difference']:+.2f} | {kind} | {'yes' if row['within'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    arguments = parser.parse_args()
    path = arguments.out / "corruption_accuracy.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    assert "ROBUSTLAB_DATA" in os.environ, "ROBUSTLAB_DATA names no folder"
    for key in arguments.models.split(","):
        spec, data, fixed, random = MODELS[key]
        model = rl.load(spec).eval().to(memory_format=torch.channels_last)
        pictures, labels = load_dataset(data).batch(range(max(fixed, random)))
        images = (pictures * 255).round().to(torch.uint8)
        for name in arguments.only.split(","):
            if f"{key}/{name}" not in rows:
                count = fixed if name in FIXED else random
                rows[f"{key}/{name}"] = compare(model, images[:count], labels[:count], name)
                print(key, name, rows[f"{key}/{name}"], flush=True)
                path.write_text(json.dumps(rows, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
