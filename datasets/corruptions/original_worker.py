"""imagecorruptions 1.1.2 behind a pipe. A script for the pinned environment, which has nothing of this project.

A request is a line of JSON, {"name", "severity", "shape": [N, H, W, 3], "seeds": [N], "repeat"}, and the bytes of the
images uint8. The answer is {"seconds": [N]}, the least processor time of `repeat` runs of each image, and the bytes of
the corrupted images; or {"error"} alone. The first answer is {"versions"}. The end of the input ends the script.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from typing import Any, BinaryIO


def mend() -> None:
    """Repair what fails with newer libraries, and seed what has no seed; what is computed stays as it was."""
    import numpy as np
    import skimage
    from imagecorruptions import corruptions
    from skimage.filters import gaussian

    if not hasattr(np, "float_"):
        vars(np)["float_"] = np.float64

    def blur(image: Any, sigma: float, multichannel: bool = False, **options: Any) -> Any:
        return gaussian(image, sigma, channel_axis=-1 if multichannel else None, **options)

    corruptions.gaussian = blur
    noise = skimage.util.random_noise
    seed = "rng" if "rng" in inspect.signature(noise).parameters else "seed"

    def seeded(image: Any, **options: Any) -> Any:
        # Its own generator does not follow NumPy's seed.
        return noise(image, **options, **{seed: int(np.random.randint(2**31))})  # noqa: NPY002

    skimage.util.random_noise = seeded


def answer(request: dict[str, Any], content: bytes, answers: BinaryIO) -> None:
    """Corrupt the images of one request."""
    import imagecorruptions
    import numpy as np

    images = np.frombuffer(content, np.uint8).reshape(request["shape"])
    results, seconds = np.empty_like(images), []
    for image, seed, result in zip(images, request["seeds"], results):  # noqa: B905 - the environment may have 3.9
        best = float("inf")
        for _ in range(request["repeat"]):
            np.random.seed(seed)  # noqa: NPY002 - the package draws from the global generator
            start = time.process_time()
            made = imagecorruptions.corrupt(image, severity=request["severity"], corruption_name=request["name"])
            best = min(best, time.process_time() - start)
        result[:] = made
        seconds.append(best)
    answers.write(json.dumps({"seconds": seconds}).encode() + b"\n")
    answers.write(results.tobytes())


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    import cv2
    import numpy as np
    import skimage

    cv2.setNumThreads(1)
    mend()
    versions = {"numpy": np.__version__, "scikit-image": skimage.__version__, "opencv": cv2.__version__}
    answers.write(json.dumps({"versions": versions}).encode() + b"\n")
    answers.flush()
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        count, height, width, channels = request["shape"]
        content = sys.stdin.buffer.read(count * height * width * channels)
        try:
            answer(request, content, answers)
        except Exception as error:
            answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
