"""Detectors of torchvision: compressed and deployed as they are, boxes, scores and labels equal to the simulation's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

import robustlab as rl
from robustlab.compress import WeightScheme, deployability, freeze
from robustlab.compress.layers import CompressedLayer
from robustlab.deploy import PackedLayer, read_model_file

Detections = list[dict[str, Tensor]]


def scattered(model: nn.Module) -> nn.Module:
    """Weights large enough for scores and boxes that differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                gain = (
                    0.02 if "bbox" in name else 3.0 if name.startswith("head") else 0.2 if "cls_score" in name else 1.4
                )
                parameter.normal_(0, gain * parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
    return model.eval()


def single_stage() -> nn.Module:
    """SSDlite on images of 96 pixels."""
    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5, score_thresh=0.0, detections_per_img=20, topk_candidates=40
    )
    model.transform.fixed_size = (96, 96)
    return scattered(model)


def two_stage() -> nn.Module:
    """Faster R-CNN on images of about 96 pixels, with a narrow box head."""
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=5,
        min_size=80,
        max_size=96,
        rpn_post_nms_top_n_test=30,
        box_score_thresh=0.0,
        box_detections_per_img=20,
    )
    model.roi_heads.box_head = TwoMLPHead(256 * 7 * 7, 32)
    model.roi_heads.box_predictor = FastRCNNPredictor(32, 5)
    return scattered(model)


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 80, 96, generator=torch.Generator().manual_seed(seed))


def equal(found: Sequence[dict[str, Tensor]], wanted: Sequence[dict[str, Tensor]]) -> bool:
    keys = ("boxes", "scores", "labels")
    return len(found) == len(wanted) and all(
        torch.equal(one[key], other[key]) for one, other in zip(found, wanted, strict=True) for key in keys
    )


@pytest.mark.parametrize("make", [single_stage, two_stage])
def test_a_deployed_detector_is_its_simulation(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    compressed = rl.compress(model, weights=6, activations=8, algorithm="minmax", calibration=images(4, 0))
    frozen, deployed = freeze(compressed), rl.deploy(compressed)
    count = sum(isinstance(m, CompressedLayer) for m in compressed.modules())
    assert count > 60 and sum(isinstance(m, PackedLayer) for m in deployed.modules()) == count
    assert not any(isinstance(m, (nn.Conv2d, nn.Linear)) for m in deployed.modules())
    batch = images(2, 1)
    with torch.no_grad():
        plain: Detections = model(batch)
        wanted: Detections = frozen(batch)
        found = deployed(batch)
        assert all(len(one["scores"]) > 5 for one in wanted)
        assert all(len(one["scores"].unique()) > 5 and len(one["labels"].unique()) > 1 for one in wanted)
        assert equal(found, wanted) and not equal(found, plain)
        assert equal(deployed(list(batch)), wanted)
        assert equal(rl.optimize(deployed, batch)(batch), wanted)
        small = [batch[0], batch[1, :, :70, :60].clone()]  # a list of images of different sizes
        assert equal(deployed(small), frozen(small))
        path = rl.save(deployed, tmp_path / "detector.safetensors")
        assert read_model_file(path).metadata.selftest is None
        assert equal(rl.load(path, factory=make)(batch), wanted)


def test_a_detector_can_have_weights_on_grids_of_groups() -> None:
    compressed = rl.compress(
        single_stage(),
        weights=4,
        activations=8,
        algorithm="minmax",
        calibration=images(2, 0),
        weight_scheme=WeightScheme("group"),
    )
    assert {layer.kind for layer in deployability(compressed)} == {"P", "G"}
    with torch.no_grad():
        assert equal(rl.deploy(compressed)(images(1, 1)), freeze(compressed)(images(1, 1)))
