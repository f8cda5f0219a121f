"""The answer to a V2 infer call: its INFO read first, its pictures passed on as they come.

The engine is asked for binary tensors, INFO before IMAGE, whatever the client asked for. So the
weights that were used are known before the first pixel is passed on, and a picture is never held
whole: in the client's own form, JSON or binary, it is written from the bytes as they come.

The binary tensor extension: https://github.com/kserve/open-inference-protocol (V2, binary data).
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from atelier.contract.info import Info
from services.gateway.replicas import V2Stream
from services.gateway.triton_client import EngineFailed

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
IMAGE, INFO = "IMAGE", "INFO"
_HEAD_BYTES, _INFO_BYTES = 2**16, 2**20  # at most, of what is read at once
# Every value as JSON, of one width so that lengths are known before the pixels are:  7, 12,255,
_NUMBERS = np.array([f"{value:3d},".encode() for value in range(256)], dtype="S4")


@dataclass(frozen=True)
class Outputs:
    """Which outputs a client asked for, and whether each as binary data; None: not at all."""

    info: bool | None
    image: bool | None

    def for_engine(self) -> list[dict[str, Any]]:
        """The list of outputs to ask the engine for."""
        names = [INFO] if self.image is None else [INFO, IMAGE]
        return [{"name": name, "parameters": {"binary_data": True}} for name in names]


@dataclass(frozen=True)
class EngineAnswer:
    """What came before the pictures; `stream` has the pixels still to be read."""

    head: Mapping[str, Any]  # without outputs
    info: Info
    info_text: bytes
    shape: tuple[int, int, int, int] | None  # of IMAGE; None where it was not asked for
    stream: V2Stream

    @property
    def size(self) -> int:
        """Bytes of all pixels."""
        return math.prod(self.shape or (0,))


async def read_answer(stream: V2Stream, outputs: Outputs) -> EngineAnswer:
    """Read everything up to the pixels; EngineFailed where it has another form than asked for."""
    try:
        length = _within(int(stream.headers.get(HEADER_LENGTH, "")), _HEAD_BYTES)
        head = json.loads(await stream.exactly(length))
        listed = head.pop("outputs")
        names = [one["name"] for one in listed]
        if names != [one["name"] for one in outputs.for_engine()]:
            raise ValueError(f"its outputs are {names}")
        size = _within(listed[0]["parameters"]["binary_data_size"], _INFO_BYTES)
        raw = await stream.exactly(size)
        if int.from_bytes(raw[:4], "little") != size - 4:
            raise ValueError("INFO is not one string")
        info = Info.model_validate_json(raw[4:])
        shape = _shape(listed[1]) if outputs.image is not None else None
        if shape is not None and len(info.seeds) != shape[0]:
            raise ValueError(f"{shape[0]} pictures and {len(info.seeds)} seeds")
    except (ValueError, TypeError, LookupError, ValidationError) as error:
        raise EngineFailed(f"Triton answered a V2 call in another form: {error}") from error
    return EngineAnswer(head, info, raw[4:], shape, stream)


@dataclass(frozen=True)
class ClientAnswer:
    """An answer in the form that a client asked for: headers, and a body to be sent in pieces."""

    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


def written(answer: EngineAnswer, outputs: Outputs) -> ClientAnswer:
    """The answer with just the outputs that were asked for, INFO before IMAGE."""
    listed, info_section = [], b""
    if outputs.info is not None:
        one: dict[str, Any] = {"name": INFO, "datatype": "BYTES", "shape": [1]}
        if outputs.info:
            info_section = len(answer.info_text).to_bytes(4, "little") + answer.info_text
            one["parameters"] = {"binary_data_size": len(info_section)}
        else:
            one["data"] = [answer.info_text.decode()]
        listed.append(one)
    pixels = 0
    if outputs.image is not None:
        one = {"name": IMAGE, "datatype": "UINT8", "shape": list(answer.shape or ())}
        if outputs.image:
            one["parameters"] = {"binary_data_size": answer.size}
            pixels = answer.size
        else:
            one["data"] = []
            pixels = max(0, _NUMBERS.itemsize * answer.size - 1)
        listed.append(one)
    text = json.dumps({**answer.head, "outputs": listed}).encode()
    end = b"]}]}" if outputs.image is False else b""  # the values go before it
    text = text.removesuffix(end)
    length = len(text) + len(end) + (0 if outputs.image else pixels)
    binary = bool(outputs.info or outputs.image)
    headers = {
        "Content-Type": "application/octet-stream" if binary else "application/json",
        "Content-Length": str(len(text) + len(end) + len(info_section) + pixels),
        **({HEADER_LENGTH: str(length)} if binary else {}),
    }

    async def body() -> AsyncIterator[bytes]:
        yield text
        if outputs.image is False:
            async for piece in _numbers(_pixels(answer)):
                yield piece
        yield end + info_section
        if outputs.image:
            async for piece in _pixels(answer):
                yield piece

    return ClientAnswer(headers, body())


async def _pixels(answer: EngineAnswer) -> AsyncIterator[bytes]:
    """The raw values; EngineFailed where there are more or fewer than the shape says."""
    left = answer.size
    async for piece in answer.stream.pieces():
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left != 0:
        raise EngineFailed(f"Triton's IMAGE ends {left} bytes too early")


async def _numbers(pixels: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The values as JSON, without the comma after the last."""
    last = b""
    async for piece in pixels:
        yield last
        last = _NUMBERS[np.frombuffer(piece, np.uint8)].tobytes()
    yield last[:-1]


def _shape(output: Mapping[str, Any]) -> tuple[int, int, int, int]:
    images, height, width, channels = (int(side) for side in output["shape"])
    size = output["parameters"]["binary_data_size"]
    if output["datatype"] != "UINT8" or channels != 3 or size != images * height * width * 3:
        raise ValueError(f"IMAGE is {output['datatype']} {output['shape']} of {size} bytes")
    return images, height, width, channels


def _within(size: int, limit: int) -> int:
    if not 0 < size <= limit:
        raise ValueError(f"{size} bytes where at most {limit} are taken")
    return size
