"""Run a UNet compiled to ONNX with ONNX Runtime, on the CPU or with its CUDA build on a GPU."""

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
_ERRORS_ONLY = 3  # ORT_LOGGING_LEVEL_ERROR
CUDA = "CUDAExecutionProvider"


class OnnxBackend(CompiledBackend):
    """Run calls of any size, because rows, latent size, slots and rank are dynamic dimensions."""

    name = "onnx"

    def __init__(self, compiled: Compiled, layout: Layout, device: torch.device) -> None:
        """Load the graph. Raises BadInput if the installed ONNX Runtime cannot run on `device`."""
        super().__init__(compiled, layout)
        self._session = _session(compiled, device)

    def describe(self) -> Mapping[str, str]:
        """Return the digest of the compiled UNet, and the version and provider of ONNX Runtime."""
        import onnxruntime

        return {
            "compiled": self._compiled.digest,
            "onnxruntime": onnxruntime.__version__,
            "provider": self._session.get_providers()[0],
        }

    def _call(self, inputs: Mapping[str, Tensor], predicted: Tensor) -> None:
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_input(name, *_bound(tensor))
        binding.bind_output(OUTPUT, *_bound(predicted))
        if predicted.is_cuda:
            torch.cuda.current_stream(
                predicted.device
            ).synchronize()  # ONNX Runtime uses its own stream
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()


def _bound(tensor: Tensor) -> tuple[str, int, Any, list[int], int]:
    """Return device type, device index, dtype, shape and address for an I/O binding."""
    device = tensor.device
    # An empty bank (no row has an adapter) has a null address; the replacement is never read.
    address = tensor.data_ptr() or 1
    return device.type, device.index or 0, _NUMPY[tensor.dtype], list(tensor.shape), address


def _session(compiled: Compiled, device: torch.device) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    # Planning the reuse of buffers at load time takes a minute for SDXL's graph with its dynamic
    # shapes; the arena reuses memory at run time as well.
    options.enable_mem_reuse = False
    # Threads that spin until the next call would slow down the schedulers and the VAE.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if CUDA not in onnxruntime.get_available_providers():
            raise BadInput(
                "backend onnx: the installed ONNX Runtime does not support CUDA; set "
                "ATELIER_DEVICE=cpu, or install onnxruntime-gpu instead"
            )
        providers.insert(0, (CUDA, {"device_id": device.index or 0}))
    return onnxruntime.InferenceSession(
        str(compiled.file(".onnx")), sess_options=options, providers=providers
    )
