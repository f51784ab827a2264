"""`robustlab doctor`: what this machine runs on, and whether the conventions results rely on hold here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """One line: what was looked at, what was found, and whether that is as robustlab needs it (None: no matter)."""

    name: str
    found: str
    good: bool | None = None


def doctor() -> None:
    """Show the instruction set, the kernels in use, versions, where data is, and probes of numeric conventions.

    Ends with exit code 1 if one of robustlab's own conventions does not hold on this machine.

    Example: robustlab doctor
    """
    groups = {"versions": _versions(), "kernels": _kernels(), "data": _data(), "conventions": _conventions()}
    width = max(len(probe.name) for probes in groups.values() for probe in probes)
    for title, probes in groups.items():
        typer.echo(title)
        for probe in probes:
            mark = {True: "ok  ", False: "FAIL", None: "    "}[probe.good]
            typer.echo(f"  {mark}  {probe.name:<{width}}  {probe.found}")
    if any(probe.good is False for probes in groups.values() for probe in probes):
        raise typer.Exit(1)


def _versions() -> list[Probe]:
    import torch

    from robustlab.evaluate.environment import hardware, versions

    machine = hardware("cpu")
    found = [Probe(name, text) for name, text in versions().items()]
    found.append(Probe("processor", f"{machine['cpu']} ({machine['machine']})"))
    found.append(Probe("threads", f"{machine['threads']} of {machine['cores']} cores"))
    found.append(Probe("torch's instruction set", torch.backends.cpu.get_cpu_capability()))
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    found.append(Probe("CUDA device", cuda))
    return found


def _kernels() -> list[Probe]:
    from robustlab.kernels import info

    found = info()

    def text(value: object) -> str:
        return ", ".join(str(v) for v in value) if isinstance(value, (list, tuple)) else str(value)

    compiled = found["available"] != ["reference"]
    return [
        Probe("in use", text(found["backend"])),
        Probe("available", text(found["available"]) + ("" if compiled else " (no compiled kernels: slow)")),
        Probe("processor flags", text(found["cpu_flags"]) or "none that matter"),
        Probe("compiler", text(found["compiler"] or "none was there when robustlab was installed")),
    ]


def _data() -> list[Probe]:
    from robustlab.core.paths import data_folder
    from robustlab.models.zoo import BUNDLED, bundled_path

    folder = data_folder()
    missing = [name for name in BUNDLED if not bundled_path(name).is_file()]
    return [
        Probe("ROBUSTLAB_DATA", "not set, and no ../shared/data" if folder is None else str(folder.resolve())),
        Probe("bundled models", f"missing: {', '.join(missing)}" if missing else "all there", not missing),
    ]


def _gradient(function: object, at: Tensor) -> list[float]:
    import torch

    assert callable(function)
    x = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x).sum(), x)
    return [float(v) for v in gradient]


def _conventions() -> list[Probe]:
    import torch

    from robustlab.core import subgradients

    bounds = torch.tensor([0.0, 1.0])
    theirs = _gradient(lambda x: x.clamp(0, 1), bounds)
    ours = _gradient(lambda x: subgradients.clamp(x, 0.0, 1.0), bounds)
    zeros = torch.tensor([0.0, -0.0, float("nan")])
    signs = subgradients.hard_sign(zeros).tolist()
    halves = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    rounded = torch.round(halves).tolist()
    straight = _gradient(subgradients.round_ste, halves)
    alone, moved = _position_probe()
    return [
        Probe(
            "gradient of torch.clamp at its bounds", f"{theirs} (differs between versions; robustlab does not use it)"
        ),
        Probe("gradient of robustlab's clamp there", f"{ours}, pinned to [1.0, 1.0]", ours == [1.0, 1.0]),
        Probe("torch.sign of 0", f"{float(torch.sign(zeros[0])):g}"),
        Probe("robustlab's sign of 0, -0, NaN", f"{signs}, pinned to +1", signs == [1.0, 1.0, 1.0]),
        Probe("rounding of 0.5 1.5 2.5 -0.5 -1.5", f"{rounded}, half to even", rounded == [0, 2, 2, 0, -2]),
        Probe("gradient of robustlab's rounding", f"{sorted(set(straight))}, pinned to 1", set(straight) == {1.0}),
        Probe(
            "float convolution, same place in a tile",
            "repeats bit for bit" if moved == 0 else f"{moved} differ",
            not moved,
        ),
        Probe("float convolution, alone or in a tile", f"{alone} of 2048 numbers differ (why tiles have one shape)"),
        _place_probe(),
    ]


def _place_probe() -> Probe:
    """Whether a float linear layer gives a sample the same bits in any place of a tile."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.rand((64, 33), generator=generator), torch.rand((10, 33), generator=generator)
    order = torch.randperm(64, generator=generator)
    same = torch.equal((rows @ weight.T)[order], rows[order] @ weight.T)
    setting = f"MKL_CBWR={os.environ.get('MKL_CBWR', '')}"
    return Probe("float linear layer, any place in a tile", f"{'same bits' if same else 'differs'} ({setting})", same)


def _position_probe() -> tuple[int, int]:
    """How many of 2048 outputs of a float convolution change: with the batch size, and when it is simply repeated."""
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.rand((64, 16, 16, 16), generator=generator)
    weight = torch.rand((8, 16, 3, 3), generator=generator) - 0.5
    with torch.no_grad():
        tile = torch.nn.functional.conv2d(images, weight, padding=1)
        again = torch.nn.functional.conv2d(images, weight, padding=1)
        alone = torch.nn.functional.conv2d(images[:1], weight, padding=1)
    return int((tile[:1] != alone).sum()), int((tile != again).sum())
