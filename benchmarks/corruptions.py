"""Corruptions beside imagecorruptions 1.1.2: how far results differ given the same draws, and how long they take.

    python benchmarks/corruptions.py --reference $(scripts/reference_corruptions.sh) [--images 4] [--out FOLDER]

Needs ROBUSTLAB_DATA (ImageNet samples of 224 pixels, CIFAR-10 test images). Writes corruptions.json and corruptions.md.
The reference runs in its pinned environment with the functions that fail there mended; one thread each, the same
images. Times are processor time: the best of some runs for each image (reference) or each batch (this project).

Parity is measured twice. Against the restatement of the published scripts that the tests hold (ImageNet-C's constants
at 224 pixels, CIFAR-10-C's at 32), and against the arrays of imagecorruptions, which has ImageNet-C's constants only;
where it draws from NumPy's global generator, its draws are made again and handed over. The largest difference in grey
levels, the mean difference, and the share of channel values that differ at all.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from robustlab.core.keys import sample_keys
from robustlab.datasets.corruptions import (
    CIFAR_10_C,
    COMMON,
    CORRUPTIONS,
    HELD_OUT,
    IMAGENET_C,
    SEVERITIES,
    corrupt,
    fog,
    glass,
    snow,
    spatter,
)
from robustlab.datasets.corruptions._filters import zoom_crop

ROOT = Path(__file__).resolve().parents[1]
NAMES = (*COMMON, *HELD_OUT)
SEED = 1000
# What the project promises: at least so many times the speed of the reference.
GOALS = {"glass_blur": 50.0, "zoom_blur": 20.0, "brightness": 5.0, "saturate": 5.0, "motion_blur": 5.0, "snow": 5.0,
         "elastic_transform": 5.0}  # fmt: skip
OTHER = {
    "shot_noise": "its draws depend on the image",
    "impulse_noise": "its generator has no seed",
    "frost": "it enlarges the textures",
    "elastic_transform": "it is another transform, without the affine part",
}
Row = dict[str, Any]


def photos(count: int) -> np.ndarray:
    """uint8 (N, 224, 224, 3): ImageNet samples."""
    data = np.load(Path(os.environ["ROBUSTLAB_DATA"]) / "imagenet1000" / "imagenet1000_224.npz")
    content, offsets = data["bytes"], data["offsets"]
    chosen = np.linspace(0, len(offsets) - 2, count).astype(int)
    files = [content[offsets[i] : offsets[i + 1]].tobytes() for i in chosen]
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def small(count: int) -> np.ndarray:
    """uint8 (N, 32, 32, 3): CIFAR-10 test images."""
    return np.load(Path(os.environ["ROBUSTLAB_DATA"]) / "cifar10" / "test1000.npz")["x"][:count]


def run_reference(python: str, images: np.ndarray, repeat: int) -> dict[str, np.ndarray]:
    """The arrays that benchmarks/reference_corruptions.py writes."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "images.npy", Path(folder) / "out.npz"
        np.save(inputs, images)
        script = ROOT / "benchmarks" / "reference_corruptions.py"
        command = [python, "-W", "ignore", str(script), str(inputs), str(outputs), "--repeat", str(repeat)]
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        subprocess.run(command, check=True, env={**os.environ, **single})
        with np.load(outputs) as arrays:
            return dict(arrays)


