"""The Triton server and the model repository it serves: the engine behind the V2 protocol."""

from services.triton.server import TritonServer
from services.triton.settings import TritonSettings

__all__ = ["TritonServer", "TritonSettings"]
