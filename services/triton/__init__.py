"""The Triton server and the model repository it serves: the engine behind the V2 protocol."""

from services.triton.server import TritonServer, TritonSettings

__all__ = ["TritonServer", "TritonSettings"]
