"""Recognise the errors of a device: too little memory, or a device that is lost."""

from __future__ import annotations

from typing import Final

import torch

# Backends other than torch raise plain errors with one of these texts.
_TEXTS: Final = ("out of memory", "can't allocate memory", "failed to allocate memory")
_LOST: Final = ("cuda error", "cuda failure", "cudnn_status_execution_failed", "cudaerror")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of a backend means that the device has too little free memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(one in text for one in _TEXTS)


def is_device_lost(error: Exception) -> bool:
    """Return whether the device cannot compute any more in this process.

    After an illegal access or a failed assertion in a kernel, every later CUDA call of the process
    fails with the same error.
    """
    if is_out_of_memory(error):
        return False
    text = str(error).lower()
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and any(one in text for one in _LOST)
    )


def release_memory(device: torch.device) -> None:
    """Return the memory that torch has cached to the device, for other allocators and shapes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