def measure(images: np.ndarray, repeat: int) -> dict[str, list[float]]:
    """Milliseconds an image of every corruption, one number per severity."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    keys = sample_keys(0, "benchmark", range(len(batch)))
    found: dict[str, list[float]] = {}
    for name in NAMES:
        found[name] = []
        for severity in SEVERITIES:
            corrupt(batch, name, severity, keys)
            best = math.inf
            for _ in range(repeat):
                start = time.process_time()
                corrupt(batch, name, severity, keys)
                best = min(best, time.process_time() - start)
            found[name].append(1000 * best / len(batch))
    return found


def speed(reference: dict[str, np.ndarray], ours: dict[str, list[float]]) -> Row:
    """Times and their ratios, corruption by corruption and in all."""
    rows = {}
    for name in NAMES:
        theirs = [1000 * float(reference[f"{name}-{s}-seconds"].mean()) for s in SEVERITIES]
        mean = float(np.mean(theirs)), float(np.mean(ours[name]))
        rows[name] = {"reference_ms": mean[0], "ms": mean[1], "ratio": mean[0] / mean[1]}
    total = {key: sum(row[key] for row in rows.values()) for key in ("reference_ms", "ms")}
    ratios = [row["ratio"] for row in rows.values()]
    return {
        "corruptions": rows,
        "total_ratio": total["reference_ms"] / total["ms"],
        "geometric_mean": float(np.exp(np.mean(np.log(ratios)))),
        "smallest": min(ratios),
    }


def load_pairs() -> Any:
    """The module of the tests that runs the package and the restated algorithms on the same draws."""
    path = ROOT / "tests" / "datasets" / "corruption_pairs.py"
    spec = importlib.util.spec_from_file_location("corruption_pairs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Row:
    gaps = [np.abs(a.astype(int) - b) for a, b in pairs]
    return {
        "max": int(max(gap.max() for gap in gaps)),
        "mean": float(np.mean([gap.mean() for gap in gaps])),
        "share": float(np.mean([(gap > 0).mean() for gap in gaps])),
    }


def against_restatement(images: np.ndarray, table: Any) -> dict[str, Row]:
    pairs = load_pairs()
    return {
        name: difference(
            [pairs.pair(name, image, s, table, np.random.default_rng([s, i]))
             for s in SEVERITIES for i, image in enumerate(images)]
        )
        for name in NAMES
    }  # fmt: skip


def legacy_draws(name: str, shape: tuple[int, ...], severity: int, seed: int) -> Any:
    """What `apply` takes, drawn as imagecorruptions draws it from NumPy's global generator after this seed."""
    state = np.random.RandomState(seed)
    size = shape[:2]
    constants = getattr(IMAGENET_C, name)[severity - 1]

    def one(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).unsqueeze(0)

    if name in ("gaussian_noise", "speckle_noise"):
        return {"noise": one(state.normal(size=shape).transpose(2, 0, 1))}
    if name == "glass_blur":
        reach, passes = int(constants[1]), int(constants[2])
        rows, columns = size[0] - 2 * reach, size[1] - 2 * reach
        # From the last pixel to the first, columns before rows.
        moves = state.randint(-reach, reach, (passes, rows, columns, 2))[:, ::-1, ::-1, ::-1].transpose(0, 3, 1, 2)
        return {"source": glass.glass_source(one(moves.astype(np.int8)), size, reach)}
    if name == "motion_blur":
        return {"angle": torch.tensor([state.uniform(-45, 45)], dtype=torch.float64)}
    if name == "snow":
        mean, deviation, factor = constants[:3]
        noise = (state.normal(size=size, loc=mean, scale=deviation) - mean) / deviation
        rows, columns = zoom_crop(size, factor)
        top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
        angle = torch.tensor([state.uniform(-135, -45)], dtype=torch.float64)
        middle = one(noise[top : top + rows, left : left + columns])
        return {"flakes": snow.flakes(middle, angle, size, severity, IMAGENET_C)}
    if name == "fog":
        # imagecorruptions has a map of the next power of two, the published script one of 256.
        side = 1 << (max(size) - 1).bit_length()
        noise = state.uniform(-1, 1, side * side - 1)
        return {"layer": fog.plasma(one(noise), side, constants[1])[:, : size[0], : size[1]]}
    if name == "spatter":
        mean, deviation = constants[:2]
        noise = (state.normal(size=size, loc=mean, scale=deviation) - mean) / deviation
        return {"layer": spatter.drops(one(noise), severity, IMAGENET_C).unsqueeze(1)}
    return {}


