"""Run imagecorruptions 1.1.2 on a batch of images: its results and its times, for the parity and speed tables.

Runs in the pinned environment, never in this project's own:

    scripts/reference_corruptions.sh benchmarks/reference_corruptions.py IMAGES.npy OUT.npz [--repeat N] [--names ...]

IMAGES.npy is uint8 (N, H, W, 3). OUT.npz gets, for every corruption and severity, `NAME-SEVERITY` uint8 (N, H, W, 3),
made with `np.random.seed(SEED + i)` before image i, and `NAME-SEVERITY-seconds` (N,), the best time of each image.
"""

from __future__ import annotations

import argparse
import time

import cv2
import imagecorruptions
import numpy as np
import skimage
import skimage.filters
from imagecorruptions import corruptions

SEED = 1000


def mend() -> None:
    """Repair the three functions that fail with newer libraries; what they compute stays as it was."""
    if not hasattr(np, "float_"):
        np.float64 = np.float64

    def gaussian(image, sigma, multichannel=False, **options):  # the argument is called channel_axis now
        return skimage.filters.gaussian(image, sigma, channel_axis=-1 if multichannel else None, **options)

    corruptions.gaussian = gaussian


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images")
    parser.add_argument("out")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--names", nargs="*", default=imagecorruptions.get_corruption_names("all"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    mend()
    images = np.load(arguments.images)
    arrays: dict[str, np.ndarray] = {
        "versions": np.array([f"numpy {np.__version__}", f"skimage {skimage.__version__}", f"opencv {cv2.__version__}"])
    }
    for name in arguments.names:
        for severity in range(1, 6):
            results, seconds = [], []
            for i, image in enumerate(images):
                best = np.inf
                # Glass blur takes seconds an image: once is enough.
                for _ in range(1 if name == "glass_blur" else arguments.repeat):
                    np.random.seed(SEED + i)  # noqa: NPY002 - the package draws from the global generator
                    start = time.process_time()
                    result = imagecorruptions.corrupt(image, severity=severity, corruption_name=name)
                    best = min(best, time.process_time() - start)
                results.append(result)
                seconds.append(best)
            arrays[f"{name}-{severity}"] = np.stack(results)
            arrays[f"{name}-{severity}-seconds"] = np.array(seconds)
    np.savez_compressed(arguments.out, **arrays)


if __name__ == "__main__":
    main()
