"""Int8 ONNX files of real networks: what robustlab says of them, beside an ONNX Runtime session of one's own.

    ROBUSTLAB_DATA=../shared/data python benchmarks/foreign.py --work runs/foreign --out benchmarks/foreign.md

Each network is exported by torch and quantized by ONNX Runtime's static quantizer (per channel, int8 weights and
activations, its own defaults otherwise), calibrated on training images; QDQ is its default format, QOperator the other.
Normalisation is left out of the file and given as preprocessing, as files in the wild want it.

Of each file: predictions and logits on clean images beside those of a session that knows nothing of robustlab;
robust accuracy under PGD-20 at linf 8/255, the adversarial images judged by that session; the distance of the
surrogate, whose gradient the attack follows; the conversion to packed kernels, which is compared with its own
simulation, with a reference in torch, and with ONNX Runtime; the time of a step of an attack, one thread, the shortest
of several, beside a step on the float network in torch. JSON rows go beside --out; each row is kept in --work when it
is done, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from robustlab.attacks import PGD
from robustlab.attacks._goal import Goal
from robustlab.attacks._victim import logits_and_gradient
from robustlab.core import Linf, Tiled, frozen
from robustlab.core.tiles import map_tiles
from robustlab.datasets import load_dataset
from robustlab.deploy import ForeignModel, Preprocessing, load, save, simulated_twin
from robustlab.deploy.foreign.convert import convert
from robustlab.evaluate.agreement import compare
from robustlab.models.blocks import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Network:
    """images: how many are judged, and attacked; tile: images per call; calibration: training images."""

    name: str
    data: str
    images: int
    attacked: int
    tile: int
    calibration: int
    wanted: Preprocessing


NETWORKS = (
    Network("cifar_resnet20", "cifar10", 1000, 1000, 64, 200, Preprocessing(IMAGENET_MEAN, IMAGENET_STD)),
    Network("squeezenet1_1", "imagenet1000", 400, 64, 16, 128, Preprocessing()),
    Network("mobilenet_v2", "imagenet1000", 400, 64, 16, 128, Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
)  # fmt: skip
FORMATS = ("qdq", "qoperator")
EPS, STEPS = 8 / 255, 20


def float_network(network: Network) -> nn.Module:
    """The network, its normalisation outside."""
    model = load(f"robustlab:{network.name}").eval().requires_grad_(False)
    if hasattr(model, "normalize"):
        model.normalize = nn.Identity()
    return model


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Training images, eight at a time."""

    def __init__(self, network: Network) -> None:
        images, _ = load_dataset(network.data, split="train").batch(range(network.calibration))
        self.batches: Iterator[Tensor] = iter(network.wanted(images).split(8))

    def get_next(self) -> dict[str, object] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch.numpy()}


def make_file(network: Network, kind: str, folder: Path) -> Path:
    """The quantized file and its side-car, made once."""
    path = folder / f"{network.name}-{kind}.onnx"
    if path.is_file():
        return path
    exported, inferred = folder / f"{network.name}.onnx", folder / f"{network.name}-inferred.onnx"
    side = 32 if network.data == "cifar10" else 224
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is deprecated
        torch.onnx.export(
            float_network(network), (torch.zeros(1, 3, side, side),), exported, input_names=["images"],
            output_names=["logits"], dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}}, opset_version=17,
            dynamo=False,
        )  # fmt: skip
    quant_pre_process(str(exported), str(inferred), skip_symbolic_shape=True)
    fresh = folder / f"{network.name}-{kind}.part"
    quantize_static(
        str(inferred),
        str(fresh),
        Reader(network),
        per_channel=True,
        quant_format=QuantFormat.QDQ if kind == "qdq" else QuantFormat.QOperator,
    )
    wanted = {"mean": list(network.wanted.mean), "std": list(network.wanted.std)}
    path.with_name(f"{path.name}.json").write_text(json.dumps({"preprocessing": wanted}))
    fresh.replace(path)
    return path


class Own:
    """A session that knows nothing of robustlab: NumPy in, NumPy out."""

    def __init__(self, path: Path, network: Network) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        self._mean, self._std = (
            np.array(v, dtype=np.float32).reshape(1, 3, 1, 1) for v in (network.wanted.mean, network.wanted.std)
        )
        self._tile = network.tile

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits of images in [0, 1], a tile at a time."""
        ready = (images - self._mean) / self._std
        parts = [ready[i : i + self._tile] for i in range(0, len(ready), self._tile)]
        return np.concatenate([self._session.run(["logits"], {"images": part})[0] for part in parts])


def shortest_ms(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Processor milliseconds of each, the shortest of `rounds`; they take turns."""
    found = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds + 1):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            found[name] = min(found[name], 1000 * (time.process_time() - begin))
    return {name: round(value, 1) for name, value in found.items()}


def judge(network: Network, path: Path) -> dict[str, Any]:
    """Clean and robust accuracy, and the surrogate."""
    model, own = load(path), Own(path, network)
    assert isinstance(model, ForeignModel)
    images, labels = load_dataset(network.data).batch(range(network.images))
    with torch.no_grad():
        logits = Tiled(model, network.tile)(images).numpy()
    wanted = own(images.numpy())
    agreement = compare(network.name, model, images, network.tile)
    assert agreement is not None
    x, y = images[: network.attacked], labels[: network.attacked]
    adversarial = PGD(Linf(EPS), steps=STEPS)(Tiled(model, network.tile), x, y)
    if not bool(Linf(EPS).contains(adversarial, x).all()):
        raise RuntimeError("the attack left the threat model")
    said = own(adversarial.numpy()).argmax(1)
    right = (wanted[: network.attacked].argmax(1) == y.numpy()) & (said == y.numpy())
    return {
        "images": len(images),
        "clean_percent": round(100 * float((wanted.argmax(1) == labels.numpy()).mean()), 2),
        "predictions_different": int((logits.argmax(1) != wanted.argmax(1)).sum()),
        "logits_different": int((logits != wanted).sum()),
        "attacked": len(x),
        "robust_percent": round(100 * float(right.mean()), 2),
        "surrogate_different": agreement["different"],
        "surrogate_mean": round(agreement["mean"], 4),
        "surrogate_largest": round(agreement["largest"], 4),
        "span": round(agreement["span"], 2),
    }


