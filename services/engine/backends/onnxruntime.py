"""A UNet compiled to ONNX, run by ONNX Runtime on a CPU, or on CUDA where its build has that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atelier.errors import BadInput
from services.engine.backends.compiled import OUTPUT, Compiled, CompiledBackend
from services.engine.layout import Layout

_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64}
_ERRORS_ONLY = 3
CUDA = "CUDAExecutionProvider"


class OnnxBackend(CompiledBackend):
    """Runs any number of rows, of any size, slots and rank: the graph has them as dimensions."""

    name = "onnx"

    def __init__(self, compiled: Compiled, layout: Layout, device: torch.device) -> None:
        """Raises BadInput where the installed ONNX Runtime cannot run on the device."""
        super().__init__(compiled, layout)
        self._session = _session(compiled, device)

    def describe(self) -> Mapping[str, str]:
        """The compiled files' digest, ONNX Runtime's version and what it runs on."""
        import onnxruntime

        return {
            "compiled": self._compiled.digest,
            "onnxruntime": onnxruntime.__version__,
            "provider": self._session.get_providers()[0],
        }

    def _call(self, inputs: Mapping[str, Tensor], predicted: Tensor) -> None:
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_input(name, *_where(tensor))
        binding.bind_output(OUTPUT, *_where(predicted))
        if predicted.is_cuda:
            torch.cuda.current_stream(predicted.device).synchronize()  # the runtime has its own
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()


def _where(tensor: Tensor) -> tuple[str, int, Any, list[int], int]:
    """A tensor as a binding takes it."""
    device = tensor.device
    # An empty bank (no row has an adapter) has no address; one that is never read will do.
    address = tensor.data_ptr() or 1
    return device.type, device.index or 0, _NUMPY[tensor.dtype], list(tensor.shape), address


def _session(compiled: Compiled, device: torch.device) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    # Planned ahead, the sharing of memory takes a minute for SDXL's graph, whose shapes are free;
    # the arena shares it as well while running.
    options.enable_mem_reuse = False
    # Threads that wait for the next call would take the cores from the schedulers and the VAE.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    wanted: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if CUDA not in onnxruntime.get_available_providers():
            raise BadInput(
                "backend onnx: the installed ONNX Runtime has no CUDA; set ATELIER_DEVICE=cpu, or "
                "install onnxruntime-gpu in its place"
            )
        wanted.insert(0, (CUDA, {"device_id": device.index or 0}))
    return onnxruntime.InferenceSession(
        str(compiled.file(".onnx")), sess_options=options, providers=wanted
    )
