"""Runs an ONNX network of a scorer with ONNX Runtime.

A file must contain all of its weights: a digest does not cover files that it names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from .files import ScorerFiles

_ERRORS_ONLY: Final = 3  # ORT_LOGGING_LEVEL_ERROR
_CUDA: Final = "CUDAExecutionProvider"


class OnnxNetwork:
    """A network with one input. Raises PolicyError if it cannot be loaded or lacks an output.

    `outputs` are the names of the outputs to compute, by default the first one.
    """

    def __init__(
        self,
        source: ScorerFiles,
        file: Path,
        device: str,
        *,
        outputs: Sequence[str] = (),
        fix: str,
    ):
        self._session = _session(source, file, device, fix)
        found = [output.name for output in self._session.get_outputs()]
        if missing := [name for name in outputs if name not in found]:
            raise source.error(
                f"{file.name} has the outputs {', '.join(found)}, not {', '.join(missing)}", fix
            )
        self._outputs = list(outputs) or found[:1]
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise source.error(f"{file.name} does not have one picture as its input", fix)
        self._input = inputs[0].name
        self._shape = inputs[0].shape

    def side(self, default: int) -> int:
        """Return the side of the square input in pixels, `default` if the network takes any."""
        side = self._shape[-1]
        return side if isinstance(side, int) and side > 0 else default

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for one picture [3, height, width] in float32."""
        batch = np.ascontiguousarray(pixels[None], dtype=np.float32)
        outputs: list[np.ndarray] = self._session.run(self._outputs, {self._input: batch})
        return outputs


def _session(source: ScorerFiles, file: Path, device: str, fix: str) -> Any:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    available = onnxruntime.get_available_providers()
    providers = [_CUDA] if device.startswith("cuda") and _CUDA in available else []
    try:
        content = file.read_bytes()  # from bytes, no other file can be opened
        return onnxruntime.InferenceSession(
            content, options, providers=[*providers, "CPUExecutionProvider"]
        )
    except FileNotFoundError as error:
        raise source.error(f"it has no {file.name}", fix) from error
    except Exception as error:  # ONNX Runtime has many classes of errors, without a common base
        raise source.error(f"{file.name}: {error}", fix) from error
