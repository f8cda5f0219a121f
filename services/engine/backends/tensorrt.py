"""A UNet compiled to a TensorRT engine, run on the GPU that it was built on.

One optimisation profile for each batch size and latent size, each with shapes of its own and no
others. The bank is an input like the latents: the engine is never refit.
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
    """TensorRT's Python module; BadInput says how to come by it.

    NVIDIA's `tensorrt` package brings its libraries. The bindings alone (`tensorrt_cu13_bindings`)
    find them where they have been loaded before: then `libraries` is their folder.
    """
    try:
        if libraries:
            # libnvinfer comes first in this order too, and the others need it.
            for library in sorted(Path(libraries).glob("libnv*.so*")):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return importlib.import_module("tensorrt_bindings")
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise BadInput(
            f"backend tensorrt: TensorRT cannot be loaded ({error}); install the tensorrt package "
            "of this CUDA, or its bindings with the libraries' folder in ATELIER_TENSORRT"
        ) from error


def gpu_name(device: torch.device) -> str:
    """What an engine is tied to: the GPU's name and compute capability."""
    if device.type != "cuda":
        raise BadInput("backend tensorrt: needs the NVIDIA GPU that the UNet is compiled for")
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"


class TensorRTBackend(CompiledBackend):
    """Runs the batch sizes and latent sizes that were asked for when it was compiled."""

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
        """Raises BadInput where it was compiled for another bank or another GPU."""
        spec = compiled.spec
        for name, here, there in (
            ("GPU", gpu_name(device), spec.device),
            ("slots and max_rank", BankShape(slots=slots, rank=rank), spec.bank),
        ):
            if here != there:
                raise BadInput(
                    f"{compiled.folder}: was compiled for {name} {there}, here is {here}"
                )
        super().__init__(compiled, layout)
        self.ladder, self.sizes, self.rank = spec.batches, spec.sizes, rank
        trt = load_tensorrt(libraries)
        self._version = str(trt.__version__)
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(compiled.file(".plan").read_bytes())
        if self._engine is None:
            raise BadInput(
                f"{compiled.folder}: TensorRT {self._version} cannot load it; compile it again here"
            )
        # One call at a time: the profiles share what they need beside inputs and outputs.
        profiles = spec.profiles
        needed = [
            int(self._engine.get_device_memory_size_for_profile_v2(i)) for i in range(len(profiles))
        ]
        self._memory = torch.empty(max(needed), dtype=torch.uint8, device=device)
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
        """The compiled files' digest, TensorRT's version and the GPU that it was built on."""
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
            raise RuntimeError("TensorRT: the call was not accepted; see its messages above")
