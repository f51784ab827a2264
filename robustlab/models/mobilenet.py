"""MobileNetV2 as TensorFlow runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from robustlab.models.blocks import Normalized


class MobileNetV2Same(Normalized):
    """torchvision's MobileNetV2 (Sandler et al. 2018) with TensorFlow's "SAME" padding, on even image sides.

    Convolutions of stride 2 see a row and a column of zeros at the bottom and on the right only, where torchvision's
    pad all four sides: weights trained with the one lose several points of accuracy with the other.

    Shape: images (N, 3, H, W) in [0, 1] -> logits (N, classes).
    """

    def __init__(
        self, classes: int = 1000, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
    ) -> None:
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2(weights=None, num_classes=classes)
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.Sequential) and _strided(module):
                parent, _, own = name.rpartition(".")
                setattr(network.get_submodule(parent), own, _padded(module))
        super().__init__(network, mean, std)


def _strided(block: nn.Sequential) -> bool:
    """Whether the block begins with a 3x3 convolution of stride 2."""
    first = block[0] if len(block) else None
    return isinstance(first, nn.Conv2d) and first.stride == (2, 2) and first.kernel_size == (3, 3)


def _padded(block: nn.Sequential) -> nn.Sequential:
    """The block with its padding on the bottom and the right, as a layer of its own in front."""
    convolution = block[0]
    assert isinstance(convolution, nn.Conv2d)
    convolution.padding = (0, 0)
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), *block)


def same_padding_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's MobileNetV2 by the names of `MobileNetV2Same`."""
    shifted = {"features.0.0": "features.0.1", "features.0.1": "features.0.2"}
    for index in (2, 4, 7, 14):  # the first block of every stage of stride 2; its depthwise part is conv.1
        for part in (0, 1):
            shifted[f"features.{index}.conv.1.{part}"] = f"features.{index}.conv.1.{part + 1}"
    parts = {key: key.rpartition(".") for key in tensors}
    return {f"network.{shifted.get(head, head)}.{tail}": tensors[key] for key, (head, _, tail) in parts.items()}
