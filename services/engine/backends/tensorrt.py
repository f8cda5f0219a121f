"""Run a UNet compiled to a TensorRT engine, on the GPU model that it was built on.

There is one optimization profile for each pair of batch size and latent size, with exactly these
shapes. The bank is an input, as the latents are, so the TensorRT engine is never refitted.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atelier.errors import BadInput
from services.engine.backends.compiled import OUTPUT, BankShape, Compiled, CompiledBackend
from services.engine.layout import Layout


def load_tensorrt(libraries: str | None = None) -> Any:
    """Import TensorRT's Python module.

    NVIDIA's package `tensorrt` includes the libraries of TensorRT. The package of the bindings
    (`tensorrt_cu13_bindings`) does not: the libraries in the folder `libraries` are loaded first.
    Raises BadInput with installation advice if TensorRT cannot be loaded.
    """
    try:
        if libraries:
            # The sorted order loads libnvinfer first, which the other libraries need.
            for library in sorted(Path(libraries).glob("libnv*.so*")):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return importlib.import_module("tensorrt_bindings")
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise BadInput(
            f"backend tensorrt: TensorRT cannot be loaded ({error}); install the tensorrt package "
            "for this CUDA version, or its bindings and set ATELIER_TENSORRT to the folder of its "
            "libraries"
        ) from error


def gpu_name(device: torch.device) -> str:
    """Return the name and compute capability of the GPU for which an engine is built.

    Raises BadInput if `device` is not a CUDA device.
    """
    if device.type != "cuda":
        raise BadInput(
            "backend tensorrt: needs the NVIDIA GPU that the UNet is compiled for; "
            "use device cuda on a machine with this GPU"
        )
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"


class TensorRTBackend(CompiledBackend):
    """Run a TensorRT engine for the batch sizes and latent sizes of the compilation."""

    name = "tensorrt"

    def __init__(
        self,
        compiled: Compiled,
        layout: Layout,
        *,
        device: torch.device,
        slots: int,
        rank: int,
        libraries: str | None = None,
    ) -> None:
        """Load the engine and create a context for each profile.

        Raises BadInput if the engine was compiled for another bank or GPU, or cannot be loaded.
        """
        spec = compiled.spec
        for name, present, required in (
            ("GPU", gpu_name(device), spec.device),
            ("the bank", BankShape(slots=slots, rank=rank), spec.bank),
        ):
            if present != required:
                raise BadInput(
                    f"{compiled.folder}: was compiled for {name} ({required}), but this engine has "
                    f"{present}; compile it again with the settings of this engine"
                )
        super().__init__(compiled, layout)
        self.ladder, self.sizes, self.rank = spec.batches, spec.sizes, rank
        trt = load_tensorrt(libraries)
        self._version = str(trt.__version__)
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(compiled.file(".plan").read_bytes())
        if self._engine is None:
            raise BadInput(
                f"{compiled.folder}: TensorRT {self._version} cannot load this engine; compile "
                "the UNet again on this machine"
            )
        # The profiles share their scratch memory, because one call runs at a time.
        profiles = spec.profiles
        sizes = [
            int(self._engine.get_device_memory_size_for_profile_v2(i)) for i in range(len(profiles))
        ]
        self._memory = torch.empty(max(sizes), dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream(device)
        self._contexts = {}
        for number, profile in enumerate(profiles):
            context = self._engine.create_execution_context(
                trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
            context.set_optimization_profile_async(number, stream.cuda_stream)
            context.set_device_memory(self._memory.data_ptr(), self._memory.nbytes)
            self._contexts[profile] = context
        stream.synchronize()

    def describe(self) -> Mapping[str, str]:
        """Return the digest of the compiled UNet, the TensorRT version and the GPU of the build."""
        return {
            "compiled": self._compiled.digest,
            "tensorrt": self._version,
            "gpu": self._compiled.spec.device,
        }

    def _call(self, inputs: Mapping[str, Tensor], predicted: Tensor) -> None:
        rows, _, height, width = predicted.shape
        context = self._contexts[rows, (height, width)]
        for name, tensor in inputs.items():
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        context.set_tensor_address(OUTPUT, predicted.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream(predicted.device).cuda_stream):
            raise RuntimeError(
                "TensorRT: the call was not enqueued; see its messages in the log above"
            )
