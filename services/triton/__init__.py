"""Serve the engine over the V2 protocol, with a Triton server and its model repository."""

from services.triton.server import TritonServer
from services.triton.settings import TritonSettings

__all__ = ["TritonServer", "TritonSettings"]