def against_reference(images: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for name in NAMES:
        if name in OTHER:
            rows[name] = {"reason": OTHER[name]}
            continue
        found = []
        for severity in SEVERITIES:
            for i, image in enumerate(images):
                draws = legacy_draws(name, image.shape, severity, SEED + i)
                pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).unsqueeze(0)
                ours = CORRUPTIONS[name].apply(pixels, draws, severity, IMAGENET_C)[0].numpy().transpose(1, 2, 0)
                found.append((ours, arrays[f"{name}-{severity}"][i]))
        rows[name] = difference(found)
    return rows


def _gap(row: Row) -> str:
    if "reason" in row:
        return row["reason"]
    if row["max"] == 0:
        return "equal"
    return f"{row['max']} / {row['mean']:.2g} ({row['share']:.2g})"


def markdown(result: Row) -> str:
    """The tables of corruptions.md."""
    lines = [
        "# Corruptions beside imagecorruptions 1.1.2",
        "",
        "Made by `benchmarks/corruptions.py`; one thread each, the same images. "
        f"{result['machine']['cpu']}, torch {result['machine']['torch']}; reference: {result['machine']['reference']}.",
        "",
        "## Parity, given the same draws",
        "",
        "Largest / mean difference in grey levels over five severities (share of channel values that differ). "
        f"{result['images']['224']} ImageNet and {result['images']['32']} CIFAR-10 images. *Published*: a plain "
        "restatement of the published scripts, with each size's own constants. *imagecorruptions*: ImageNet-C's "
        "constants at both sizes.",
        "",
        "| corruption | published, 224 px | published, 32 px | imagecorruptions, 224 px | imagecorruptions, 32 px |",
        "|---|---|---|---|---|",
    ]
    parity = result["parity"]
    columns = ("published_224", "published_32", "reference_224", "reference_32")
    lines += [f"| {name} | " + " | ".join(_gap(parity[c][name]) for c in columns) + " |" for name in NAMES]
    lines += ["", "## Speed", "", "Milliseconds of processor time an image, mean over five severities.", ""]
    lines += [
        "| corruption | reference, 224 px | here | times | goal | reference, 32 px | here | times |",
        "|---|---|---|---|---|---|---|---|",
    ]
    large, little = (result["speed"][size]["corruptions"] for size in ("224", "32"))
    for name in NAMES:
        cells = [f"{large[name]['reference_ms']:.2f}", f"{large[name]['ms']:.2f}", f"{large[name]['ratio']:.1f}"]
        cells.append(f"{GOALS.get(name, 0.9):g}")
        cells += [f"{little[name]['reference_ms']:.3f}", f"{little[name]['ms']:.3f}", f"{little[name]['ratio']:.1f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    for size, goal in (("224", "20, 5 and 0.9"), ("32", "20")):
        found = result["speed"][size]
        lines.append(
            f"{size} pixels: {found['total_ratio']:.1f} times as fast in total, {found['geometric_mean']:.1f} times in "
            f"the geometric mean, {found['smallest']:.2f} times at least (goals: {goal})."
        )
    return "\n".join(lines) + "\n"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="Python of the pinned environment")
    parser.add_argument("--images", type=int, default=4, help="images of 224 pixels; of 32 pixels eight times as many")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sets = {"224": photos(arguments.images), "32": small(8 * arguments.images)}
    result: Row = {"images": {size: len(images) for size, images in sets.items()}, "speed": {}, "parity": {}}
    for size, images in sets.items():
        arrays = run_reference(arguments.reference, images, arguments.repeat)
        # A CIFAR-size evaluation hands over batches.
        timed = images if size == "224" else np.concatenate([images] * 4)
        result["speed"][size] = speed(arrays, measure(timed, arguments.repeat))
        result["parity"][f"reference_{size}"] = against_reference(images, arrays)
        table = IMAGENET_C if size == "224" else CIFAR_10_C
        result["parity"][f"published_{size}"] = against_restatement(images, table)
        reference = ", ".join(str(version) for version in arrays["versions"])
    result["machine"] = {"cpu": processor(), "torch": torch.__version__, "reference": reference}
    (arguments.out / "corruptions.json").write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    (arguments.out / "corruptions.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