def converted(network: Network, path: Path, folder: Path) -> dict[str, Any]:
    """Seconds of the conversion from file to file; packed kernels beside their simulation and ONNX Runtime."""
    begin = time.perf_counter()
    model = load(path)
    saved = save(convert(model), folder / f"{path.stem}.safetensors")
    seconds = time.perf_counter() - begin
    packed = load(saved)
    twin = simulated_twin(packed)
    assert twin is not None
    images, _ = load_dataset(network.data).batch(range(network.images))
    with frozen(packed), frozen(twin), torch.no_grad():
        ours = Tiled(packed, network.tile)(images)
        simulated = map_tiles(twin, images, size=network.tile)
    wanted = torch.from_numpy(Own(path, network)(images.numpy()))
    difference = (ours - wanted).abs()
    return {
        "convert_seconds": round(seconds, 2),
        "simulation_logits_different": int((ours != simulated).sum()),
        "converted_different": int((ours.argmax(1) != wanted.argmax(1)).sum()),
        "converted_mean": round(float(difference.mean()), 4),
        "converted_largest": round(float(difference.max()), 4),
    }


def step_times(network: Network, path: Path, rounds: int) -> dict[str, Any]:
    """A step of an attack on the file, and on the float network in torch; ONNX Runtime's forward pass alone."""
    images, labels = load_dataset(network.data).batch(range(network.tile))
    model, plain, own = load(path), load(f"robustlab:{network.name}").eval(), Own(path, network)
    goal = Goal(labels)
    with frozen(model), frozen(plain):
        times = shortest_ms(
            {
                "step": lambda: logits_and_gradient(model, images, goal),
                "float": lambda: logits_and_gradient(plain, images, goal),
                "session": lambda: own(images.numpy()),
            },
            rounds,
        )
    return {
        "tile": network.tile,
        "step_ms": times["step"],
        "float_step_ms": times["float"],
        "session_ms": times["session"],
        "step_ratio": round(times["step"] / times["float"], 2),
    }


HEAD = (
    "| network | format | n | clean % | predictions other than ORT's | logits other than ORT's | attacked | "
    "PGD-20 8/255 % | surrogate: other class | mean, largest distance of logits (span) |\n" + "|---" * 10 + "|"
)
CONVERSION = (
    "| network | format | seconds | logits other than the simulation's | class other than ORT's | "
    "mean, largest distance of logits | step, ms | float step, ms | ratio |\n" + "|---" * 9 + "|"
)


def page(rows: list[dict[str, Any]]) -> str:
    """The tables."""
    lines = [
        "`python benchmarks/foreign.py`: " + f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, "
        f"{platform.machine()}, one thread. ORT: a session of ONNX Runtime that knows nothing of robustlab.",
        "",
        HEAD,
    ]
    lines += [
        f"| {r['network']} | {r['format']} | {r['images']} | {r['clean_percent']} | {r['predictions_different']} | "
        f"{r['logits_different']} | {r['attacked']} | {r['robust_percent']} | {r['surrogate_different']} | "
        f"{r['surrogate_mean']}, {r['surrogate_largest']} ({r['span']}) |"
        for r in rows
    ]
    lines += ["", "Conversion to packed kernels, and a step of an attack on a tile of images:", "", CONVERSION]
    lines += [
        f"| {r['network']} | {r['format']} | {r['convert_seconds']} | {r['simulation_logits_different']} | "
        f"{r['converted_different']} of {r['images']} | {r['converted_mean']}, {r['converted_largest']} | "
        f"{r['step_ms']} ({r['tile']} images) | {r['float_step_ms']} | {r['step_ratio']} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the ONNX files and finished parts of rows")
    parser.add_argument("--out", type=Path, help="a .md file; .json beside it")
    parser.add_argument("--network", action="append", choices=[n.name for n in NETWORKS])
    parser.add_argument("--format", action="append", choices=FORMATS)
    parser.add_argument("--rounds", type=int, default=7, help="of the step times")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = []
    for network in NETWORKS:
        if options.network and network.name not in options.network:
            continue
        for kind in options.format or FORMATS:
            path = make_file(network, kind, options.work)
            row: dict[str, Any] = {"network": network.name, "format": kind}
            parts: dict[str, Callable[[], dict[str, Any]]] = {
                "judged": lambda n=network, p=path: judge(n, p),
                "converted": lambda n=network, p=path: converted(n, p, options.work),
                "steps": lambda n=network, p=path: step_times(n, p, options.rounds),
            }
            for part, measure in parts.items():
                kept = options.work / f"{path.stem}-{part}.json"
                if not kept.is_file():
                    fresh = kept.with_suffix(".part")
                    fresh.write_text(json.dumps(measure()))
                    fresh.replace(kept)
                row.update(json.loads(kept.read_text()))
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.out is not None:
        options.out.write_text(page(rows))
        options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
