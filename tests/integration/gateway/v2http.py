"""Triton's HTTP of a page: infer calls of V2 in both of its forms, on a real port.

As Triton does, it gives the outputs in the order in which the model made them, each as binary data
where the call asks for that, else as JSON.
"""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atelier.addresses import host_port

HEADER_LENGTH = "Inference-Header-Content-Length"
SIDE = 16


@dataclass
class HttpCall:
    """One infer call as it came in."""

    head: dict[str, Any]
    inputs: dict[str, Any]
    headers: dict[str, str]

    @property
    def adapters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.inputs.get("ADAPTERS") or "[]")
        return found


Digest = Callable[[dict[str, Any]], str]


@dataclass
class V2HttpServer:
    """Paints every picture; `digest` names the weights that it says it used."""

    digest: Digest = lambda adapter: "sha256:" + "0" * 64
    paint: Callable[[tuple[int, ...]], NDArray[np.uint8]] = lambda shape: np.zeros(shape, np.uint8)
    order: tuple[str, ...] = ("INFO", "IMAGE")
    on_call: Callable[[HttpCall], None] = lambda call: None
    breaks_after: int | None = None  # bytes of a body, after which the connection is closed
    half_way: Callable[[], None] = lambda: None  # called when half of the last section is sent
    host: str = "127.0.0.1"
    calls: list[HttpCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind = _Server6 if ":" in self.host else ThreadingHTTPServer
        self._server = kind((self.host, 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return host_port(self.host, self._server.server_port)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, call: HttpCall) -> tuple[list[Any], int]:
        """The parts of a body, and how many bytes of them are its JSON."""
        images = int(call.inputs.get("IMAGES", 1))
        width, height = (int(call.inputs.get(name, SIDE)) for name in ("WIDTH", "HEIGHT"))
        used = [{"weight": 1.0, **one, "digest": self.digest(one)} for one in call.adapters]
        seed = int(call.inputs.get("SEED", 0))
        info = {
            "seeds": [seed + index for index in range(images)],
            "adapters": used,
            "base": "sha256:" + "ba" * 32,
            "backend": "painted",
            "engine_digest": "sha256:" + "e0" * 32,
            "warnings": [],
            "timings": {"total": 0.001},
        }
        made: dict[str, tuple[str, list[int], Any]] = {
            "IMAGE": ("UINT8", [images, height, width, 3], None),
            "INFO": ("BYTES", [1], json.dumps(info, ensure_ascii=False).encode()),
        }
        parameters = call.head.get("parameters", {})
        asked = call.head.get("outputs") or [{"name": name} for name in made]
        binary = {
            one["name"]: one.get("parameters", {}).get(
                "binary_data", parameters.get("binary_data_output", False)
            )
            for one in asked
        }
        outputs: list[dict[str, Any]] = []
        sections: list[Any] = []
        for name in self.order:
            if name not in binary:
                continue
            datatype, shape, data = made[name]
            output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
            pixels = self.paint(tuple(shape)) if name == "IMAGE" else None
            if binary[name]:
                section = (
                    memoryview(pixels).cast("B")
                    if pixels is not None
                    else len(data).to_bytes(4, "little") + data
                )
                output["parameters"] = {"binary_data_size": len(section)}
                sections.append(section)
            else:
                output["data"] = [data.decode()] if pixels is None else pixels.reshape(-1).tolist()
            outputs.append(output)
        head = {"model_name": "atelier", "model_version": "1", "outputs": outputs}
        if "id" in call.head:
            head["id"] = call.head["id"]
        text = json.dumps(head, separators=(",", ":")).encode()
        return [text, *sections], len(text)


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


def _handler(server: V2HttpServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Whether it lives."""
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            call = _read(body, self.headers[HEADER_LENGTH], dict(self.headers))
            server.calls.append(call)
            server.on_call(call)
            parts, length = server.answer(call)
            self.send_response(200)
            binary = len(parts) > 1
            kind = "application/octet-stream" if binary else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(sum(len(part) for part in parts)))
            if binary:
                self.send_header(HEADER_LENGTH, str(length))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # the gateway has closed it
                self._send(parts)

        def _send(self, parts: list[Any]) -> None:
            if server.breaks_after is not None:
                self.wfile.write(b"".join(parts)[: server.breaks_after])
                self.close_connection = True
                return
            *first, last = parts
            for part in (*first, last[: len(last) // 2]):
                self.wfile.write(part)
            self.wfile.flush()
            server.half_way()
            self.wfile.write(last[len(last) // 2 :])

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _read(body: bytes, length: str | None, headers: dict[str, str]) -> HttpCall:
    size = len(body) if length is None else int(length)
    head, data = json.loads(body[:size]), body[size:]
    kinds = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32}
    inputs: dict[str, Any] = {}
    for one in head["inputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        if size is None:
            (inputs[one["name"]],) = one["data"]
            continue
        raw, data = data[:size], data[size:]
        inputs[one["name"]] = (
            raw[4:].decode()
            if one["datatype"] == "BYTES"
            else np.frombuffer(raw, kinds[one["datatype"]])[0].item()
        )
    return HttpCall(head, inputs, headers)
