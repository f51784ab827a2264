from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from robustlab.evaluate import parity
from robustlab.evaluate.efficiency import measure, peak_memory, resident_tensors, time_runs


def test_peak_memory_is_the_sum_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10, bias=False))
    weights = 4 * (3 * 4 + 256 * 10)
    image, hidden, logits = 4 * 3 * 64, 4 * 4 * 64, 4 * 10
    assert sum(resident_tensors(model).values()) == weights
    with torch.no_grad():
        # The largest moment is the ReLU: its input, its output and the image; flattening is a view.
        assert peak_memory(model, torch.rand(1, 3, 8, 8)) == weights + image + 2 * hidden
        assert 2 * hidden > hidden + logits


def test_activations_that_were_freed_do_not_count() -> None:
    deep = nn.Sequential(*(nn.ReLU() for _ in range(9)))
    with torch.no_grad():
        assert peak_memory(deep, torch.rand(1, 3, 8, 8)) == 3 * 4 * 3 * 64


def test_tensors_in_dataclasses_and_attributes_are_resident_once() -> None:
    @dataclass
    class Packed:
        data: Tensor

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(5))
            self.packed = Packed(torch.zeros(100, dtype=torch.uint8))
            self.view = self.packed.data[10:]

    assert sum(resident_tensors(nn.Sequential(Layer())).values()) == 4 * 5 + 100


def test_time_runs_is_bounded_by_count_and_time() -> None:
    calls: list[int] = []
    times = time_runs(lambda: calls.append(1), (3, 7), 60.0, "cpu")
    assert len(times) == 7
    assert (times >= 0).all()
    clock = time_runs(lambda: torch.rand(200, 200) @ torch.rand(200, 200), (1, 10**9), 0.02, "cpu")
    assert 1 <= len(clock) < 10**6


def test_measure() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3)).train()
    row = measure("m", model, torch.rand(8, 3, 8, 8), "cpu")
    assert row["model"] == "m"
    assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"] < 1000
    assert row["images_per_s"] > 1
    assert row["peak_memory_bytes"] > 4 * (3 * 4 * 9 + 4 + 4 * 36 * 3 + 3)
    assert row["bit_operations"] == 32 * 32 * row["macs"]
    assert model.training


def test_parity_counts_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twin(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = images.mean((2, 3))
            logits[3] = torch.nextafter(logits[3], torch.tensor(9.0))
            return logits

    class Real(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    images = torch.rand(8, 3, 4, 4)
    monkeypatch.setattr(parity, "simulated_twin", lambda model: Twin())
    assert parity.compare("m", Real(), images, 8) == {"model": "m", "logits": 24, "different": 3}
    monkeypatch.setattr(parity, "simulated_twin", lambda model: Real())
    assert parity.compare("m", Real(), images, 3) == {"model": "m", "logits": 24, "different": 0}
    monkeypatch.setattr(parity, "simulated_twin", lambda model: None)
    assert parity.compare("m", Real(), images, 8) is None


def test_nan_equals_nan() -> None:
    first = torch.tensor([1.0, torch.nan, torch.nan, 0.0])
    assert parity.count_different(first, torch.tensor([1.0, torch.nan, 2.0, -0.0])) == 1
