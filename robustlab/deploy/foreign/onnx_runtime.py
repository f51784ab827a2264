"""ONNX Runtime's side: one session, on as many threads as torch has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from robustlab.core.errors import ModelFileError, RobustlabError


class Runtime:
    """The model of some bytes, called with whole batches. Copies of a model share it."""

    def __init__(
        self, where: str, content: bytes, input_name: str, output_name: str, settings: Mapping[str, str] | None = None
    ) -> None:
        """`settings`: of the session, beside those that every session gets."""
        self._where, self._content = where, content
        self._names = (input_name, output_name)
        # Threads that wait by spinning would take the cores from torch, which runs in turn with it.
        self._settings = {"session.intra_op.allow_spinning": "0", **(settings or {})}
        self._threads = 0
        self._session: Any = None

    def __deepcopy__(self, memo: object) -> Runtime:
        return self

    def _open(self) -> Any:
        threads = torch.get_num_threads()
        if self._session is None or self._threads != threads:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 4  # what fails is raised, once
            options.use_deterministic_compute = True
            for key, value in self._settings.items():
                options.add_session_config_entry(key, value)
            try:
                self._session = onnxruntime.InferenceSession(self._content, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # Whatever its C++ parts throw: not all of them have a common base.
                raise ModelFileError(f"{self._where}: ONNX Runtime does not take it: {_line(error)}") from None
            self._threads = threads
        return self._session

    def run(self, x: Tensor) -> Tensor:
        """Outputs, float32 on the CPU, of one batch in the layout of the model."""
        session = self._open()
        try:
            (result,) = session.run([self._names[1]], {self._names[0]: np.ascontiguousarray(x.detach().cpu().numpy())})
        except Exception as error:
            raise RobustlabError(
                f"{self._where}: ONNX Runtime failed on a batch {tuple(x.shape)}: {_line(error)}"
            ) from None
        if not isinstance(result, np.ndarray) or result.dtype.kind != "f":
            raise ModelFileError(f"{self._where}: its output is no float tensor; allowed: logits (N, K)")
        return torch.from_numpy(result.astype(np.float32, copy=False))


def _line(error: Exception) -> str:
    """The message without the place in the C++ code that it starts with."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\) (?=\S)", "", text, count=1)
    return text[:200] or type(error).__name__
