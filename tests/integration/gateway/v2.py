"""A V2 server of a page: what Triton answers, with answers that a real engine gives only by luck.

It runs real gRPC on a real port. Tests that need pictures of a model use the real Triton instead.
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

SIDE = 16
ENGINE = "sha256:" + "e0" * 32


@dataclass
class Call:
    """One call as it came in: the inputs by name, and the call's own context."""

    inputs: dict[str, Any]
    context: Any
    timeout_us: int

    @property
    def prompt(self) -> str:
        return str(self.inputs["PROMPT"])

    @property
    def adapters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.inputs["ADAPTERS"])
        return found

    def fail(self, code: grpc.StatusCode, text: str) -> None:
        """Answer with an error, as Triton does."""
        self.context.abort(code, text)


@dataclass
class V2Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Paints every picture in its version's colour; `on_call` may do something else first.

    `paint` gives a picture's shape and colour another content.
    """

    port: int = 0
    host: str = "127.0.0.1"
    digests: dict[tuple[str, int], str] = field(default_factory=dict)
    on_call: Callable[[Call], None] = lambda call: None
    paint: Callable[[tuple[int, ...], int], Any] = lambda shape, colour: np.full(
        shape, colour, np.uint8
    )
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(32))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"{self.host}:{self.port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        call = Call(_inputs(request), context, request.parameters["timeout"].int64_param)
        self.calls.append(call)
        self.on_call(call)
        images, seed = int(call.inputs["IMAGES"]), int(call.inputs["SEED"])
        version = max((one["version"] for one in call.adapters), default=0)
        used = [
            {**one, "digest": self.digests.get((one["name"], one["version"]), ENGINE)}
            for one in call.adapters
        ]
        info = {
            "seeds": [seed + index for index in range(images)],
            "adapters": used,
            "base": "sha256:" + "ba" * 32,
            "backend": "painted",
            "engine_digest": ENGINE,
            "warnings": [],
            "timings": {"total": 0.001},
        }
        width, height = (call.inputs.get(name, SIDE) for name in ("WIDTH", "HEIGHT"))
        return _answer(self.paint((images, height, width, 3), version), json.dumps(info))


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once the condition holds; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        threading.Event().wait(0.02)


def _inputs(request: Any) -> dict[str, Any]:
    kinds = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32}
    return {
        tensor.name: raw[4:].decode()
        if tensor.datatype == "BYTES"
        else np.frombuffer(raw, kinds[tensor.datatype])[0].item()
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def _answer(pixels: Any, info: str) -> Any:
    response = service_pb2.ModelInferResponse(model_name="atelier", model_version="1")
    response.outputs.add(name="IMAGE", datatype="UINT8", shape=pixels.shape)
    response.outputs.add(name="INFO", datatype="BYTES", shape=[1])
    text = info.encode()
    response.raw_output_contents.append(pixels.tobytes())
    response.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
    return response
