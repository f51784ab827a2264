"""Compress a float network, deploy it, attack what was deployed, and judge a corrupted image: about half a minute.

python examples/compress_and_attack.py
"""

from __future__ import annotations

import torch

import robustlab as rl
from robustlab.core.keys import sample_keys
from robustlab.datasets.corruptions import corrupt

IMAGES = 64


def main() -> None:
    """Print accuracy of float and 4-bit networks, clean, attacked and under noise."""
    images, labels = rl.datasets.load_dataset("signs").batch(range(IMAGES))
    calibration, _ = rl.datasets.load_dataset("signs", split="train").batch(range(256))
    model = rl.load("robustlab:signs_float")
    deployed = rl.deploy(rl.compress(model, weights=4, activations=4, calibration=calibration))
    noisy = corrupt(images, "gaussian_noise", 3, sample_keys(0, "gaussian-noise-3", range(IMAGES)))
    attack = rl.attacks.PGD(rl.Linf(2 / 255), steps=20)
    for name, network in (("float", model), ("w4a4, deployed", deployed)):
        shown = {"clean": images, "gaussian noise 3": noisy, attack.slug: attack(network, images, labels)}
        with torch.no_grad():
            scores = {key: float((network(x).argmax(1) == labels).double().mean()) for key, x in shown.items()}
        print(f"{name:15}", "  ".join(f"{key} {100 * score:.0f} %" for key, score in scores.items()))


if __name__ == "__main__":
    main()
